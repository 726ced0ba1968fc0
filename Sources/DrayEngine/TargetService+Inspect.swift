internal import CaRT
internal import DrayProtocol
internal import DrayRuntime
internal import VOS

/// What tools and transactions without changes ask of one replica.
extension TargetService {
    /// Whether what a transaction has read in the redundancy groups led here is still the newest.
    func validate(
        _ request: ObjectUpdateRequest, _ call: RequestContext
    ) async throws(RPCError) -> EmptyMessage {
        if faults.isArmed { try await faults.pass(.engineObject, on: xstream) }
        var reads: [DTXRequest.Read] = []
        for part in request.parts {
            try check(part.target, for: .readOnly)
            guard try members(of: part).first == address else {
                throw .service(.staleMap, "the redundancy group is led by another target")
            }
            for read in part.reads {
                guard contexts?.contains(instance: read.instance) == true else {
                    throw .service(
                        .conflict, "the engine was restarted since the transaction has read")
                }
                reads.append(
                    DTXRequest.Read(
                        pool: part.target.pool, container: part.target.container,
                        object: part.target.object, dkey: read.dkey))
            }
        }
        do throws(VOSError) {
            try await vos.validate(reads, snapshot: request.snapshot, patience: patience(call))
        } catch {
            throw RPCError(error)
        }
        return EmptyMessage()
    }

    /// The most bytes of an array that are read at once for a checksum.
    private static let inspectedBytesMax = 1 << 20
    /// The most values in one answer, but for those of a last dkey.
    private static let inspectedValuesMax = 4096
    /// The most bytes that are read for one answer, but for those of a last dkey: it must come
    /// before the caller's deadline.
    private static let answeredBytesMax: UInt64 = 64 << 20

    /// Lists the objects of a container that have anything here.
    func listObjects(
        _ request: ObjectListRequest, _ call: RequestContext
    ) async throws(RPCError) -> ObjectListReply {
        if faults.isArmed { try await faults.pass(.engineObject, on: xstream) }
        let place = ObjectTarget(
            pool: request.pool, container: request.container, object: ObjectID(high: 0, low: 0),
            mapVersion: request.mapVersion, capability: request.capability)
        try check(place, for: .readOnly)
        try observe(epoch: request.epoch)
        let limit = Int(min(request.limit, UInt32(ObjectLimits.pageMax)))
        var reply = ObjectListReply()
        do throws(VOSError) {
            let page = try await vos.listObjects(
                pool: request.pool, container: request.container, after: request.after,
                limit: max(1, limit), epoch: request.epoch > 0 ? request.epoch : clock.now(),
                patience: patience(call))
            reply.objects = page.objects
            reply.more = page.next != nil
        } catch {
            throw RPCError(error)
        }
        return reply
    }

    /// Lists what is visible here of an object, with checksums of what the device gives.
    func inspect(
        _ request: ObjectInspectRequest, _ call: RequestContext
    ) async throws(RPCError) -> ObjectInspectReply {
        if faults.isArmed { try await faults.pass(.engineObject, on: xstream) }
        try check(request.target, for: .readOnly)
        var part = ObjectPart()
        part.target = request.target
        part.group = request.group
        guard try members(of: part).contains(address) else {
            throw .service(.staleMap, "the object's shard is not here")
        }
        try observe(epoch: request.epoch)
        let target = request.target
        let buffer = try makeBuffer(count: TargetService.inspectedBytesMax, of: call.context)
        let limit = Int(min(request.limit, UInt32(ObjectLimits.pageMax)))
        var reply = ObjectInspectReply()
        reply.epoch = request.epoch > 0 ? request.epoch : clock.now()
        do throws(VOSError) {
            var dkeys: [[UInt8]] = []
            if let dkey = request.dkey {
                dkeys = [dkey]
            } else {
                (dkeys, reply.next) = try await vos.listDkeys(
                    pool: target.pool, container: target.container, object: target.object,
                    after: request.afterDkey, limit: max(1, limit),
                    bytesMax: ObjectLimits.pageBytesMax, epoch: reply.epoch,
                    patience: patience(call), isolation: .repeatable)
            }
            var bytes: UInt64 = 0
            for dkey in dkeys {
                let first = reply.values.count
                try await inspect(
                    dkey, target, buffer, epoch: reply.epoch, patience(call), into: &reply.values)
                bytes += reply.values[first...].reduce(0) {
                    $0 + $1.length + UInt64($1.dkey.count + $1.akey.count)
                }
                let isFull =
                    reply.values.count >= TargetService.inspectedValuesMax
                    || bytes >= TargetService.answeredBytesMax
                if isFull, dkey != dkeys.last {
                    reply.next = dkey
                    break
                }
            }
        } catch {
            throw RPCError(error)
        }
        guard reply.values.count <= ObjectInspectReply.valuesMax else {
            throw .service(
                .invalidArgument,
                "one dkey has more than \(ObjectInspectReply.valuesMax) values and extents, too "
                    + "many to be listed at once")
        }
        return reply
    }

    private func inspect(
        _ dkey: [UInt8], _ target: ObjectTarget, _ buffer: RegisteredBuffer, epoch: UInt64,
        _ patience: Instant, into values: inout [InspectedValue]
    ) async throws(VOSError) {
        var after: [UInt8]?
        repeat {
            let akeys = try await vos.listAkeys(
                pool: target.pool, container: target.container, object: target.object, dkey: dkey,
                after: after, limit: ObjectLimits.pageMax, bytesMax: ObjectLimits.pageBytesMax,
                epoch: epoch, patience: patience, isolation: .repeatable)
            for akey in akeys.keys {
                var fetch = Fetch(
                    pool: target.pool, container: target.container, object: target.object,
                    dkey: dkey, akey: akey, epoch: epoch)
                fetch.patience = patience
                fetch.isolation = .repeatable
                fetch.readsDevice = true
                try await inspectSingle(fetch, buffer, into: &values)
                try await inspectArray(fetch, buffer, into: &values)
            }
            after = akeys.next
        } while after != nil
    }

    private func inspectSingle(
        _ fetch: Fetch, _ buffer: RegisteredBuffer, into values: inout [InspectedValue]
    ) async throws(VOSError) {
        var value = InspectedValue()
        value.dkey = fetch.dkey
        value.akey = fetch.akey
        do throws(VOSError) {
            let result = unsafe try await vos.fetchSingle(fetch, into: buffer.bytes)
            value.length = result.size
            value.epoch = result.epoch
            value.checksum = unsafe CRC32C.checksum(
                of: UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<result.byteCount]))
        } catch .notFound {
            return
        } catch .corrupt(let location, _) {
            value.length = UInt64(location.byteCount)
            value.epoch = location.epoch
            value.isCorrupt = true
        }
        values.append(value)
    }

    private func inspectArray(
        _ fetch: Fetch, _ buffer: RegisteredBuffer, into values: inout [InspectedValue]
    ) async throws(VOSError) {
        var next: UInt64? = 0
        while let offset = next {
            let page = try await vos.listExtents(fetch, from: offset, limit: ObjectLimits.pageMax)
            next = page.next
            for extent in page.extents {
                var value = InspectedValue()
                value.dkey = fetch.dkey
                value.akey = fetch.akey
                value.isArray = true
                value.offset = extent.offset
                value.length = extent.byteCount
                value.recordSize = extent.recordSize
                value.epoch = extent.epoch
                do throws(VOSError) {
                    // An extent is no longer than the buffer: `VOSLimits.valueLengthMax`.
                    let result = unsafe try await vos.fetchArray(
                        fetch, offset: extent.offset, length: Int(extent.byteCount),
                        into: buffer.bytes, findingEnd: false)
                    value.checksum = unsafe CRC32C.checksum(
                        of: UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<result.byteCount]))
                } catch .corrupt {
                    value.isCorrupt = true
                }
                values.append(value)
            }
        }
    }
}
