internal import CaRT
internal import DrayProtocol
internal import DrayRuntime
internal import Logging
internal import VOS

/// Making snapshots of containers. A snapshot is what the metadata names; before they do, every
/// target holds its epoch. What is held and will not be named is given up.
extension SystemService {
    /// How long the targets may take to hold an epoch, and to decide what was under way.
    private static let holdTimeout: Duration = .seconds(4)
    /// The pause between attempts to give up what nobody needs.
    private static let releasePause: Duration = .seconds(5)

    func registerSnapshots(on context: Context) {
        context.register(MetadataProtocol.hold) {
            (request, call) async throws(RPCError) -> EmptyMessage in
            try await self.hold(request, call)
        }
        context.register(MetadataProtocol.release) {
            (request, _) async throws(RPCError) -> EmptyMessage in
            try await self.onTargets { (target) async throws(VOSError) in
                try await target.release(request)
            }
            return EmptyMessage()
        }
    }

    // MARK: - Coordinator

    /// Makes a snapshot on all engines. `change.epoch` is chosen here: later than everything that
    /// was acknowledged before, and before everything that begins when it is made.
    func createSnapshot(_ change: MetadataChange) async throws(RPCError) -> ClusterMetadata {
        var change = change
        let known = try await readAll()
        change.epoch = clock.now()
        var planned = known
        do throws(ClusterMetadata.Refusal) {
            try planned.apply(change, map: poolMap, capacity: 0, secret: [])
        } catch {
            throw .service(error.code, error.message)
        }
        let snapshot = SnapshotReference(
            pool: change.pool, container: change.container, epoch: change.epoch)
        let bound = change.epoch + TargetService.holdWindow
        // A resend finds it made. It is not made again if it is destroyed meanwhile.
        guard planned != known else { return try await agree(on: nil) }
        try await holdEverywhere(snapshot)
        do throws(RPCError) {
            let metadata = try await agree(on: change, until: bound)
            // Another request for the same snapshot may have been faster.
            if !metadata.names(snapshot) { await releaseEverywhere(snapshot) }
            return metadata
        } catch {
            // A refusal is founded on what all engines have: none of them will ever name it. Where
            // one did not answer, or could not store it, others may.
            let unknown = [ServiceCode.unavailable, .device].map(\.rawValue)
            if case .application(let code, _) = error, !unknown.contains(code) {
                await releaseEverywhere(snapshot)
            }
            throw error
        }
    }

    /// The newest metadata, of all engines, ahead of whose clocks ours is then.
    private func readAll() async throws(RPCError) -> ClusterMetadata {
        var newest = MetadataPrepareReply()
        let replies = await ask(MetadataProtocol.prepare, MetadataPrepareRequest())
        for (engine, reply) in zip(configuration.engines, replies) {
            guard case .success(let reply) = reply else {
                throw notTaken("engine \(engine.rank) does not answer")
            }
            // A reply of somebody whose clock is far ahead is taken, and its stamp is not. But what
            // was acknowledged there belongs to the snapshot.
            guard clock.observe(reply.stamp) else {
                throw notTaken("the clock of engine \(engine.rank) is too far ahead")
            }
            if reply.accepted > newest.accepted { newest = reply }
        }
        return newest.metadata
    }

    private func holdEverywhere(_ snapshot: SnapshotReference) async throws(RPCError) {
        let answers = await ask(
            MetadataProtocol.hold, snapshot, timeout: SystemService.holdTimeout)
        for (engine, answer) in zip(configuration.engines, answers) {
            guard case .failure(let error) = answer else { continue }
            await releaseEverywhere(snapshot)
            switch error {
            case .application(let code, let message):
                let isPassing =
                    code == ServiceCode.undecided.rawValue || code == ServiceCode.tooOld.rawValue
                throw .service(
                    isPassing ? .busy : ServiceCode(rawValue: code) ?? .unavailable,
                    "engine \(engine.rank): \(message)")
            case .unreachable, .timedOut, .peerRestarted:
                throw notTaken("engine \(engine.rank) does not answer")
            default: throw notTaken("engine \(engine.rank): \(error)")
            }
        }
    }

    private func notTaken(_ why: String) -> RPCError {
        .service(
            .aborted, "\(why), and a snapshot is taken by all engines: nothing was done")
    }

    private func releaseEverywhere(_ snapshot: SnapshotReference) async {
        _ = await ask(MetadataProtocol.release, snapshot)
    }

    // MARK: - This engine's targets

    private func hold(
        _ snapshot: SnapshotReference, _ call: RequestContext
    ) async throws(RPCError) -> EmptyMessage {
        guard lostTargets.isEmpty else {
            throw .service(
                .unavailable, "a target is out of service, and a snapshot is taken by all of them")
        }
        guard clock.observe(snapshot.epoch) else { throw .clockSkew }
        let wall = world.clock.wallNanoseconds
        let left = call.deadline > wall ? call.deadline - wall : 0
        // So that the answer comes before the deadline.
        let wait = Duration.nanoseconds(Int64(clamping: left - left / 8))
        xstream.spawn { await self.releaseLater() }
        try await onTargets { (target) async throws(VOSError) in
            try await target.hold(snapshot, until: target.xstream.now + wait)
        }
        return EmptyMessage()
    }

    /// Runs `body` on every target at once. Throws the first error.
    private func onTargets(
        _ body: @escaping @Sendable (TargetService) async throws(VOSError) -> Void
    ) async throws(RPCError) {
        let gather = Gather<VOSError?>(count: targets.count)
        for (index, target) in targets.enumerated() {
            xstream.spawn {
                do throws(VOSError) {
                    try await target.xstream.run { () async throws(VOSError) in
                        try await body(target.value)
                    }
                    gather.finish(index, with: nil)
                } catch {
                    gather.finish(index, with: error)
                }
            }
        }
        for case .some(let error) in await gather.results() { throw RPCError(error) }
    }

    /// Some time after targets have held something, or were started: gives up what the metadata do
    /// not name and never will. Newer metadata than could name it are the proof; where there are
    /// none, what is there is agreed on once more.
    func releaseLater() async {
        isReleaseWanted = true
        guard !isReleasing else { return }
        isReleasing = true
        defer { isReleasing = false }
        while isReleaseWanted {
            isReleaseWanted = false
            await xstream.sleep(for: .nanoseconds(Int64(TargetService.holdWindow)))
            await releaseUnnamed()
        }
    }

    private func releaseUnnamed() async {
        while contexts != nil {
            var oldest: UInt64?
            for target in targets {
                guard contexts != nil else { return }
                let epochs = await target.xstream.run {
                    target.value.unnamedSnapshots.map(\.epoch)
                }
                for epoch in epochs { oldest = min(oldest ?? epoch, epoch) }
            }
            guard let oldest, contexts != nil else { return }
            if clock.now() > oldest + TargetService.holdWindow {
                do throws(RPCError) {
                    _ = try await agree(on: nil)
                } catch {
                    log.info("what is held for a snapshot cannot be given up yet: \(error)")
                }
            }
            await xstream.sleep(for: SystemService.releasePause)
        }
    }
}

extension ClusterMetadata {
    /// Whether a container has a snapshot of this epoch.
    func names(_ snapshot: SnapshotReference) -> Bool {
        snapshots.contains {
            $0.container == snapshot.container && $0.epoch == snapshot.epoch
        }
    }
}
