internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime

/// What a transaction has read and wants to write, on the client. Confined to its xstream.
final class TransactionState {
    /// A redundancy group of an object.
    private struct Place: Hashable {
        var object: ObjectID
        var container: UniqueID
        var group: Int
    }

    private struct Read: Hashable {
        var place: Place
        var dkey: [UInt8]?
    }

    /// One change, with its data.
    struct Write {
        var object: DrayObject
        var operation: ObjectOperation
        var data: [UInt8]

        init(_ object: DrayObject, _ operation: ObjectOperation, _ data: [UInt8]) {
            self.object = object
            self.operation = operation
            self.data = data
            unsafe data.withUnsafeBytes {
                unsafe self.operation.describe($0, object.container.checksumType)
            }
        }

        func isOf(_ other: DrayObject) -> Bool {
            object.id == other.id && object.container.id == other.container.id
        }
    }

    let end: OperationEnd
    /// The epoch at which it reads; nil before it has read anything.
    private(set) var snapshot: UInt64?
    private var readSet = Set<Read>()
    private var reads: [(object: DrayObject, group: Int, read: ObjectRead)] = []
    private(set) var writes: [Write] = []
    private(set) var dataCount = 0
    /// Something it has read has changed since: it can only begin again.
    var hasConflict = false

    init(until end: OperationEnd) {
        self.end = end
    }

    var snapshotToAsk: UInt64 { snapshot ?? ObjectFetchRequest.now }

    func didRead(
        _ object: DrayObject, group: Int, dkey: [UInt8]?, snapshot: UInt64, instance: UInt64
    ) {
        self.snapshot = self.snapshot ?? snapshot
        let place = Place(object: object.id, container: object.container.id, group: group)
        guard readSet.insert(Read(place: place, dkey: dkey)).inserted else { return }
        reads.append((object, group, ObjectRead(dkey: dkey, instance: instance)))
    }

    func add(_ write: Write) throws(DrayError) {
        guard dataCount + write.data.count <= ObjectLimits.dataMax else {
            throw DrayError(
                .invalidArgument,
                "a transaction writes at most \(ObjectLimits.dataMax) bytes")
        }
        dataCount += write.data.count
        writes.append(write)
    }

    /// What the transaction itself has written to a value: nil if nothing; else the value, or that
    /// it is removed.
    func written(
        _ object: DrayObject, dkey: [UInt8], akey: [UInt8]
    ) throws(DrayError) -> [UInt8]?? {
        for write in writes.reversed() where write.isOf(object) {
            let operation = write.operation
            switch operation.kind {
            case .punchObject: return .some(nil)
            case .punchDkey where operation.dkey == dkey: return .some(nil)
            case .punchAkey where operation.dkey == dkey && operation.akey == akey:
                return .some(nil)
            case .updateSingle where operation.dkey == dkey && operation.akey == akey:
                return .some(write.data)
            case .updateArray where operation.dkey == dkey && operation.akey == akey:
                throw DrayError(
                    .invalidArgument, "a transaction cannot read an array that it has written to")
            case .punchDkey, .punchAkey, .updateSingle, .updateArray: continue
            }
        }
        return nil
    }

    /// Throws when a read has a condition and the transaction itself has changed what that is
    /// about: what it has to go by is its own single values.
    func check(
        _ condition: DrayObject.ReadCondition, _ object: DrayObject, dkey: [UInt8]
    ) throws(DrayError) {
        guard condition != .none else { return }
        let isChanged = writes.contains { write in
            write.isOf(object)
                && (write.operation.kind == .punchObject || write.operation.dkey == dkey)
        }
        guard !isChanged else {
            throw DrayError(
                .invalidArgument,
                "a transaction cannot look whether there is anything where it has changed things")
        }
    }

    /// Whether it has written anything to an object.
    func hasWritten(_ object: DrayObject) -> Bool { writes.contains { $0.isOf(object) } }

    /// The request that commits it, the data in the order of the parts, and the object that the
    /// first part belongs to. Parts with changes come first.
    func request(
        _ core: ClientCore
    ) throws(DrayError) -> (request: ObjectUpdateRequest, data: [UInt8], first: DrayObject?) {
        var places: [Place: Int] = [:]
        var parts: [ObjectPart] = []
        var data: [[UInt8]] = []
        var first: DrayObject?
        let index = { (object: DrayObject, group: Int) -> Int in
            let place = Place(object: object.id, container: object.container.id, group: group)
            if let known = places[place] { return known }
            var part = ObjectPart()
            part.target = core.target(of: object)
            part.group = UInt16(group)
            places[place] = parts.count
            parts.append(part)
            data.append([])
            first = first ?? object
            return parts.count - 1
        }
        for write in writes {
            let layout = try core.layout(of: write.object)
            let isWhole = write.operation.kind == .punchObject
            let groups =
                isWhole
                ? Array(0..<layout.groupCount) : [layout.group(ofDkey: write.operation.dkey)]
            for group in groups {
                let place = index(write.object, group)
                parts[place].operations.append(write.operation)
                data[place] += write.data
            }
        }
        for (object, group, read) in reads { parts[index(object, group)].reads.append(read) }
        guard parts.allSatisfy({ $0.operations.count <= ObjectLimits.operationsMax }),
            parts.allSatisfy({ $0.reads.count <= ObjectLimits.readsMax }),
            parts.count <= ObjectLimits.partsMax
        else {
            throw DrayError(
                .invalidArgument,
                "a transaction changes at most \(ObjectLimits.operationsMax) and reads at most "
                    + "\(ObjectLimits.readsMax) values of a redundancy group")
        }
        var request = ObjectUpdateRequest()
        request.snapshot = snapshot ?? 0
        request.parts = parts
        return (request, data.flatMap { $0 }, first)
    }
}
