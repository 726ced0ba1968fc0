public import DrayRuntime

/// The fabric of a simulation: one network that all simulated processes share.
///
/// Messages travel in virtual time, each with a latency of its own, so nothing is ordered. The
/// rules are those of the strictest real provider: local buffers must lie in memory registered
/// with the endpoint and stay as they are until the completion; remote addresses are virtual;
/// keys are the provider's choice; a message that finds no posted receive stops what follows it
/// on its connection; one that is larger than its receive breaks the connection.
///
/// Addresses are `sim://NAME`; `sim` alone makes a new name. All faults are drawn from the seed
/// of the simulation, and all bytes that travel are part of its event hash.
public final class SimulatedFabric: Fabric {
    private let network: SimulationConfined<SimulatedNetwork>

    public init(simulation: Simulation, faults: FabricFaults = .none) {
        network = SimulationConfined(
            SimulatedNetwork(simulation: simulation, faults: faults), to: simulation)
    }

    /// Opens an endpoint of the xstream's process. The address of a process that was killed, and
    /// of an endpoint that was closed, is free again.
    public func makeEndpoint(
        _ address: String, on xstream: XStream
    ) throws(FabricError) -> Endpoint {
        let (provider, body) = try FabricAddress.split(address)
        guard provider == "sim", body.isEmpty || FabricAddress.isName(body.utf8) else {
            throw .badAddress("\(FabricAddress.quoted(address)): expected sim://NAME, or sim")
        }
        return try network.value.open(name: body.isEmpty ? nil : String(body), on: xstream)
    }

    /// The one network of the simulation.
    public func interfaces(
        provider: Set<String>, on xstream: XStream
    ) throws(FabricError) -> [FabricInterface] {
        guard provider.isEmpty || provider.contains("sim") else { return [] }
        return [
            FabricInterface(
                provider: "sim", libfabricProvider: nil, domain: "", fabric: "simulation",
                interface: nil, host: nil, messageSizeMax: nil, canWait: true,
                hasRemoteMemory: true, isReliableDatagram: true, problem: nil)
        ]
    }

    /// What goes wrong from now on.
    public var faults: FabricFaults {
        get { network.value.faults }
        set { network.value.faults = newValue }
    }

    /// What has gone wrong so far.
    public var counts: FabricFaultCounts { network.value.counts }

    /// Stops everything between the nodes of `a` and those of `b`, in both directions, until
    /// `heal`. Nodes are the numbers given to `Simulation.world(node:)`.
    public func partition(_ a: Set<Int>, _ b: Set<Int>) {
        network.value.block(from: a, to: b)
        network.value.block(from: b, to: a)
    }

    /// Stops everything from the nodes of `a` to those of `b`, and not the other way.
    public func partitionOneWay(from a: Set<Int>, to b: Set<Int>) {
        network.value.block(from: a, to: b)
    }

    /// Ends all partitions.
    public func heal() {
        network.value.unblock()
    }

    /// Breaks every connection between two nodes: what is under way between them vanishes.
    public func breakConnections(_ a: Int, _ b: Int) {
        network.value.breakConnections(between: a, and: b)
    }
}
