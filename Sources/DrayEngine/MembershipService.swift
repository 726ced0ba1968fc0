internal import CaRT
internal import DrayProtocol
internal import DrayRuntime

/// Who is alive, as this engine sees it: SWIM on a context and an xstream of its own, so that an
/// engine whose requests are stalled is not taken for dead. Confined to its xstream.
final class MembershipService {
    private let context: Context
    private let swim: SwimService
    private let rank: UInt32

    /// Opens the context, under the tag after those of the targets, and begins.
    ///
    /// - Parameter onDeath: told of every rank that has died, on this xstream. It may not wait.
    init(
        _ configuration: EngineConfiguration, world: World, clock: HybridLogicalClock,
        xstream: XStream, onDeath: @escaping (UInt32) -> Void
    ) throws(EngineError) {
        rank = configuration.rank
        context = try openContext(
            configuration, tag: UInt32(configuration.targetCount) + 1, world: world, clock: clock,
            xstream: xstream
        ) { options in
            // Messages are small, and each engine sends and answers a few in a second.
            options.eagerLimit = 2048
            options.receiveCount = 64
            options.heldReceivesMax = 32
            // Pings to one that is stopped are in flight until it goes on.
            options.credits = 0
        }
        // The clock is ahead of all that this engine has ever stored.
        swim = SwimService(context: context, options: configuration.swim, incarnation: clock.now())
        swim.observe { event in
            switch event {
            case .changed(let member): if member.state == .dead { onDeath(member.rank) }
            case .excluded: break
            }
        }
        swim.start()
    }

    /// Every engine, this one included, as it seems from here.
    var members: [EngineMember] {
        let own = EngineMember(rank: rank, incarnation: swim.incarnation, state: .alive)
        let others = swim.members.map {
            EngineMember(rank: $0.rank, incarnation: $0.incarnation, state: $0.state)
        }
        return ([own] + others).sorted { $0.rank < $1.rank }
    }

    /// What its context holds now. For tests and simulations.
    var usage: ContextUsage { context.usage }

    /// Brings the metrics of its context to the world's factory.
    func publishMetrics() { context.publishMetrics() }

    func stop() async {
        swim.stop()
        await context.close()
    }
}
