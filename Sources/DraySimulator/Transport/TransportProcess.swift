internal import CaRT
internal import DrayFabric
internal import DrayRuntime

/// A simulated process with contexts that call those of others; it is killed and started again
/// at the same addresses.
final class TransportProcess {
    /// Its node, and its rank if it has one.
    let node: Int
    let rank: UInt32?
    let contextCount: Int
    private(set) var incarnation = -1
    private(set) var isAlive = false
    /// What each context does, by tag. Nil until it has opened.
    private(set) var workloads: [TransportWorkload?] = []
    private var xstreams: [XStream] = []

    init(node: Int, rank: UInt32?, contextCount: Int) {
        self.node = node
        self.rank = rank
        self.contextCount = contextCount
    }

    func address(_ tag: Int) -> String { "sim://transport-\(node)-\(tag)" }

    var targets: [TransportTarget] {
        (0..<contextCount).map {
            TransportTarget(
                rank: rank, tag: UInt32($0),
                address: FabricAddress(
                    provider: "sim", bytes: Array("transport-\(node)-\($0)".utf8)))
        }
    }

    /// Whether all its contexts have opened.
    var isOpen: Bool { isAlive && workloads.allSatisfy { $0 != nil } }

    var openWorkloads: [TransportWorkload] { isAlive ? workloads.compactMap(\.self) : [] }

    /// Starts a new life.
    func start(in simulation: TransportSimulation) {
        precondition(!isAlive)
        isAlive = true
        incarnation += 1
        let world = simulation.world(node: node, incarnation: incarnation)
        workloads = Array(repeating: nil, count: contextCount)
        // Contexts of a process may share an xstream.
        let streams = (0..<2).map { world.makeXStream(name: "transport-\(node)-\($0)") }
        xstreams = (0..<contextCount).map { streams[$0 % 2] }
        for tag in 0..<contextCount { open(tag, world, in: simulation) }
    }

    private func open(_ tag: Int, _ world: World, in simulation: TransportSimulation) {
        let xstream = xstreams[tag]
        let current = incarnation
        xstream.simulate { [self] in
            do throws(RPCError) {
                let context = try Context(
                    world: world, xstream: xstream, address: address(tag),
                    options: simulation.contextOptions(for: self, tag: tag, world))
                simulation.tell(context)
                TransportService(ledger: simulation.ledger).register(on: context)
                let workload = simulation.makeWorkload(context, name: "\(node) \(current) \(tag)")
                workloads[tag] = workload
                if !simulation.isWorkOver { workload.start(lanes: simulation.plan.laneCount) }
            } catch {
                simulation.ledger.violation("\(address(tag)) cannot be opened: \(error)")
            }
        }
    }

    /// Ends it as SIGKILL does.
    func kill(in simulation: TransportSimulation) {
        guard isAlive else { return }
        isAlive = false
        simulation.simulation.kill(node: node, incarnation: incarnation)
        workloads = []
    }

    /// Closes a context, whatever it is doing, and opens another one at the same address.
    func reopen(_ tag: Int, in simulation: TransportSimulation) {
        guard isAlive, let workload = workloads[tag] else { return }
        workloads[tag] = nil
        let world = simulation.world(node: node, incarnation: incarnation)
        let current = incarnation
        xstreams[tag].simulate { [self] in
            workload.stop()
            let begin = xstreams[tag].now
            await workload.context.close()
            let time = xstreams[tag].now.since(begin)
            if time > TransportSimulation.closeMax {
                simulation.ledger.violation("closing \(address(tag)) took \(time)")
            }
            // What was under way has ended with it.
            await xstreams[tag].sleep(for: .milliseconds(20))
            if workload.openCount > 0 {
                simulation.ledger.violation(
                    "\(address(tag)) is closed, and calls go on: \(workload.openCalls)")
            }
            if incarnation == current { open(tag, world, in: simulation) }
        }
    }
}
