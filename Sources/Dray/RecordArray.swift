internal import DrayProtocol
public import DrayRuntime

/// An array of records: numbers, structures, pictures, whatever has one size. A position counts
/// records.
///
/// The first write of an array chooses its record size. Until the array, its dkey or its object is
/// removed, everybody must use the same size: `invalidArgument` otherwise. An array of bytes has
/// records of 1.
public struct RecordArray: Sendable {
    public let object: DrayObject
    public let dkey: [UInt8]
    public let akey: [UInt8]
    /// How many bytes a record has.
    public let recordSize: UInt32

    init(
        _ object: DrayObject, dkey: [UInt8], akey: [UInt8], recordSize: UInt32
    ) throws(DrayError) {
        guard recordSize > 0 else {
            throw DrayError(.invalidArgument, "a record has at least 1 byte")
        }
        try object.checkKeys(dkey: dkey, akey: akey)
        self.object = object
        self.dkey = dkey
        self.akey = akey
        self.recordSize = recordSize
    }

    /// Writes whole records, the first at `record`. Durable when it returns.
    public func write(
        _ bytes: [UInt8], at record: UInt64, condition: DrayObject.Condition = .none
    ) async throws(DrayError) {
        try await write(
            IOBuffer(copying: bytes), range: 0..<bytes.count, at: record, condition: condition)
    }

    /// Writes `range` of `buffer`, whole records, the first at `record`. Durable when it returns.
    ///
    /// Atomic up to 1 MiB. A longer range is written in parts of whole records, each with a
    /// deadline of its own; a record of more than 1 MiB in parts of it, so that others may see one
    /// that is half written. `progress` is called after each, with the bytes so far, on the
    /// client's xstream. The condition is that of the first part; an empty range is no write.
    ///
    /// - Throws: `exists` or `notFound` when the condition does not hold.
    public func write(
        _ buffer: IOBuffer, range: Range<Int>, at record: UInt64,
        condition: DrayObject.Condition = .none, progress: (@Sendable (Int) -> Void)? = nil
    ) async throws(DrayError) {
        let offset = try offset(of: record, byteCount: range.count)
        try object.checkRange(range, of: buffer, offset: offset)
        let array = self
        try await object.container.pool.cluster.onCore { core throws(DrayError) in
            try await core.write(
                array.object, dkey: array.dkey, akey: array.akey, offset: offset, buffer: buffer,
                range: range, recordSize: array.recordSize, condition: condition.wire,
                progress: progress)
        }
    }

    /// The bytes of `records`. Records that were never written are zero.
    ///
    /// - Throws: `notFound` when the condition does not hold.
    public func read(
        _ records: Range<UInt64>, condition: DrayObject.ReadCondition = .none
    ) async throws(DrayError) -> [UInt8] {
        let bytes = try bytes(of: records)
        guard let count = Int(exactly: bytes.upperBound - bytes.lowerBound) else {
            throw DrayError(.invalidArgument, "records \(records) are too many")
        }
        guard count > 0 else { return [] }
        let buffer = IOBuffer(count: count)
        try await read(
            into: buffer, range: 0..<count, at: records.lowerBound, condition: condition)
        return buffer.array(0..<count)
    }

    /// Reads whole records into `range` of `buffer`, the first one that at `record`. `progress` as
    /// for `write`.
    ///
    /// - Throws: `notFound` when the condition does not hold.
    public func read(
        into buffer: IOBuffer, range: Range<Int>, at record: UInt64,
        condition: DrayObject.ReadCondition = .none, progress: (@Sendable (Int) -> Void)? = nil
    ) async throws(DrayError) {
        let offset = try offset(of: record, byteCount: range.count)
        try object.checkRange(range, of: buffer, offset: offset)
        let array = self
        try await object.container.pool.cluster.onCore { core throws(DrayError) in
            try await core.read(
                array.object, dkey: array.dkey, akey: array.akey, offset: offset, buffer: buffer,
                range: range, recordSize: array.recordSize, condition: condition,
                progress: progress)
        }
    }

    /// How many records there are up to the last one that was written, that one included.
    ///
    /// - Throws: `notFound` when the condition does not hold.
    public func count(
        condition: DrayObject.ReadCondition = .none
    ) async throws(DrayError) -> UInt64 {
        let array = self
        let shape = try await object.container.pool.cluster.onCore { core throws(DrayError) in
            try await core.arrayShape(
                array.object, dkey: array.dkey, akey: array.akey, recordSize: array.recordSize,
                condition: condition)
        }
        // Of a record of more than 1 MiB the last part may be missing.
        let size = UInt64(recordSize)
        return shape.end / size + (shape.end % size > 0 ? 1 : 0)
    }

    /// The first byte of `record`, for a transfer of `byteCount` bytes: whole records.
    func offset(of record: UInt64, byteCount: Int) throws(DrayError) -> UInt64 {
        guard byteCount % Int(recordSize) == 0 else {
            throw DrayError(
                .invalidArgument,
                "\(byteCount) bytes are not whole records of \(recordSize) bytes")
        }
        let (offset, overflow) = record.multipliedReportingOverflow(by: UInt64(recordSize))
        guard !overflow else {
            throw DrayError(.invalidArgument, "record \(record) is beyond the end of any array")
        }
        return offset
    }

    /// The bytes of `records`.
    func bytes(of records: Range<UInt64>) throws(DrayError) -> Range<UInt64> {
        try offset(
            of: records.lowerBound, byteCount: 0)..<offset(
                of: records.upperBound, byteCount: 0)
    }
}

extension DrayObject {
    /// The array under the keys as one of records of `recordSize` bytes, whether there is one yet
    /// or not. Asks nobody.
    ///
    /// - Throws: `invalidArgument` when the size is 0, or a key is none of the object's.
    public func array(
        dkey: [UInt8], akey: [UInt8], recordSize: UInt32
    ) throws(DrayError) -> RecordArray {
        try RecordArray(self, dkey: dkey, akey: akey, recordSize: recordSize)
    }

    /// How many bytes a record of the array has; nil when there is no array.
    public func recordSize(dkey: [UInt8], akey: [UInt8]) async throws(DrayError) -> UInt32? {
        try checkKeys(dkey: dkey, akey: akey)
        let object = self
        let shape = try await container.pool.cluster.onCore { core throws(DrayError) in
            try await core.arrayShape(object, dkey: dkey, akey: akey, recordSize: 0)
        }
        return shape.recordSize == 0 ? nil : shape.recordSize
    }
}
