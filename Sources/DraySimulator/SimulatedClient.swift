internal import Dray
internal import DrayRuntime

/// One client of a simulated cluster: a process that is killed and started again, and what it
/// knows, which outlives it.
final class SimulatedClient {
    let index: Int
    /// How long it waits for an answer. Some clients give up early, and their requests are on
    /// their way still.
    let timeout: Duration
    private(set) var incarnation = 0
    private(set) var cluster: Cluster?
    /// What the living process does, or the last one did.
    private(set) var workload: Workload?
    private(set) var isAlive = false
    /// The workload has come to its end.
    private(set) var isDone = false

    private static let timeouts: [Duration] = [.seconds(2), .milliseconds(400), .milliseconds(100)]

    init(index: Int) {
        self.index = index
        timeout = SimulatedClient.timeouts[index % SimulatedClient.timeouts.count]
    }

    var node: Int { ClusterSimulation.clientNodeFirst + index }

    /// Starts a process, which works until the run's work is over.
    func start(in simulation: ClusterSimulation) {
        precondition(!isAlive)
        isAlive = true
        incarnation += 1
        let current = incarnation
        let world = simulation.world(node: node, incarnation: current)
        let description = simulation.description(timeout: timeout)
        world.makeXStream(name: "client-\(index)").simulate { [self] in
            do throws(DrayError) {
                let cluster = try await Cluster.connect(
                    to: description, world: world, timeout: .seconds(30))
                let container = try await openContainer(of: cluster)
                self.cluster = cluster
                // On the client's own xstream: no detour between its tasks and its calls.
                cluster.xstream.simulate { [self] in
                    let workload = simulation.makeWorkload(
                        for: self, container: container, xstream: cluster.xstream, world: world)
                    if let before = self.workload { workload.takeOver(before) }
                    self.workload = workload
                    let isOver = { simulation.isWorkOver }
                    workload.run(lanes: simulation.options.laneCount, until: isOver) {
                        self.isDone = true
                    }
                }
            } catch {
                simulation.violation(.error, "client \(index): \(error)")
                isDone = true
            }
        }
    }

    /// Clients that wait for short times only find nobody while engines are away.
    private func openContainer(of cluster: Cluster) async throws(DrayError) -> Container {
        let end = cluster.xstream.now + .seconds(30)
        while true {
            do throws(DrayError) {
                return try await cluster.pool("tank").container("data")
            } catch {
                guard cluster.xstream.now < end else { throw error }
            }
        }
    }

    /// Ends the process as SIGKILL does.
    func kill(in simulation: ClusterSimulation) {
        guard isAlive else { return }
        isAlive = false
        cluster = nil
        simulation.simulation.kill(node: node, incarnation: incarnation)
        workload?.die()
    }

    /// Cancels what one of its lanes does.
    func cancel(lane: Int) {
        guard isAlive, let cluster, let workload else { return }
        cluster.xstream.simulate { workload.cancel(lane: lane) }
    }
}
