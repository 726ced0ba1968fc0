import CaRT
import DrayPlacement
import DrayProtocol
import DrayRuntime
import Testing

/// Every message survives the way there and back, and no bytes crash its decoder.
@Suite struct MessageTests {
    private func fuzz<M: Message & Equatable>(_ message: M, seed: UInt64) throws {
        let bytes = message.encoded()
        #expect(try M(decoding: bytes) == message)
        var entropy = Entropy(seed: seed)
        for length in 0..<min(bytes.count, 300) {
            #expect(throws: DecodingFailure.self) { try M(decoding: Array(bytes[..<length])) }
        }
        for _ in 0..<1_000 {
            var mutated = bytes
            for _ in 0...entropy.below(4) where !mutated.isEmpty {
                let index = Int(entropy.below(UInt64(mutated.count)))
                mutated[index] = UInt8(truncatingIfNeeded: entropy.next())
            }
            if entropy.chance(1, in: 4) {
                mutated.removeLast(Int(entropy.below(UInt64(mutated.count))))
            }
            // Whatever comes out must encode again: it has only values that exist.
            if let decoded = try? M(decoding: mutated) { _ = decoded.encoded() }
            let noise = (0..<entropy.below(64)).map { _ in
                UInt8(truncatingIfNeeded: entropy.next())
            }
            if let decoded = try? M(decoding: noise) { _ = decoded.encoded() }
        }
    }

    @Test func objectMessages() throws {
        var operation = ObjectOperation()
        operation.kind = .updateArray
        operation.condition = .updateDkey
        operation.dkey = [0, 1, 255]
        operation.akey = []
        operation.offset = .max
        operation.length = 70_000
        operation.recordSize = 7
        operation.checksums = [1, 2, 3]
        var part = ObjectPart()
        part.target = ObjectTarget(
            pool: UniqueID(high: 1, low: 2), container: UniqueID(high: 3, low: 4),
            object: ObjectID(high: 5, low: 6), mapVersion: 7,
            capability: Capability(.readWrite, tag: .max - 5))
        part.operations = [operation, ObjectOperation()]
        part.reads = [ObjectRead(dkey: [1], instance: 2), ObjectRead(dkey: nil, instance: 3)]
        var update = ObjectUpdateRequest()
        update.transaction = UniqueID(high: 8, low: 9)
        update.isResend = true
        update.parts = [part, ObjectPart()]
        update.bulk = BulkDescriptor()
        try fuzz(update, seed: 1)
        var fetch = ObjectFetchRequest()
        fetch.kind = .array
        fetch.condition = .akeyExists
        fetch.dkey = [1]
        fetch.recordSize = .max
        try fuzz(fetch, seed: 2)
        var enumerate = ObjectEnumerateRequest()
        enumerate.after = [1, 2]
        try fuzz(enumerate, seed: 3)
        var page = ObjectEnumerateReply()
        page.keys = [[], [1], [2, 3]]
        page.more = true
        try fuzz(page, seed: 4)
        var updated = ObjectUpdateReply()
        updated.epoch = 7
        try fuzz(updated, seed: 8)
        var fetched = ObjectFetchReply()
        fetched.found = true
        fetched.size = 70_000
        fetched.recordSize = 24
        fetched.checksums = [4, 5, 6]
        try fuzz(fetched, seed: 9)
        var refused = ObjectFetchReply()
        refused.isRefused = true
        refused.snapshot = 5
        try fuzz(refused, seed: 35)
        try fuzz(operation, seed: 10)
        try fuzz(part.target, seed: 11)
        try fuzz(part, seed: 24)
    }

    @Test func transactionMessages() throws {
        let id = UniqueID(high: 8, low: 9)
        var part = PreparePart()
        part.part.operations = [ObjectOperation()]
        part.leads = true
        var prepare = PrepareRequest()
        prepare.transaction = id
        prepare.members = TransactionMembers([TargetAddress(rank: 1, target: 2)])
        prepare.parts = [part]
        prepare.bulk = BulkDescriptor()
        try fuzz(prepare, seed: 25)
        var batch = PrepareBatchRequest()
        batch.requests = [prepare, prepare]
        batch.committed = [id]
        try fuzz(batch, seed: 32)
        var outcome = PrepareOutcome()
        outcome.code = 3
        outcome.message = "why"
        var outcomes = PrepareBatchReply()
        outcomes.outcomes = [PrepareOutcome(), outcome]
        try fuzz(outcomes, seed: 33)
        try fuzz(prepare.members, seed: 26)
        var decide = DecideRequest()
        decide.committed = [id, .zero]
        decide.aborted = [id]
        try fuzz(decide, seed: 27)
        var query = QueryRequest()
        query.transaction = id
        query.asksLeader = true
        try fuzz(query, seed: 28)
        try fuzz(QueryReply(), seed: 29)
        var inspect = ObjectInspectRequest()
        inspect.afterDkey = [1]
        inspect.dkey = [2]
        try fuzz(inspect, seed: 30)
        var list = ObjectListRequest()
        list.after = ObjectID(high: 1, low: 2)
        list.capability = Capability(.readOnly, tag: 7)
        try fuzz(list, seed: 32)
        var listed = ObjectListReply()
        listed.objects = [ObjectID(high: 3, low: 4)]
        try fuzz(listed, seed: 33)
        var inspected = ObjectInspectReply()
        var extent = InspectedValue()
        extent.isArray = true
        extent.recordSize = 8
        inspected.values = [InspectedValue(), extent]
        inspected.next = [2]
        try fuzz(inspected, seed: 31)
        #expect(throws: DecodingFailure.self) {
            try TransactionMembers(decoding: [0, 0, 0, 0])
        }
    }

    @Test func metricsMessages() throws {
        var times = LatencyHistogram(precision: LatencyHistogram.precisions.lowerBound)
        for value in [1, 300, 90_000, .max] as [UInt64] { times.record(nanoseconds: value) }
        var sample = MetricSample()
        sample.labels = [MetricLabel(name: "rank", value: "0"), MetricLabel()]
        sample.histogram = times
        var number = MetricSample()
        number.value = -1.5
        var family = MetricFamily(MetricDefinition(.histogram, "x", unit: .seconds, "Times."))
        family.samples = [sample, number]
        var reply = MetricsReply()
        reply.families = [family, MetricFamily()]
        try fuzz(reply, seed: 30)
        // A histogram that takes more memory than there is need for.
        for precision in 4...10 as ClosedRange<UInt8> {
            var large = LatencyHistogram(precision: Int(precision))
            large.record(nanoseconds: 1)
            let bytes = MetricSample().encoded().dropLast() + [1] + large.encoded()
            #expect(throws: DecodingFailure.invalidValue) { try MetricSample(decoding: bytes) }
        }
    }

    @Test func metadataMessages() throws {
        var pool = PoolRecord()
        pool.label = "tank"
        pool.map = PoolMap(
            version: 3, engines: [.init(rank: 0, targetCount: 2), .init(rank: 1, targetCount: 2)])
        var container = ContainerRecord()
        container.label = "photos"
        container.objectClass = .s2
        var request = MetadataAcceptRequest()
        request.ballot = Ballot(stamp: 1, rank: 2)
        request.metadata.pools = [pool]
        request.metadata.containers = [container]
        var snapshot = SnapshotRecord()
        snapshot.epoch = 5
        snapshot.label = "monday"
        request.metadata.snapshots = [snapshot]
        request.metadata.destroyed = [DestroyedRecord(pool: .zero)]
        request.metadata.destroyedSnapshots = [snapshot]
        let secret = PoolSecret(pool: pool.id, key: (1...32).map { UInt8($0) })
        request.metadata.secrets = [secret]
        try fuzz(request, seed: 5)
        #expect(request.metadata.withoutSecrets.secrets == [])
        #expect(!"\(request)".contains("\(secret.key)"))
        try fuzz(secret, seed: 36)
        #expect(throws: DecodingFailure.invalidValue) {
            try PoolSecret(decoding: [UInt8](repeating: 0, count: 16) + [1, 0, 0, 0, 9])
        }
        var open = ContainerOpenRequest()
        open.label = "photos"
        open.access = .readWrite
        try fuzz(open, seed: 37)
        var opened = ContainerOpenReply()
        opened.containers = [OpenedContainer(container, Capability(.readWrite, tag: 1 << 100))]
        try fuzz(opened, seed: 38)
        var map = ClusterMapReply()
        map.engines = [EngineRecord(rank: 1, addresses: ["sim://a", "sim://a-1"])]
        try fuzz(map, seed: 6)
        var status = EngineStatusReply()
        status.targets = [TargetStatus()]
        status.members = [EngineMember(rank: 1, incarnation: 2, state: .suspect)]
        try fuzz(status, seed: 7)
        try fuzz(TargetStatus(), seed: 12)
        try fuzz(map.engines[0], seed: 13)
        try fuzz(PoolReference(UniqueID(high: 1, low: 2)), seed: 14)
        var change = MetadataChange()
        change.kind = .createContainer
        change.label = "photos"
        try fuzz(change, seed: 15)
        try fuzz(request.ballot, seed: 16)
        try fuzz(MetadataPrepareRequest(request.ballot), seed: 17)
        var promise = MetadataPrepareReply()
        promise.promised = true
        promise.accepted = request.ballot
        promise.metadata = request.metadata
        promise.stamp = 36
        try fuzz(promise, seed: 18)
        try fuzz(MetadataAcceptReply(), seed: 19)
        try fuzz(request.metadata, seed: 20)
        try fuzz(pool, seed: 21)
        try fuzz(container, seed: 22)
        try fuzz(request.metadata.destroyed[0], seed: 23)
        try fuzz(snapshot, seed: 34)
        try fuzz(
            SnapshotReference(
                pool: UniqueID(high: 1, low: 2), container: UniqueID(high: 3, low: 4), epoch: 5),
            seed: 35)
    }
}
