internal import DrayChecksums
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime

/// One engine's copy of the cluster's metadata, and what it has promised: the acceptor of a
/// single register (Rystsov's CASPaxos), with all engines as the quorum of a write.
///
/// A synchronous state machine; `SystemService` stores what it accepts before it answers.
struct MetadataAcceptor {
    /// No ballot below this one is accepted. Need not survive a restart: a write needs every
    /// engine, so a proposal that only we would let through fails at the others.
    private(set) var promised: Ballot
    /// The ballot of `metadata`.
    private(set) var accepted: Ballot
    private(set) var metadata: ClusterMetadata

    init(accepted: Ballot = Ballot(), metadata: ClusterMetadata = ClusterMetadata()) {
        promised = accepted
        self.accepted = accepted
        self.metadata = metadata
    }

    /// Promises to refuse ballots below `ballot`, unless a higher one was promised. A ballot of
    /// zero only reads.
    mutating func prepare(_ ballot: Ballot) -> MetadataPrepareReply {
        var reply = MetadataPrepareReply()
        if ballot != Ballot(), ballot > promised {
            promised = ballot
            reply.promised = true
        }
        reply.highest = promised
        reply.accepted = accepted
        reply.metadata = metadata
        return reply
    }

    /// Whether `ballot` may be stored now.
    func mayAccept(_ ballot: Ballot) -> Bool {
        ballot >= promised && ballot >= accepted
    }

    /// Records that the metadata of `ballot` is durable.
    mutating func didStore(_ ballot: Ballot, _ metadata: ClusterMetadata) {
        precondition(ballot >= accepted, "metadata went back")
        promised = max(promised, ballot)
        accepted = ballot
        self.metadata = metadata
    }
}

extension ClusterMetadata {
    /// Why a change is refused.
    struct Refusal: Error {
        let code: ServiceCode
        let message: String
    }

    /// Makes a change. One that was made already (the same id, the same content) succeeds again,
    /// so that a client may repeat a request whose answer it lost. What was destroyed since is not
    /// made again. A change that is refused changes nothing. A new pool gets `map` and the key
    /// `secret`.
    mutating func apply(
        _ change: MetadataChange, map: PoolMap, capacity: UInt64, secret: [UInt8]
    ) throws(Refusal) {
        var changed = self
        try changed.make(change, map: map, capacity: capacity, secret: secret)
        // What is destroyed takes less than before, so that there is always a way back.
        guard changed.encoded().count <= ClusterMetadata.bytesMax else {
            throw Refusal(
                code: .noSpace,
                message: "too many pools, containers and snapshots: "
                    + "\(ClusterMetadata.bytesMax) bytes of metadata are full")
        }
        self = changed
    }

    private mutating func make(
        _ change: MetadataChange, map: PoolMap, capacity: UInt64, secret: [UInt8]
    ) throws(Refusal) {
        switch change.kind {
        case .createPool: try createPool(change, map: map, capacity: capacity, secret: secret)
        case .destroyPool:
            guard pools.contains(where: { $0.id == change.pool }) else {
                try checkDestroyed(DestroyedRecord(pool: change.pool), "pool")
                return
            }
            pools.removeAll { $0.id == change.pool }
            secrets.removeAll { $0.pool == change.pool }
            for container in containers where container.pool == change.pool {
                snapshots.removeAll { $0.container == container.id }
            }
            containers.removeAll { $0.pool == change.pool }
            remember(DestroyedRecord(pool: change.pool))
        case .createContainer: try createContainer(change)
        case .destroyContainer:
            let record = DestroyedRecord(pool: change.pool, container: change.container)
            guard containers.contains(where: { $0.id == change.container }) else {
                try checkDestroyed(record, "container")
                return
            }
            containers.removeAll { $0.id == change.container }
            snapshots.removeAll { $0.container == change.container }
            remember(record)
        case .createSnapshot: try createSnapshot(change)
        case .destroySnapshot: try destroySnapshot(change)
        }
    }

    private mutating func createPool(
        _ change: MetadataChange, map: PoolMap, capacity: UInt64, secret: [UInt8]
    ) throws(Refusal) {
        if let problem = Label.problem(with: change.label) {
            throw Refusal(code: .invalidArgument, message: problem)
        }
        if let known = pools.first(where: { $0.id == change.pool }) {
            guard known.label == change.label, known.size == change.size else {
                throw Refusal(code: .exists, message: "a pool with this id exists")
            }
            return
        }
        try checkNotDestroyed(DestroyedRecord(pool: change.pool), "pool")
        guard pool(label: change.label) == nil else {
            throw Refusal(code: .exists, message: "a pool with this label exists already")
        }
        guard pools.count < ClusterMetadata.poolsMax else {
            throw Refusal(
                code: .noSpace, message: "a cluster has at most \(ClusterMetadata.poolsMax) pools")
        }
        var record = PoolRecord()
        record.id = change.pool
        record.label = change.label
        record.size = change.size
        record.map = map
        guard record.sizePerTarget >= PoolRecord.sizePerTargetMin else {
            throw Refusal(
                code: .invalidArgument,
                message: "a pool over \(map.targetCount) targets has at "
                    + "least \(PoolRecord.sizePerTargetMin * UInt64(map.targetCount)) bytes")
        }
        let taken = pools.reduce(UInt64(0)) { $0 + $1.sizePerTarget }
        guard taken + record.sizePerTarget <= capacity else {
            let free = (capacity - min(capacity, taken)) * UInt64(map.targetCount)
            throw Refusal(
                code: .noSpace,
                message: "\(change.size) bytes wanted, \(free) are not taken by "
                    + "other pools")
        }
        pools.append(record)
        secrets.append(PoolSecret(pool: record.id, key: secret))
    }

    private mutating func createContainer(_ change: MetadataChange) throws(Refusal) {
        if let problem = Label.problem(with: change.label) {
            throw Refusal(code: .invalidArgument, message: problem)
        }
        guard let objectClass = ObjectClass(code: change.objectClass) else {
            throw Refusal(code: .invalidArgument, message: "there is no such object class")
        }
        guard let pool = pools.first(where: { $0.id == change.pool }) else {
            throw Refusal(missing: "pool")
        }
        guard objectClass.groupCount(in: pool.map) != nil else {
            throw Refusal(code: .invalidArgument, message: pool.problem(with: objectClass))
        }
        if let known = containers.first(where: { $0.id == change.container }) {
            guard known.label == change.label, known.pool == change.pool else {
                throw Refusal(code: .exists, message: "a container with this id exists")
            }
            return
        }
        try checkNotDestroyed(
            DestroyedRecord(pool: change.pool, container: change.container), "container")
        guard container(label: change.label, pool: change.pool) == nil else {
            throw Refusal(code: .exists, message: "a container with this label exists already")
        }
        guard containers.count < ClusterMetadata.containersMax else {
            throw Refusal(
                code: .noSpace,
                message: "a cluster has at most \(ClusterMetadata.containersMax) containers")
        }
        var record = ContainerRecord()
        record.pool = change.pool
        record.id = change.container
        record.label = change.label
        record.objectClass = objectClass
        record.checksumType = change.checksumType
        record.isServerVerified = change.isServerVerified
        containers.append(record)
    }

    private mutating func createSnapshot(_ change: MetadataChange) throws(Refusal) {
        let isOfPool = containers.contains { container in
            container.id == change.container && container.pool == change.pool
        }
        guard isOfPool else {
            throw Refusal(missing: "container")
        }
        if let problem = Label.problem(with: change.label), !change.label.isEmpty {
            throw Refusal(code: .invalidArgument, message: problem)
        }
        if let known = snapshots.first(where: { $0.id == change.snapshot }) {
            guard known.container == change.container, known.label == change.label else {
                throw Refusal(code: .exists, message: "a snapshot with this id exists")
            }
            return
        }
        guard !destroyedSnapshots.contains(where: { $0.id == change.snapshot }) else {
            throw Refusal(code: .notFound, message: "the snapshot was destroyed already")
        }
        let others = snapshots(of: change.container)
        if !change.label.isEmpty, others.contains(where: { $0.label == change.label }) {
            throw Refusal(
                code: .exists, message: "the container has a snapshot with this label already")
        }
        guard snapshots.count < ClusterMetadata.snapshotsMax else {
            throw Refusal(
                code: .noSpace,
                message: "a cluster has at most \(ClusterMetadata.snapshotsMax) snapshots")
        }
        var record = SnapshotRecord()
        record.id = change.snapshot
        record.container = change.container
        record.epoch = change.epoch
        record.label = change.label
        snapshots.append(record)
    }

    private mutating func destroySnapshot(_ change: MetadataChange) throws(Refusal) {
        func isMeant(_ record: SnapshotRecord) -> Bool {
            record.container == change.container && record.epoch == change.epoch
        }
        guard let index = snapshots.firstIndex(where: isMeant) else {
            guard destroyedSnapshots.contains(where: isMeant) else {
                throw Refusal(missing: "snapshot")
            }
            return
        }
        var record = snapshots.remove(at: index)
        record.label = ""
        destroyedSnapshots.append(record)
        if destroyedSnapshots.count > ClusterMetadata.destroyedSnapshotsMax {
            destroyedSnapshots.removeFirst()
        }
    }

    private func checkDestroyed(_ record: DestroyedRecord, _ what: String) throws(Refusal) {
        guard destroyed.contains(record) else { throw Refusal(missing: what) }
    }

    /// A request to make it that comes only now was made long ago.
    private func checkNotDestroyed(_ record: DestroyedRecord, _ what: String) throws(Refusal) {
        guard !destroyed.contains(record) else {
            throw Refusal(code: .notFound, message: "the \(what) was destroyed already")
        }
    }

    private mutating func remember(_ record: DestroyedRecord) {
        destroyed.append(record)
        if destroyed.count > ClusterMetadata.destroyedMax { destroyed.removeFirst() }
    }
}

extension ClusterMetadata.Refusal {
    fileprivate init(missing: String) {
        self.init(code: .notFound, message: "the \(missing) does not exist (any more)")
    }
}
