public import DrayChecksums
public import DrayPlacement
public import DrayProtocol
public import DrayRuntime

/// A pool: space on every target of the cluster, shared by containers.
public struct Pool: Sendable {
    /// What the cluster knows of the pool.
    public let record: PoolRecord

    /// The cluster it is in.
    public let cluster: Cluster

    public var id: UniqueID { record.id }
    public var label: String { record.label }

    /// Asks every target how much of the pool is used.
    ///
    /// - Throws: `unavailable` when an engine does not answer.
    public func query() async throws(DrayError) -> PoolUsage {
        let record = record
        return try await cluster.onCore { core throws(DrayError) in
            try await core.usage(of: record)
        }
    }

    /// Creates a container whose objects get `objectClass` unless they ask otherwise, and opens it
    /// for reading and writing.
    ///
    /// The checksums of `checksumType` are computed by the client that writes, stored with the
    /// value, and compared whenever it is read: by the target and by the client. With
    /// `isServerVerified` the target compares them also before it stores the value.
    ///
    /// - Throws: `exists`, `invalidArgument` also when the pool has fewer engines than the class
    ///   has replicas, `unavailable` when an engine does not answer.
    @discardableResult
    public func createContainer(
        label: String, objectClass: ObjectClass = .sx, checksumType: ChecksumType = .crc32c,
        isServerVerified: Bool = true
    ) async throws(DrayError) -> Container {
        let pool = record
        let container = try await cluster.onCore { core throws(DrayError) in
            var change = MetadataChange()
            change.kind = .createContainer
            change.pool = pool.id
            change.container = core.newID()
            change.label = label
            change.objectClass = objectClass.code
            change.checksumType = checksumType
            change.isServerVerified = isServerVerified
            let subject = "container \(pool.label)/\(label)"
            _ = try await core.change(change, subject: subject)
            return try await core.open(label, of: pool, .readWrite)
        }
        return Container(container, pool: self)
    }

    /// Opens every container. By label.
    public func containers(
        _ access: ContainerAccess = .readWrite
    ) async throws(DrayError) -> [Container] {
        let pool = record
        let containers = try await cluster.onCore { core throws(DrayError) in
            try await core.openAll(of: pool, access)
        }
        return containers.sorted { $0.record.label < $1.record.label }
            .map { Container($0, pool: self) }
    }

    /// Opens the container with this label.
    ///
    ///     let settings = try await pool.container("settings", .readOnly)
    ///
    /// - Throws: `notFound`.
    public func container(
        _ label: String, _ access: ContainerAccess = .readWrite
    ) async throws(DrayError) -> Container {
        let pool = record
        let container = try await cluster.onCore { core throws(DrayError) in
            try await core.open(label, of: pool, access)
        }
        return Container(container, pool: self)
    }

    /// Destroys a container with everything in it. Throws `notFound`.
    public func destroyContainer(_ label: String) async throws(DrayError) {
        let pool = record
        try await cluster.onCore { core throws(DrayError) in
            let record = try core.container(label, of: pool, in: try await core.refresh())
            var change = MetadataChange()
            change.kind = .destroyContainer
            change.pool = pool.id
            change.container = record.id
            _ = try await core.change(change, subject: "container \(pool.label)/\(label)")
        }
    }
}

/// How full a pool is, in bytes.
public struct PoolUsage: Sendable {
    /// Raw size on all targets together.
    public var size: UInt64
    /// What is stored, on all targets together.
    public var used: UInt64
    /// The same for each target.
    public var targets: [Target]

    /// One target's share.
    public struct Target: Sendable {
        public var address: TargetAddress
        public var size: UInt64
        public var used: UInt64
        /// What its device has left, for all pools.
        public var deviceFree: UInt64
    }

    /// Raw bytes that are left. A target whose device is fuller than its share counts with what
    /// the device has.
    public var free: UInt64 {
        targets.reduce(0) { $0 + min($1.size - min($1.size, $1.used), $1.deviceFree) }
    }

    /// How many bytes of data of each class still fit, if the pool has engines enough for it.
    public var usableByClass: [(objectClass: ObjectClass, bytes: UInt64)] {
        ObjectClass.allCases.map { ($0, $0.usable(raw: free)) }
    }
}
