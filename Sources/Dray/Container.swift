public import DrayChecksums
public import DrayPlacement
public import DrayProtocol
public import DrayRuntime

/// A container: a namespace of objects in a pool.
///
/// It was opened to be read only, or to be changed as well. Engines refuse what it was not opened
/// for with `notPermitted`, and everything once it was destroyed with `notFound`.
public struct Container: Sendable {
    /// What the cluster knows of the container.
    public let record: ContainerRecord

    /// The pool it is in.
    public let pool: Pool

    /// Shows engines that it was opened, and what for.
    package let capability: Capability

    /// How long operations on its objects try; nil: as long as the cluster's description says.
    public private(set) var timeout: Duration?

    /// The epoch at which it is read; nil: as it is now.
    public private(set) var epoch: UInt64?

    /// Whether a snapshot holds that epoch: every replica has what is to be seen then.
    private(set) var isHeld = false

    init(_ opened: OpenedContainer, pool: Pool) {
        record = opened.record
        capability = opened.capability
        self.pool = pool
    }

    /// What it was opened for.
    public var access: ContainerAccess { capability.access }

    /// Throws when it was opened for reading only. Of changes of objects, engines say the same; of
    /// snapshots they do not ask.
    func checkWritable(_ subject: @autoclosure () -> String) throws(DrayError) {
        guard access == .readWrite else {
            throw DrayError(
                .notPermitted,
                "\(subject()): the container was opened for reading only; open it for writing to "
                    + "change it")
        }
    }

    /// The same container, whose operations give up after `timeout`.
    ///
    ///     try await container.within(.seconds(2)).object(id).put(...)
    public func within(_ timeout: Duration) -> Container {
        var container = self
        container.timeout = timeout
        return container
    }

    /// The same container as it was at an epoch.
    func reading(at epoch: UInt64, isHeld: Bool) -> Container {
        var container = self
        container.epoch = epoch
        container.isHeld = isHeld
        return container
    }

    public var id: UniqueID { record.id }
    public var label: String { record.label }
    public var objectClass: ObjectClass { record.objectClass }
    /// How its values are checked.
    public var checksumType: ChecksumType { record.checksumType }
    /// Whether targets compare values with their checksums before they store them.
    public var isServerVerified: Bool { record.isServerVerified }

    /// Makes the id of a new object of `objectClass` (the container's, unless given), whose keys
    /// are of the types `keys`. Local: no engine is asked, and nothing is stored until the object
    /// is first written.
    ///
    /// - Throws: `invalidArgument` when the pool has fewer engines than the class has replicas.
    public func makeObjectID(
        objectClass: ObjectClass? = nil, keys: KeyTypes = KeyTypes()
    ) async throws(DrayError) -> ObjectID {
        let objectClass = objectClass ?? record.objectClass
        let map = pool.record.map
        let random = await pool.cluster.onCore { core in core.newID() }
        guard
            let id = ObjectID(
                objectClass: objectClass, keys: keys, in: map,
                random: (random.high ^ random.low &* 0x9e37_79b9_7f4a_7c15, random.low))
        else {
            throw DrayError(.invalidArgument, pool.record.problem(with: objectClass))
        }
        return id
    }

    /// An id that everybody computes alike, for an object that must be found without a
    /// directory: number `index` of the container.
    public func wellKnownObjectID(_ index: UInt32) -> ObjectID {
        let id = ObjectID(
            objectClass: record.objectClass, in: pool.record.map, random: (0, UInt64(index)))
        guard let id else {
            preconditionFailure("the pool had engines enough when the container was created")
        }
        return id
    }

    /// The object with this id. Local.
    public func object(_ id: ObjectID) -> DrayObject {
        DrayObject(id: id, container: self)
    }

    /// At most `limit` objects after `id`, in order, and whether there are more: all of which any
    /// target has something. Asks every target.
    ///
    /// - Throws: `unavailable` or `timedOut` when an engine does not answer.
    public func listObjects(
        after id: ObjectID? = nil, limit: Int = 1000
    ) async throws(DrayError) -> (objects: [ObjectID], more: Bool) {
        let container = self
        return try await pool.cluster.onCore { core throws(DrayError) in
            try await core.listObjects(container, after: id, limit: limit)
        }
    }

    /// How many objects are verified at a time.
    static let verifiedAtOnce = 8

    /// Verifies every object, as `DrayObject.verify` does, eight at a time. `progress` is called
    /// after each object with the report so far, on the client's xstream.
    ///
    /// - Throws: as `DrayObject.verify`: nothing is known then of what was not read.
    public func verify(
        progress: (@Sendable (VerificationReport) -> Void)? = nil
    ) async throws(DrayError) -> VerificationReport {
        let container = self
        return try await pool.cluster.onCore { core throws(DrayError) in
            try await core.verify(container, progress: progress)
        }
    }
}
