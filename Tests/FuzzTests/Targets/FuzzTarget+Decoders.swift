import DrayFabric
import DrayPlacement
import DrayProtocol
import DrayRuntime

@testable import CaRT

extension FuzzTarget {
    /// What a target decodes; nothing for those that have a way of their own.
    var decoders: [FuzzDecoder] {
        switch self {
        case .header, .groupText, .address, .context: []
        case .control: FuzzTarget.controlDecoders
        case .bulk: FuzzTarget.bulkDecoders
        case .group: FuzzTarget.groupDecoders
        case .swim: FuzzTarget.swimDecoders
        case .collectives: FuzzTarget.collectiveDecoders
        case .incast: FuzzTarget.incastDecoders
        case .objects: FuzzTarget.objectDecoders
        case .transactions: FuzzTarget.transactionDecoders
        case .management: FuzzTarget.managementDecoders
        case .metrics: FuzzTarget.metricDecoders
        }
    }

    private static let place = FabricAddress(provider: "sim", bytes: Array("somebody".utf8))

    private static let memory = {
        var memory = BulkDescriptor()
        memory.owner = place
        memory.instance = 1
        memory.address = 0x10_0000
        memory.length = 4096
        memory.key = 77
        memory.access = [.remoteRead, .remoteWrite]
        return memory
    }()

    // MARK: - CaRT

    private static let nested = NestedCall(opcode: 1, name: "some.call", trace: CallTrace())

    private static var controlDecoders: [FuzzDecoder] {
        [
            FuzzDecoder(HelloMessage(address: place, instance: 3, eagerLimit: 4096)),
            FuzzDecoder(HelloReply(instance: 3, credits: 32, eagerLimit: 4096)),
            FuzzDecoder(InquiryMessage(requests: [1, 2, .max])),
            FuzzDecoder(FailureMessage(code: 1, detail: 2, text: "ünïcode")),
            FuzzDecoder(EmptyMessage()),
            FuzzDecoder(nested), FuzzDecoder(nested.trace),
            FuzzDecoder(NestedReply([nested], EmptyMessage())),
            FuzzDecoder(InternalProtocol.RankQuestion(rank: 3)),
            FuzzDecoder(InternalProtocol.AddressAnswer(incarnation: 5, addresses: [place, place])),
            FuzzDecoder(InternalProtocol.ProtocolQuestion(base: 4)),
            FuzzDecoder(InternalProtocol.VersionsAnswer(versions: [1, 2])),
            FuzzDecoder(SelfTest.EchoRequest(replySize: 4, alignment: 5)),
            FuzzDecoder(
                SelfTest.TransferRequest(replySize: 4, seed: 5, get: memory, put: memory)),
            FuzzDecoder(SelfTest.TransferReply(checksum: 6)),
            FuzzDecoder(
                SelfTest.MeasureRequest(
                    options: SelfTest.Options(), members: [SelfTest.Member(rank: 1, tag: 2)])),
            FuzzDecoder(SelfTest.Load.bulk(100)),
            FuzzDecoder(SelfTest.Options()),
            FuzzDecoder(SelfTest.Member(rank: 1, tag: 2)),
            FuzzDecoder(SelfTest.EndpointResult()),
            FuzzDecoder(SelfTest.Result()),
        ]
    }

    private static var bulkDecoders: [FuzzDecoder] {
        var vector = BulkVector()
        vector.segments = [
            BulkVector.Segment(address: 1 << 20, length: 10, key: 1),
            BulkVector.Segment(address: 1 << 21, length: 20, key: 2),
        ]
        return [
            FuzzDecoder(place), FuzzDecoder(memory), FuzzDecoder(vector),
            FuzzDecoder(SpillDescriptor(memory: memory, bodyLength: 96, payloadLength: 4000)),
        ]
    }

    static let members = (0..<3 as Range<UInt32>).map {
        Group.Member(rank: $0, incarnation: UInt64($0) + 7, addresses: [place, place])
    }

    private static var groupDecoders: [FuzzDecoder] {
        var snapshot = GroupSnapshot()
        snapshot.name = "group-1"
        snapshot.version = 4
        snapshot.members = members
        return [FuzzDecoder(snapshot)]
    }

    private static var swimDecoders: [FuzzDecoder] {
        var message = SwimMessage()
        message.kind = .request
        message.target = 2
        message.updates = [SwimMember(rank: 1), SwimMember(rank: 2)]
        return [FuzzDecoder(message), FuzzDecoder(SwimMember(rank: 3))]
    }

    private static var collectiveDecoders: [FuzzDecoder] {
        let bulk = CollectiveBulk(memory: memory, chunkSize: 4096, isWhole: true)
        let failure = CollectiveFailures.Failure(
            position: 2, error: .application(code: 3, message: "why"))
        let failures = CollectiveFailures(listed: [failure], total: 2)
        return [
            FuzzDecoder(CollectiveID(initiator: 1, stamp: 2)),
            FuzzDecoder(bulk),
            FuzzDecoder(
                CollectiveRequest(
                    tree: .kNomial(4), ranks: RankSet([1, 2, 3, 10, 20]), root: 1, position: 2,
                    bulk: bulk, body: [1, 2, 3])),
            FuzzDecoder(CollectiveAnswer(succeeded: 3, failures: failures, reply: [1])),
            FuzzDecoder(failures),
            FuzzDecoder(RankSet([0, 1, 2, 9, 1000])),
            FuzzDecoder(TreeTopology.kNomial(3)),
            FuzzDecoder(ChunkQuestion(key: 1, have: 2)),
            FuzzDecoder(ChunkAnswer(available: 3)),
            FuzzDecoder(BarrierProtocol.Gathering(number: 1, attempt: 2)),
            FuzzDecoder(BarrierProtocol.Release(number: 1, attempt: 2, failure: failure)),
        ]
    }

    private static var incastDecoders: [FuzzDecoder] {
        let address = IncastProtocol.Address(namespace: 1, number: 2, owner: 3, key: [4])
        let reach = IncastProtocol.Reach(reached: 2)
        return [
            FuzzDecoder(address),
            FuzzDecoder(IncastProtocol.FetchRequest(address: address, minimum: 5)),
            FuzzDecoder(IncastProtocol.FetchReply(version: 6, value: [7])),
            FuzzDecoder(
                IncastProtocol.UpdateRequest(
                    address: address, instance: 1, update: 2, expires: 3, sync: .eager(.update),
                    isBidirectional: true, value: [8])),
            FuzzDecoder(IncastProtocol.UpdateReply(version: 9, value: [1], reach: reach)),
            FuzzDecoder(IncastProtocol.RefreshRequest(address: address, version: 1, value: [2])),
            FuzzDecoder(IncastProtocol.RefreshReply(reach: reach)),
            FuzzDecoder(reach),
            FuzzDecoder(IncastSync.lazy(.notify)),
        ]
    }

    // MARK: - Dray

    private static let id = UniqueID(high: 8, low: 9)

    private static var part: ObjectPart {
        var operation = ObjectOperation()
        operation.kind = .updateArray
        operation.condition = .insert
        operation.dkey = [0, 1, 255]
        operation.length = 70_000
        operation.recordSize = 7
        operation.checksums = [1, 2, 3]
        var part = ObjectPart()
        part.target = ObjectTarget(
            pool: id, container: id, object: ObjectID(high: 5, low: 6), mapVersion: 7,
            capability: Capability(.readWrite, tag: 1 << 100))
        part.operations = [operation, ObjectOperation()]
        part.reads = [ObjectRead(dkey: [1], instance: 2), ObjectRead(dkey: nil, instance: 3)]
        return part
    }

    private static var objectDecoders: [FuzzDecoder] {
        var update = ObjectUpdateRequest()
        update.transaction = id
        update.isResend = true
        update.parts = [part, ObjectPart()]
        update.bulk = memory
        var fetch = ObjectFetchRequest()
        fetch.kind = .array
        fetch.condition = .dkeyExists
        var fetched = ObjectFetchReply()
        fetched.found = true
        fetched.recordSize = 24
        fetched.checksums = [4, 5, 6]
        var page = ObjectEnumerateReply()
        page.keys = [[], [1], [2, 3]]
        var inspected = ObjectInspectReply()
        inspected.values = [InspectedValue()]
        var listed = ObjectListReply()
        listed.objects = [ObjectID(high: 3, low: 4)]
        return [
            FuzzDecoder(id), FuzzDecoder(ObjectID(high: 1, low: 2)), FuzzDecoder(part),
            FuzzDecoder(part.target), FuzzDecoder(part.operations[0]), FuzzDecoder(part.reads[0]),
            FuzzDecoder(update), FuzzDecoder(ObjectUpdateReply()),
            FuzzDecoder(fetch), FuzzDecoder(fetched),
            FuzzDecoder(ObjectEnumerateRequest()), FuzzDecoder(page),
            FuzzDecoder(ObjectListRequest()), FuzzDecoder(listed),
            FuzzDecoder(ObjectInspectRequest()), FuzzDecoder(InspectedValue()),
            FuzzDecoder(inspected), FuzzDecoder(part.target.capability),
        ]
    }

    private static var transactionDecoders: [FuzzDecoder] {
        var prepared = PreparePart()
        prepared.part = part
        prepared.leads = true
        var prepare = PrepareRequest()
        prepare.transaction = id
        prepare.members = TransactionMembers([TargetAddress(rank: 1, target: 2)])
        prepare.parts = [prepared]
        prepare.bulk = memory
        var batch = PrepareBatchRequest()
        batch.requests = [prepare]
        batch.committed = [id]
        var outcome = PrepareOutcome()
        outcome.message = "why"
        var outcomes = PrepareBatchReply()
        outcomes.outcomes = [outcome]
        var decide = DecideRequest()
        decide.committed = [id, .zero]
        var query = QueryRequest()
        query.transaction = id
        return [
            FuzzDecoder(prepare.members), FuzzDecoder(prepared), FuzzDecoder(prepare),
            FuzzDecoder(batch), FuzzDecoder(outcomes), FuzzDecoder(outcome), FuzzDecoder(decide),
            FuzzDecoder(query), FuzzDecoder(QueryReply()),
        ]
    }

    private static var managementDecoders: [FuzzDecoder] {
        var pool = PoolRecord()
        pool.label = "tank"
        pool.map = PoolMap(version: 3, engines: [.init(rank: 0, targetCount: 2)])
        var container = ContainerRecord()
        container.label = "photos"
        container.objectClass = .s2
        var metadata = ClusterMetadata()
        metadata.pools = [pool]
        metadata.containers = [container]
        var snapshot = SnapshotRecord()
        snapshot.epoch = 7
        snapshot.label = "monday"
        metadata.snapshots = [snapshot]
        metadata.destroyed = [DestroyedRecord(pool: id)]
        metadata.destroyedSnapshots = [snapshot]
        metadata.secrets = [PoolSecret(pool: id, key: (1...32).map { UInt8($0) })]
        var open = ContainerOpenRequest()
        open.label = "photos"
        var opened = ContainerOpenReply()
        opened.containers = [OpenedContainer(container, Capability())]
        var accept = MetadataAcceptRequest()
        accept.ballot = Ballot(stamp: 1, rank: 2)
        accept.metadata = metadata
        let engine = EngineRecord(
            rank: 1, addresses: ["sim://a", "sim://a-1"], secondary: [["sim://b"], ["sim://c"]])
        var map = ClusterMapReply()
        map.engines = [engine]
        var status = EngineStatusReply()
        status.targets = [TargetStatus()]
        status.members = [EngineMember(rank: 1, incarnation: 2, state: .suspect)]
        var tune = TuneRequest()
        tune.logMask = "cart=debug"
        tune.faults = ["a", "b"]
        var tuned = TuneReply()
        tuned.faults = [TuneReply.Fault()]
        var finding = ScrubFinding()
        finding.part = "value"
        finding.value = ScrubbedValue()
        finding.value?.dkey = [1, 2]
        finding.offset = 4096
        var scrub = StoreScrub()
        scrub.target = 1
        scrub.current = ScrubProgress()
        scrub.findings = [finding]
        var scrubbed = ScrubReply()
        scrubbed.stores = [scrub]
        return [
            FuzzDecoder(ScrubRequest()), FuzzDecoder(scrubbed), FuzzDecoder(scrub),
            FuzzDecoder(ScrubProgress()), FuzzDecoder(finding), FuzzDecoder(ScrubbedValue()),
            FuzzDecoder(metadata), FuzzDecoder(pool), FuzzDecoder(container),
            FuzzDecoder(snapshot), FuzzDecoder(SnapshotReference()),
            FuzzDecoder(DestroyedRecord(pool: id)), FuzzDecoder(engine), FuzzDecoder(map),
            FuzzDecoder(status), FuzzDecoder(TargetStatus()), FuzzDecoder(PoolReference()),
            FuzzDecoder(MetadataChange()), FuzzDecoder(accept.ballot),
            FuzzDecoder(MetadataPrepareRequest()), FuzzDecoder(MetadataPrepareReply()),
            FuzzDecoder(accept), FuzzDecoder(MetadataAcceptReply()), FuzzDecoder(tune),
            FuzzDecoder(tuned), FuzzDecoder(tuned.faults[0]), FuzzDecoder(status.members[0]),
            FuzzDecoder(metadata.secrets[0]), FuzzDecoder(open), FuzzDecoder(opened),
            FuzzDecoder(opened.containers[0]),
        ]
    }

    private static var metricDecoders: [FuzzDecoder] {
        var times = LatencyHistogram(precision: LatencyHistogram.precisions.lowerBound)
        for value in [1, 300, 90_000, .max] as [UInt64] { times.record(nanoseconds: value) }
        var sample = MetricSample()
        sample.labels = [MetricLabel(name: "rank", value: "0"), MetricLabel()]
        sample.histogram = times
        var family = MetricFamily(MetricDefinition(.histogram, "x", unit: .seconds, "Times."))
        family.samples = [sample]
        var reply = MetricsReply()
        reply.families = [family, MetricFamily()]
        return [
            FuzzDecoder(times), FuzzDecoder(sample), FuzzDecoder(family), FuzzDecoder(reply),
            FuzzDecoder(MetricLabel(name: "a", value: "b")),
        ]
    }
}
