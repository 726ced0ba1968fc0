internal import DrayRuntime

/// What the endpoints of a simulation share: names, connections, partitions, faults.
final class SimulatedNetwork {
    let simulation: Simulation
    var faults: FabricFaults
    var counts = FabricFaultCounts()
    var entropy: Entropy

    /// Who has a name. Looked up, never iterated.
    private var endpoints: [String: SimulatedEndpoint] = [:]
    private var links: [LinkEnds: SimulatedLink] = [:]
    /// All of `links` in the order they were made.
    private var linkOrder: [SimulatedLink] = []
    private var blocks: [(from: Set<Int>, to: Set<Int>)] = []
    private var endpointCount = 0

    private struct LinkEnds: Hashable {
        let first: Int
        let second: Int
    }

    init(simulation: Simulation, faults: FabricFaults) {
        self.simulation = simulation
        self.faults = faults
        entropy = simulation.entropy.fork("fabric")
    }

    func open(name: String?, on xstream: XStream) throws(FabricError) -> SimulatedEndpoint {
        precondition(xstream.simulation === simulation, "an xstream of another simulation")
        endpointCount += 1
        let name = name ?? "node-\(xstream.node >> 16)-\(endpointCount)"
        if let holder = endpoints[name], holder.isAlive {
            throw .addressInUse("sim://\(name): an endpoint of node \(holder.node) has that name")
        }
        let endpoint = SimulatedEndpoint(
            network: self, name: name, identity: endpointCount, xstream: xstream)
        endpoints[name] = endpoint
        simulation.record("endpoint", UInt64(endpointCount))
        return endpoint
    }

    /// The endpoint that has `name` now.
    func holder(of name: String) -> SimulatedEndpoint? {
        guard let endpoint = endpoints[name], endpoint.isAlive else { return nil }
        return endpoint
    }

    /// The node where `name` is, or was last.
    func node(of name: String) -> Int? { endpoints[name]?.node }

    /// The connection between two endpoints, whoever opened it.
    func link(_ a: SimulatedEndpoint, _ b: SimulatedEndpoint) -> SimulatedLink {
        let ends = LinkEnds(
            first: min(a.identity, b.identity), second: max(a.identity, b.identity))
        if let link = links[ends] { return link }
        let link = SimulatedLink(network: self, a, b)
        links[ends] = link
        linkOrder.append(link)
        return link
    }

    // MARK: - Partitions

    func block(from: Set<Int>, to: Set<Int>) {
        blocks.append((from, to))
        simulation.record("partition", UInt64(blocks.count))
    }

    func unblock() {
        blocks = []
        simulation.record("heal", 0)
    }

    func isBlocked(from: Int, to: Int) -> Bool {
        blocks.contains { $0.from.contains(from) && $0.to.contains(to) }
    }

    func breakConnections(between a: Int, and b: Int) {
        for link in linkOrder where link.connects(a, b) { link.breakDown() }
    }

    // MARK: - Chance

    func happens(_ rate: UInt64) -> Bool {
        rate > 0 && entropy.chance(rate, in: FabricFaults.unit)
    }

    func latency() -> Duration {
        if happens(faults.slowRate) {
            counts.slowMessages += 1
            return between(faults.latency.upperBound, faults.slowLatencyMax)
        }
        return between(faults.latency.lowerBound, faults.latency.upperBound)
    }

    func between(_ low: Duration, _ high: Duration) -> Duration {
        let (start, end) = (low.nanosecondsClamped, high.nanosecondsClamped)
        guard end > start else { return low }
        return .nanoseconds(Int64(clamping: start + entropy.below(end - start)))
    }

    func after(_ delay: Duration, _ body: @escaping () -> Void) {
        simulation.schedule(at: simulation.now + delay, body)
    }
}
