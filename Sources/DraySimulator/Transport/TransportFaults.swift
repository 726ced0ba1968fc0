internal import CaRT
internal import DrayFabric
internal import DrayRuntime

/// What may go wrong in a simulation of the transport.
public enum TransportFault: String, CaseIterable, Sendable {
    /// A process is killed and starts again at the same addresses; the others may be told.
    case kill
    /// Some processes cannot reach others, in one direction or both.
    case partition
    /// The network delays, loses, refuses and misdelivers for a while.
    case network
    /// The connections of a process break.
    case connections
    /// A process stands still for a while; the others may take it for dead.
    case pause
    /// A context closes under load, and another one opens at its address.
    case close
    /// A context aborts all its calls.
    case abort

    /// How often it is drawn, beside the others.
    var weight: UInt64 {
        switch self {
        case .kill, .partition: 4
        case .network, .connections, .pause: 3
        case .close, .abort: 2
        }
    }
}

/// Injects faults at random moments. Every one ends by itself after a while.
final class TransportFaults {
    private unowned let simulation: TransportSimulation
    private var entropy: Entropy
    private var isStopped = false
    private(set) var count = 0
    private(set) var kills = 0

    init(_ simulation: TransportSimulation) {
        self.simulation = simulation
        entropy = simulation.simulation.entropy.fork("faults")
    }

    func start() { scheduleNext() }

    func stop() { isStopped = true }

    private func after(_ milliseconds: UInt64, _ body: @escaping () -> Void) {
        let time = simulation.simulation.now + .milliseconds(Int64(milliseconds))
        simulation.simulation.schedule(at: time) { [self] in
            if !isStopped { body() }
        }
    }

    private func scheduleNext() {
        after(20 + entropy.below(200)) { [self] in
            inject()
            scheduleNext()
        }
    }

    private func inject() {
        let kinds = simulation.plan.faults
        var left = entropy.below(max(1, kinds.reduce(0) { $0 + $1.weight }))
        for kind in kinds {
            if left < kind.weight { return inject(kind) }
            left -= kind.weight
        }
    }

    private func inject(_ kind: TransportFault) {
        let processes = simulation.processes
        let process = processes[Int(entropy.below(UInt64(processes.count)))]
        count += 1
        simulation.simulation.record("fault", UInt64(count))
        switch kind {
        case .kill: kill(process)
        case .partition: partition()
        case .network:
            say("the network is bad")
            simulation.fabric.faults = .harsh
            after(50 + entropy.below(1_000)) { [self] in
                simulation.fabric.faults = simulation.plan.baseFaults
            }
        case .connections:
            say("\(process.node) loses its connections")
            for other in processes where other.node != process.node {
                simulation.fabric.breakConnections(process.node, other.node)
            }
        case .pause: pause(process)
        case .close:
            guard process.isOpen else { return }
            let tag = Int(entropy.below(UInt64(process.contextCount)))
            say("context \(tag) of \(process.node) closes")
            process.reopen(tag, in: simulation)
        case .abort:
            guard let workload = process.openWorkloads.first else { return }
            say("\(process.node) aborts")
            workload.context.xstream.simulate { workload.abortAll() }
        }
    }

    private func kill(_ process: TransportProcess) {
        guard process.isAlive else { return }
        say("\(process.node) is killed")
        kills += 1
        process.kill(in: simulation)
        // Of half of the deaths nobody is told; they find out.
        if let rank = process.rank, entropy.chance(1, in: 2) {
            after(entropy.below(100)) { [self] in
                if !process.isAlive { simulation.evict(rank) }
            }
        }
        after(entropy.chance(1, in: 3) ? 0 : entropy.below(1_500)) { [self] in
            say("\(process.node) starts again")
            process.start(in: simulation)
            if entropy.chance(1, in: 2) { simulation.tellAll() }
        }
    }

    private func partition() {
        let nodes = simulation.processes.map(\.node)
        var inside = Set(nodes.filter { _ in entropy.chance(1, in: 2) })
        inside.insert(nodes[Int(entropy.below(UInt64(nodes.count)))])
        let outside = Set(nodes).subtracting(inside)
        let kind = entropy.below(3)
        say("\(inside.sorted()) are cut off from \(outside.sorted()), kind \(kind)")
        switch kind {
        case 0: simulation.fabric.partition(inside, outside)
        case 1: simulation.fabric.partitionOneWay(from: inside, to: outside)
        default: simulation.fabric.partitionOneWay(from: outside, to: inside)
        }
        // Some last longer than exposed memory is waited for.
        let time = entropy.chance(1, in: 6) ? 7_000 : entropy.below(1_500)
        after(20 + time) { [self] in simulation.fabric.heal() }
    }

    private func pause(_ process: TransportProcess) {
        guard process.isAlive else { return }
        let time = 20 + entropy.below(entropy.chance(1, in: 6) ? 8_000 : 1_500)
        say("\(process.node) pauses for \(time) ms")
        let (node, incarnation) = (process.node, process.incarnation)
        simulation.simulation.pause(node: node, incarnation: incarnation)
        // Some are taken for dead, and go on.
        if let rank = process.rank, entropy.chance(1, in: 3) {
            after(entropy.below(time)) { [self] in simulation.evict(rank) }
        }
        after(time) { [self] in
            simulation.simulation.resume(node: node, incarnation: incarnation)
        }
    }

    private func say(_ text: @autoclosure () -> String) {
        guard simulation.options.isVerbose else { return }
        print("  \(simulation.simulation.now.nanoseconds / 1_000_000) ms: \(text())")
    }
}
