internal import CaRT
internal import DrayFabric
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime

/// Operations on objects: which shard, inline or bulk, checksums.
extension ClientCore {
    private func target(of object: DrayObject) -> ObjectTarget {
        ObjectTarget(
            pool: object.container.pool.id, container: object.container.id, object: object.id,
            mapVersion: object.container.pool.record.map.version)
    }

    private func shard(_ object: DrayObject, _ dkey: [UInt8]) throws(DrayError) -> Destination {
        let layout = try layout(of: object)
        let target = layout.leader(ofGroup: layout.group(ofDkey: dkey))
        return .rank(target.rank, tag: target.tag)
    }

    private func subject(_ object: DrayObject) -> String {
        "object \(object.id) of \(object.container.pool.label)/\(object.container.label)"
    }

    // MARK: - Changes

    func put(
        _ object: DrayObject, dkey: [UInt8], akey: [UInt8], value: [UInt8],
        condition: ObjectOperation.Condition
    ) async throws(DrayError) {
        var operation = ObjectOperation()
        operation.kind = .updateSingle
        operation.condition = condition
        operation.dkey = dkey
        operation.akey = akey
        guard !value.isEmpty else {
            try await update(object, operation, buffer: nil)
            return
        }
        let buffer = try makeBuffer(count: value.count)
        unsafe value.withUnsafeBytes { unsafe buffer.bytes.copyMemory(from: $0) }
        try await update(object, operation, buffer: .pooled(buffer))
    }

    func write(
        _ object: DrayObject, dkey: [UInt8], akey: [UInt8], offset: UInt64, buffer: IOBuffer,
        range: Range<Int>
    ) async throws(DrayError) {
        var start = range.lowerBound
        while start < range.upperBound {
            let end = min(range.upperBound, start + ObjectLimits.dataMax)
            var operation = ObjectOperation()
            operation.kind = .updateArray
            operation.dkey = dkey
            operation.akey = akey
            operation.offset = offset + UInt64(start - range.lowerBound)
            try await update(object, operation, buffer: .callers(buffer, start..<end))
            start = end
        }
    }

    func punch(
        _ object: DrayObject, dkey: [UInt8], akey: [UInt8]?,
        condition: ObjectOperation.Condition
    ) async throws(DrayError) {
        var operation = ObjectOperation()
        operation.kind = akey == nil ? .punchDkey : .punchAkey
        operation.condition = condition
        operation.dkey = dkey
        operation.akey = akey ?? []
        try await update(object, operation, buffer: nil)
    }

    func punchObject(_ object: DrayObject) async throws(DrayError) {
        var operation = ObjectOperation()
        operation.kind = .punchObject
        var request = ObjectUpdateRequest()
        request.target = target(of: object)
        request.operations = [operation]
        for shard in try layout(of: object).shards {
            request.transaction = newTransaction()
            try await send(request, to: .rank(shard.rank, tag: shard.tag), object: object)
        }
    }

    private func send(
        _ request: ObjectUpdateRequest, to destination: Destination, object: DrayObject
    ) async throws(DrayError) {
        try await retrying(subject(object)) { (deadline) async throws(RPCError) in
            _ = try await context.call(
                ObjectProtocol.update, request, to: destination, deadline: deadline)
        }
    }

    /// Where the data of an update stands.
    private enum Data {
        case pooled(RegisteredBuffer)
        case callers(IOBuffer, Range<Int>)
    }

    private func update(
        _ object: DrayObject, _ operation: ObjectOperation, buffer: Data?
    ) async throws(DrayError) {
        let destination = try shard(object, operation.dkey)
        var request = ObjectUpdateRequest()
        request.target = target(of: object)
        request.transaction = newTransaction()
        request.operations = [operation]
        guard let buffer else {
            try await send(request, to: destination, object: object)
            return
        }
        let bytes: UnsafeRawBufferPointer
        switch buffer {
        case .pooled(let buffer): unsafe bytes = UnsafeRawBufferPointer(buffer.bytes)
        case .callers(let buffer, let range):
            unsafe bytes = UnsafeRawBufferPointer(rebasing: buffer.bytes[range])
        }
        request.operations[0].length = UInt32(bytes.count)
        unsafe request.operations[0].checksums = ObjectLimits.checksums(of: bytes)
        if bytes.count <= ObjectLimits.inlineMax {
            let request = request
            try await retrying(subject(object)) { (deadline) async throws(RPCError) in
                _ = try await context.call(
                    ObjectProtocol.update, request, to: destination, payload: bytes,
                    deadline: deadline)
            }
        } else {
            try await withExposure(of: buffer, access: .remoteRead, object: object) {
                (handle) async throws(DrayError) in
                request.bulk = handle.descriptor
                let request = request
                try await retrying(subject(object)) { (deadline) async throws(RPCError) in
                    _ = try await context.call(
                        ObjectProtocol.update, request, to: destination, exposing: [handle],
                        deadline: deadline)
                }
            }
        }
    }

    private func makeBuffer(count: Int) throws(DrayError) -> RegisteredBuffer {
        do throws(RPCError) {
            return try context.makeBuffer(count: count)
        } catch {
            throw DrayError(error, "transfer buffer")
        }
    }

    private func withExposure<Value>(
        of data: Data, access: MemoryAccess, object: DrayObject,
        _ body: (BulkHandle) async throws(DrayError) -> Value
    ) async throws(DrayError) -> Value {
        let handle: BulkHandle
        do throws(RPCError) {
            switch data {
            case .pooled(let buffer): handle = try context.expose(buffer, access: access)
            case .callers(let buffer, let range):
                handle = try context.expose(buffer, range: range, access: access)
            }
        } catch {
            throw DrayError(error, subject(object))
        }
        defer { context.withdraw(handle) }
        return try await body(handle)
    }

    // MARK: - Reads

    func get(
        _ object: DrayObject, dkey: [UInt8], akey: [UInt8]
    ) async throws(DrayError) -> [UInt8]? {
        var request = ObjectFetchRequest()
        request.target = target(of: object)
        request.kind = .single
        request.dkey = dkey
        request.akey = akey
        request.length = UInt32(ObjectLimits.inlineMax)
        let destination = try shard(object, dkey)
        var value: [UInt8] = []
        let first = unsafe try await fetch(request, from: destination, object: object) { payload in
            unsafe value = [UInt8](payload)
        }
        guard first.found else { return nil }
        guard first.size > UInt64(value.count) else { return value }
        // Too large for a message: once more, into memory that the target writes to.
        var capacity = Int(clamping: first.size)
        while true {
            guard capacity <= ObjectLimits.dataMax else {
                throw DrayError(.internalError, "\(subject(object)): impossible value size")
            }
            let buffer = try makeBuffer(count: capacity)
            request.length = UInt32(capacity)
            let reply = try await withExposure(
                of: .pooled(buffer), access: .remoteWrite, object: object
            ) { (handle) async throws(DrayError) -> ObjectFetchReply in
                request.bulk = handle.descriptor
                return unsafe try await fetch(
                    request, from: destination, object: object, exposing: handle)
            }
            guard reply.found else { return nil }
            if reply.size <= UInt64(capacity) {
                let bytes = unsafe UnsafeRawBufferPointer(
                    rebasing: buffer.bytes[0..<Int(reply.size)])
                try unsafe verify(bytes, reply.checksums, object)
                return unsafe [UInt8](bytes)
            }
            capacity = Int(clamping: reply.size)
        }
    }

    func read(
        _ object: DrayObject, dkey: [UInt8], akey: [UInt8], offset: UInt64, buffer: IOBuffer,
        range: Range<Int>
    ) async throws(DrayError) {
        var request = ObjectFetchRequest()
        request.target = target(of: object)
        request.kind = .array
        request.dkey = dkey
        request.akey = akey
        let destination = try shard(object, dkey)
        var start = range.lowerBound
        while start < range.upperBound {
            let end = min(range.upperBound, start + ObjectLimits.dataMax)
            request.offset = offset + UInt64(start - range.lowerBound)
            request.length = UInt32(end - start)
            request.bulk = nil
            let part = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[start..<end])
            if part.count <= ObjectLimits.inlineMax {
                var count = 0
                _ = unsafe try await fetch(request, from: destination, object: object) { payload in
                    count = payload.count
                    if payload.count == part.count { unsafe part.copyMemory(from: payload) }
                }
                guard count == part.count else {
                    throw DrayError(.internalError, "\(subject(object)): short read")
                }
            } else {
                let reply = try await withExposure(
                    of: .callers(buffer, start..<end), access: .remoteWrite, object: object
                ) { (handle) async throws(DrayError) -> ObjectFetchReply in
                    request.bulk = handle.descriptor
                    return unsafe try await fetch(
                        request, from: destination, object: object, exposing: handle)
                }
                try unsafe verify(UnsafeRawBufferPointer(part), reply.checksums, object)
            }
            start = end
        }
    }

    func arrayEnd(
        _ object: DrayObject, dkey: [UInt8], akey: [UInt8]
    ) async throws(DrayError) -> UInt64 {
        var request = ObjectFetchRequest()
        request.target = target(of: object)
        request.kind = .arrayEnd
        request.dkey = dkey
        request.akey = akey
        return unsafe try await fetch(request, from: try shard(object, dkey), object: object).size
    }

    /// Fetches; `onPayload` gets the bytes that came with the reply, after their checksums were
    /// verified.
    private func fetch(
        _ request: ObjectFetchRequest, from destination: Destination, object: DrayObject,
        exposing handle: BulkHandle? = nil,
        onPayload: ((UnsafeRawBufferPointer) -> Void)? = nil
    ) async throws(DrayError) -> ObjectFetchReply {
        var received: [UInt32] = []
        let reply = try await retrying(subject(object)) {
            (deadline) async throws(RPCError) -> ObjectFetchReply in
            try await context.call(
                ObjectProtocol.fetch, request, to: destination,
                exposing: handle.map { [$0] } ?? [], deadline: deadline,
                onReplyPayload: unsafe onPayload.map { onPayload in
                    { payload in
                        unsafe received = ObjectLimits.checksums(of: payload)
                        unsafe onPayload(payload)
                    }
                })
        }
        if handle == nil, received != reply.checksums { throw corrupt(object) }
        return reply
    }

    private func verify(
        _ bytes: UnsafeRawBufferPointer, _ checksums: [UInt32], _ object: DrayObject
    ) throws(DrayError) {
        guard unsafe ObjectLimits.checksums(of: bytes) == checksums else {
            throw corrupt(object)
        }
    }

    private func corrupt(_ object: DrayObject) -> DrayError {
        DrayError(.corrupt, "\(subject(object)): data was damaged on its way; try again")
    }

    // MARK: - Enumeration

    func listAkeys(
        _ object: DrayObject, dkey: [UInt8], after: [UInt8]?, limit: Int
    ) async throws(DrayError) -> (keys: [[UInt8]], more: Bool) {
        var request = ObjectEnumerateRequest()
        request.target = target(of: object)
        request.dkey = dkey
        request.after = after
        request.limit = UInt32(clamping: min(limit, ObjectLimits.pageMax))
        let reply = try await enumerate(request, at: try shard(object, dkey), object: object)
        return (reply.keys, reply.more)
    }

    /// A page of every group, merged. Keys beyond the end of any group's page are left for the
    /// next call, since that group may have smaller ones.
    func listDkeys(
        _ object: DrayObject, after: [UInt8]?, limit: Int
    ) async throws(DrayError) -> (keys: [[UInt8]], more: Bool) {
        var request = ObjectEnumerateRequest()
        request.target = target(of: object)
        request.after = after
        request.limit = UInt32(clamping: min(limit, ObjectLimits.pageMax))
        let layout = try layout(of: object)
        let shards = (0..<layout.groupCount).map { layout.leader(ofGroup: $0) }
        let gather = Gather<Result<ObjectEnumerateReply, DrayError>>(count: shards.count)
        for (index, shard) in shards.enumerated() {
            let request = request
            xstream.spawn {
                do throws(DrayError) {
                    let reply = try await self.enumerate(
                        request, at: .rank(shard.rank, tag: shard.tag), object: object)
                    gather.finish(index, with: .success(reply))
                } catch {
                    gather.finish(index, with: .failure(error))
                }
            }
        }
        var keys: [[UInt8]] = []
        var bound: [UInt8]?
        var more = false
        for result in await gather.results() {
            let page = try result.get()
            keys += page.keys
            if page.more {
                more = true
                guard let last = page.keys.last else { continue }
                if bound.map({ last.lexicographicallyPrecedes($0) }) ?? true { bound = last }
            }
        }
        keys.sort { $0.lexicographicallyPrecedes($1) }
        if let bound { keys.removeAll { bound.lexicographicallyPrecedes($0) } }
        if keys.count > limit {
            keys.removeLast(keys.count - limit)
            more = true
        }
        return (keys, more)
    }

    private func enumerate(
        _ request: ObjectEnumerateRequest, at destination: Destination, object: DrayObject
    ) async throws(DrayError) -> ObjectEnumerateReply {
        try await retrying(subject(object)) {
            (deadline) async throws(RPCError) -> ObjectEnumerateReply in
            try await context.call(
                ObjectProtocol.enumerate, request, to: destination, deadline: deadline)
        }
    }
}
