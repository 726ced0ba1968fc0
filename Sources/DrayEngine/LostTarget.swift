internal import BIO
internal import CaRT
internal import DrayProtocol
internal import DrayRuntime

/// A target whose device was missing when the engine was started: answers every request with that,
/// so that nobody waits for it. Confined to its xstream.
final class LostTarget {
    let index: Int
    private let configuration: EngineConfiguration
    private let world: World
    private let clock: HybridLogicalClock
    private let xstream: XStream
    /// Why it is out of service.
    private let error: RPCError
    private var publisher: StoragePublisher
    private var contexts: EngineContexts?

    init(
        index: Int, _ configuration: EngineConfiguration, path: String, _ problem: BIOError,
        world: World, clock: HybridLogicalClock, xstream: XStream
    ) {
        self.index = index
        self.configuration = configuration
        self.world = world
        self.clock = clock
        self.xstream = xstream
        error = .service(
            .unavailable,
            "target \(configuration.rank).\(index) is out of service: "
                + DeviceProblem.describe(problem))
        publisher = StoragePublisher(
            data: path, world: world, rank: configuration.rank, target: "\(index)")
    }

    /// Opens the contexts. From here on requests are answered.
    func serve() throws(EngineError) {
        let contexts = try EngineContexts(
            configuration, tag: UInt32(index) + 1, world: world, clock: clock, xstream: xstream)
        for context in contexts.all {
            refuse(ObjectProtocol.update, on: context)
            refuse(ObjectProtocol.fetch, on: context)
            refuse(ObjectProtocol.enumerate, on: context)
            refuse(ObjectProtocol.validate, on: context)
            refuse(ObjectProtocol.inspect, on: context)
            refuse(ObjectProtocol.listObjects, on: context)
        }
        refuse(TransactionProtocol.prepare, on: contexts.primary)
        refuse(TransactionProtocol.decide, on: contexts.primary)
        refuse(TransactionProtocol.query, on: contexts.primary)
        refuse(TransactionProtocol.forward, on: contexts.primary)
        self.contexts = contexts
    }

    private func refuse<Q, R>(_ procedure: Procedure<Q, R>, on context: Context) {
        context.registerSynchronous(procedure) { [error] (_, _) throws(RPCError) -> R in
            throw error
        }
    }

    /// Brings what is to be said of the target to the world's factory.
    func publishMetrics() {
        contexts?.publishMetrics()
        publisher.publishLoss()
    }

    func stop() async {
        await contexts?.close()
        contexts = nil
    }
}
