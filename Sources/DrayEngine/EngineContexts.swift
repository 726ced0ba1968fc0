internal import CaRT
internal import DrayFabric
internal import DrayProtocol
internal import DrayRuntime

/// The contexts of one tag of an engine, one for each of its networks.
///
/// Engines call each other over the first network. Clients may use any, and name memory that is
/// reached over it. (DAOS: primary and secondary providers)
///
/// Each has a group of its own: the same ranks, with their addresses on that network, so that
/// whoever attaches there learns what it can use.
struct EngineContexts {
    /// By network; never empty.
    let all: [Context]

    var primary: Context { all[0] }

    /// Opens a context on each network that the engine has.
    ///
    /// - Throws: the error of the first that cannot be opened.
    init(
        _ configuration: EngineConfiguration, tag: UInt32, world: World,
        clock: HybridLogicalClock, xstream: XStream
    ) throws(EngineError) {
        var contexts: [Context] = []
        for network in 0..<(configuration.record?.networks.count ?? 1) {
            contexts.append(
                try openContext(
                    configuration, tag: tag, network: network, world: world, clock: clock,
                    xstream: xstream))
        }
        all = contexts
    }

    /// The network of a context.
    func network(of context: Context) -> Int { all.firstIndex { $0 === context } ?? 0 }

    /// The context on a network; the first one where there is none.
    func context(network: Int) -> Context { all.indices.contains(network) ? all[network] : all[0] }

    /// Whether a context is one of these, in this life of the engine.
    func contains(instance: UInt64) -> Bool { all.contains { $0.instance == instance } }

    func evict(rank: UInt32) {
        for context in all { context.evict(rank: rank) }
    }

    /// Brings the metrics of every context to the world's factory. Two of one provider are told
    /// apart by the network.
    func publishMetrics() {
        for (network, context) in all.enumerated() {
            context.publishMetrics(labels: network == 0 ? [] : [("network", "\(network)")])
        }
    }

    func close() async {
        for context in all { await context.close() }
    }
}
