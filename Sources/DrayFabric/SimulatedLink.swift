internal import DequeModule
internal import DrayRuntime

/// A connection between two endpoints of a simulation. It is there as soon as something is sent
/// and comes back by itself after it broke, as a new generation.
final class SimulatedLink {
    private unowned let network: SimulatedNetwork
    private let a: SimulatedEndpoint
    private let b: SimulatedEndpoint

    /// What travels belongs to the generation it left in, and arrives only in that one.
    private(set) var generation: UInt64 = 0

    /// Operations that are under way and not reported, in the order they were posted.
    private var operations: [SimulatedOperation] = []

    /// What has arrived behind a message that found no posted receive, by receiving end.
    private var waitingAtA = Deque<SimulatedOperation>()
    private var waitingAtB = Deque<SimulatedOperation>()

    init(network: SimulatedNetwork, _ a: SimulatedEndpoint, _ b: SimulatedEndpoint) {
        self.network = network
        self.a = a
        self.b = b
    }

    func connects(_ first: Int, _ second: Int) -> Bool {
        (a.node == first && b.node == second) || (a.node == second && b.node == first)
    }

    func began(_ operation: SimulatedOperation) {
        operations.append(operation)
    }

    func ended(_ operation: SimulatedOperation) {
        operations.removeAll { $0 === operation }
    }

    /// Loses everything that is under way.
    func breakDown() {
        network.simulation.record("break", generation)
        network.counts.connectionsLost += 1
        generation += 1
        waitingAtA.removeAll()
        waitingAtB.removeAll()
        let lost = operations
        operations = []
        for operation in lost { operation.connectionBroke() }
    }

    // MARK: - Waiting for receives

    func isStalled(at endpoint: SimulatedEndpoint) -> Bool {
        endpoint === a ? !waitingAtA.isEmpty : !waitingAtB.isEmpty
    }

    func wait(_ operation: SimulatedOperation, at endpoint: SimulatedEndpoint) {
        if endpoint === a { waitingAtA.append(operation) } else { waitingAtB.append(operation) }
    }

    /// The operation that has waited longest at `endpoint`, taken out.
    func takeWaiting(at endpoint: SimulatedEndpoint) -> SimulatedOperation? {
        endpoint === a ? waitingAtA.popFirst() : waitingAtB.popFirst()
    }

    /// Puts back what `takeWaiting` gave.
    func putBack(_ operation: SimulatedOperation, at endpoint: SimulatedEndpoint) {
        if endpoint === a { waitingAtA.prepend(operation) } else { waitingAtB.prepend(operation) }
    }
}
