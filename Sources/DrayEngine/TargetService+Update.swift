internal import CaRT
internal import DrayChecksums
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime
internal import VOS

/// Changes of objects: what a request asks for is checked, its data brought, and its operations
/// translated for the store.
extension TargetService {
    func update(
        _ request: ObjectUpdateRequest, _ call: RequestContext
    ) async throws(RPCError) -> ObjectUpdateReply {
        guard let first = request.parts.first else {
            throw .service(.invalidArgument, "an update without operations")
        }
        try checkAccess(of: request.parts)
        var reply = ObjectUpdateReply()
        // A resend of what was applied already gets the same answer.
        switch vos.state(of: request.transaction) {
        case .committed(let epoch):
            reply.epoch = epoch
            return reply
        case .aborted:
            // Not before it is on stable storage.
            try await transactions.end(request.transaction)
            throw transactions.aborted
        case .active(let dtx):
            reply.epoch = try await transactions.forward(request, dtx, call)
            return reply
        case .unknown: try checkAge(request)
        }
        if faults.isArmed { try await faults.pass(.engineObject, on: xstream) }
        let length = request.parts.reduce(0) { $0 + $1.length }
        guard request.bulk != nil || length == (unsafe call.payload.count) else {
            throw .service(.invalidArgument, "the payload does not fit the operations")
        }
        guard let objectClass = first.target.object.objectClass else {
            throw .service(.invalidArgument, "the object's id was not made by Dray")
        }
        if request.parts.count == 1, first.reads.isEmpty, objectClass.replicaCount == 1 {
            reply.epoch = try await updateAlone(request, first, call)
        } else {
            do throws(RPCError) {
                reply.epoch = try await transactions.lead(request, call)
            } catch {
                // After these the client begins anew, as another transaction.
                guard request.isResend, case .application(let code, let message) = error,
                    code == ServiceCode.conflict.rawValue || code == ServiceCode.aborted.rawValue
                else { throw error }
                try await transactions.end(request.transaction)
                throw .service(.aborted, message)
            }
        }
        return reply
    }

    /// Throws unless the client has opened the container of each part for what it does there.
    private func checkAccess(of parts: [ObjectPart]) throws(RPCError) {
        for index in parts.indices {
            try check(
                parts[index].target,
                for: parts[index].operations.isEmpty ? .readOnly : .readWrite)
        }
    }

    /// Throws when nobody may know any more what became of a request.
    private func checkAge(_ request: ObjectUpdateRequest) throws(RPCError) {
        guard request.transaction.low > vos.transactionHorizon else {
            throw .service(
                .tooOld, "the request is so old that nobody knows whether it was served")
        }
    }

    /// The only member of a transaction needs no other's word: one record of the log.
    private func updateAlone(
        _ request: ObjectUpdateRequest, _ part: ObjectPart, _ call: RequestContext
    ) async throws(RPCError) -> UInt64 {
        guard !part.operations.isEmpty else {
            throw .service(.invalidArgument, "an update without operations")
        }
        var local = PreparePart()
        local.part = part
        local.leads = true
        let work = try LocalWork(
            [local], bulk: request.bulk, payload: try Payload(of: call), until: call.deadline,
            on: self, reaching: call.context)
        defer { work.end() }
        try await work.bringData(for: call)
        // A caller that has given up must not find its change applied after its next one.
        guard worldClock.wallNanoseconds < call.deadline else { throw .timedOut }
        guard !Task.isCancelled else { throw .cancelled }
        // Another attempt may have been faster, and be forgotten by now.
        try checkAge(request)
        var update = work.updates[0]
        update.transaction = request.transaction
        let clock = clock
        do throws(VOSError) {
            let epoch = try await vos.update(update, patience: patience(call)) { clock.now() }
            withExtendedLifetime(work) {}
            return epoch
        } catch {
            throw RPCError(error)
        }
    }
}

/// Data that came with a request, in memory that outlives it.
struct Payload {
    /// Nil when there is none.
    let buffer: RegisteredBuffer?
    let range: Range<Int>

    init(_ buffer: RegisteredBuffer?, _ range: Range<Int>) {
        self.buffer = buffer
        self.range = range
    }

    /// Copies the payload of a request, and lets the receive go.
    init(of call: RequestContext) throws(RPCError) {
        let count = unsafe call.payload.count
        if count > 0 {
            let copy = try call.context.makeBuffer(count: count)
            unsafe copy.bytes.copyMemory(from: call.payload)
            buffer = copy
        } else {
            buffer = nil
        }
        range = 0..<count
        call.releasePayload()
    }

    var bytes: UnsafeRawBufferPointer {
        guard let buffer else { return unsafe UnsafeRawBufferPointer(start: nil, count: 0) }
        return unsafe UnsafeRawBufferPointer(rebasing: buffer.bytes[range])
    }
}

/// A target's own parts of a transaction: checked, with room for their data and for their share of
/// the pool.
final class LocalWork {
    /// The operations of each part. Their data is in place after `bringData`.
    let updates: [Update]
    let parts: [PreparePart]

    private let service: TargetService
    /// When the client gives up: wall clock, nanoseconds since 1970.
    private let deadline: UInt64
    private let bulk: BulkDescriptor?
    /// The context that reaches the client's memory.
    private let context: Context
    private let buffer: RegisteredBuffer?
    /// What is to be read from the client's memory: from where, and to where in the buffer.
    private let pulls: [(offset: Int, range: Range<Int>)]
    @safe @exclusivity(unchecked) private var promises: [(pool: UniqueID, bytes: UInt64)]

    /// Throws when anything about the request is wrong, or a pool is full.
    init(
        _ parts: [PreparePart], bulk: BulkDescriptor?, payload: Payload, until deadline: UInt64,
        on service: TargetService, reaching context: Context
    ) throws(RPCError) {
        var promises: [(pool: UniqueID, bytes: UInt64)] = []
        var total = 0
        promises.reserveCapacity(parts.count)
        for index in parts.indices {
            let pool = try service.pool(of: parts[index].part.target)
            let length = try service.checkedLength(of: parts[index].part, in: pool)
            total += length
            promises.append((pool.id, UInt64(length)))
        }
        guard total <= ObjectLimits.dataMax else {
            throw .service(
                .invalidArgument, "a transaction carries at most \(ObjectLimits.dataMax) bytes")
        }
        var pulls: [(offset: Int, range: Range<Int>)] = []
        let buffer =
            bulk == nil || total == 0
            ? payload.buffer : try service.makeBuffer(count: total, of: context)
        var updates: [Update] = []
        updates.reserveCapacity(parts.count)
        var position = 0
        for index in parts.indices {
            let (offset, length) = (Int(parts[index].dataOffset), Int(promises[index].bytes))
            let start: Int
            if let bulk {
                guard UInt64(offset + length) <= bulk.length else {
                    throw .service(.invalidArgument, "the exposed memory is too small")
                }
                start = position
                if length > 0 { pulls.append((offset, position..<position + length)) }
                position += length
            } else {
                guard offset + length <= payload.range.count else {
                    throw .service(.invalidArgument, "the payload does not fit the operations")
                }
                start = payload.range.lowerBound + offset
            }
            let container = try service.container(of: parts[index].part.target)
            updates.append(
                try LocalWork.update(
                    parts[index].part, data: buffer, from: start,
                    isVerified: container.isServerVerified))
        }
        self.updates = updates
        self.parts = parts
        self.service = service
        self.deadline = deadline
        self.bulk = bulk
        self.context = context
        self.buffer = buffer
        self.pulls = pulls
        self.promises = promises
        for promise in promises { service.promised[promise.pool, default: 0] += promise.bytes }
    }

    /// The updates that change anything.
    var changes: [Update] {
        let isAll = updates.allSatisfy { !$0.operations.isEmpty }
        return isAll ? updates : updates.filter { !$0.operations.isEmpty }
    }

    /// Gives the share of the pools back. The usage of the pools has it now, or nobody.
    func end() {
        for promise in promises { service.promised[promise.pool, default: 0] -= promise.bytes }
        promises = []
    }

    /// Reads the data from the client's memory, if it did not come with the request. `call` is what
    /// it is done for.
    func bringData(for call: RequestContext) async throws(RPCError) {
        guard let bulk, let buffer, !pulls.isEmpty else { return }
        for pull in pulls {
            try await context.bulkGet(
                bulk, offset: pull.offset, into: buffer, range: pull.range,
                deadline: .at(deadline), for: call)
        }
    }

    private static func update(
        _ part: ObjectPart, data: RegisteredBuffer?, from start: Int, isVerified: Bool
    ) throws(RPCError) -> Update {
        var operations: [Operation] = []
        operations.reserveCapacity(part.operations.count)
        var start = start
        for operation in part.operations {
            let end = start + Int(operation.length)
            let bytes =
                unsafe data.map { unsafe UnsafeRawBufferPointer(rebasing: $0.bytes[start..<end]) }
                ?? UnsafeRawBufferPointer(start: nil, count: 0)
            start = end
            let value = unsafe ValueBytes(
                bytes, checksums: operation.checksums, type: operation.checksumType,
                isVerified: isVerified)
            let body: Operation.Body
            switch operation.kind {
            case .updateSingle:
                body = .single(dkey: operation.dkey, akey: operation.akey, value)
            case .updateArray:
                guard operation.length > 0 else {
                    throw .service(.invalidArgument, "an array is written by at least one byte")
                }
                body = .array(
                    dkey: operation.dkey, akey: operation.akey, offset: operation.offset,
                    recordSize: operation.recordSize, value)
            case .punchAkey: body = .punchAkey(dkey: operation.dkey, akey: operation.akey)
            case .punchDkey: body = .punchDkey(operation.dkey)
            case .punchObject: body = .punchObject
            }
            let condition: Operation.Condition =
                switch operation.condition {
                case .none: .none
                case .insert: .insert
                case .update: .update
                case .insertDkey: .insertDkey
                case .updateDkey: .updateDkey
                }
            operations.append(Operation(body, condition: condition))
        }
        return Update(
            pool: part.target.pool, container: part.target.container, object: part.target.object,
            epoch: 0, transaction: .zero, operations: operations)
    }
}

extension TargetService {
    /// The bytes of data of all operations together, after checking every limit and the quota.
    func checkedLength(
        of part: ObjectPart, in pool: PoolRecord
    ) throws(RPCError) -> Int {
        let type = try container(of: part.target).checksumType
        var length = 0
        for operation in part.operations {
            guard operation.checksumType == type || operation.length == 0 else {
                throw .service(
                    .invalidArgument, "the container's checksums are of the type \(type.name)")
            }
            if operation.kind != .punchObject {
                try checkKeys(
                    part.target.object, dkey: operation.dkey,
                    akey: operation.kind.hasAkey ? operation.akey : nil)
            }
            length += Int(operation.length)
            let chunks =
                (Int(operation.length) + ObjectLimits.checksumChunk - 1)
                / ObjectLimits.checksumChunk
            guard operation.checksums.count == chunks * operation.checksumType.words else {
                throw .service(.invalidArgument, "checksums do not fit the data")
            }
            let (_, overflow) = operation.offset.addingReportingOverflow(
                UInt64(operation.length))
            guard !overflow else { throw .service(.invalidArgument, "offset out of range") }
        }
        guard length <= ObjectLimits.dataMax else {
            throw .service(
                .invalidArgument, "an update carries at most \(ObjectLimits.dataMax) bytes")
        }
        if length > 0 {
            let used = vos.usage(pool: pool.id).bytes + promised[pool.id, default: 0]
            // Much of it may be versions that nobody sees any more.
            if used + UInt64(length) > pool.sizePerTarget / 8 * 7 { vos.pressForSpace() }
            guard used + UInt64(length) <= pool.sizePerTarget else {
                throw .service(
                    .noSpace,
                    "pool \(pool.label) is full on target \(configuration.rank)."
                        + "\(index): \(used) of \(pool.sizePerTarget) bytes are used")
            }
        }
        return length
    }

    /// Throws when a key is not what those of the object are.
    func checkKeys(
        _ object: ObjectID, dkey: [UInt8], akey: [UInt8]? = nil
    ) throws(RPCError) {
        let types = object.keyTypes
        if let problem = types.dkey.problem(with: dkey) {
            throw .service(.invalidArgument, problem)
        }
        if let problem = akey.flatMap({ types.akey.problem(with: $0) }) {
            throw .service(.invalidArgument, problem)
        }
    }

    /// The members of the redundancy group of a part, the leader first. Throws when the part is not
    /// one of ours.
    func members(of part: ObjectPart) throws(RPCError) -> ArraySlice<TargetAddress> {
        let pool = try pool(of: part.target)
        guard
            let layout = layouts.layout(
                of: part.target.object, pool: pool.id, in: pool.map),
            Int(part.group) < layout.groupCount
        else { throw .service(.invalidArgument, "the object does not fit the pool") }
        for index in part.operations.indices where part.operations[index].kind != .punchObject {
            guard layout.group(ofDkey: part.operations[index].dkey) == Int(part.group) else {
                throw .service(.invalidArgument, "a dkey of another redundancy group")
            }
        }
        return layout.members(ofGroup: Int(part.group))
    }
}
