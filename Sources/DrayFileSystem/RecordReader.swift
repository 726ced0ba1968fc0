/// Reads the fields of a record one after the other, and never beyond its end.
struct RecordReader {
    private let bytes: [UInt8]
    private var offset = 0

    init(_ bytes: [UInt8]) {
        self.bytes = bytes
    }

    /// The next little-endian number.
    mutating func next<Number: FixedWidthInteger & UnsignedInteger>()
        throws(FileSystemError) -> Number
    {
        let size = Number.bitWidth / 8
        guard bytes.count - offset >= size else {
            throw .corrupt("record of \(bytes.count) bytes ends early")
        }
        var value: Number = 0
        for index in (0..<size).reversed() {
            value = value << (size == 1 ? 0 : 8) | Number(bytes[offset + index])
        }
        offset += size
        return value
    }

    /// What remains, which must be `count` bytes.
    mutating func rest(count: Int) throws(FileSystemError) -> [UInt8] {
        guard bytes.count - offset == count else {
            throw .corrupt("record with \(bytes.count - offset) further bytes instead of \(count)")
        }
        defer { offset = bytes.count }
        return Array(bytes[offset...])
    }
}

extension [UInt8] {
    /// Appends the bytes of `value`, lowest first.
    mutating func append(littleEndian value: some FixedWidthInteger) {
        for shift in stride(from: 0, to: value.bitWidth, by: 8) {
            append(UInt8(truncatingIfNeeded: value >> shift))
        }
    }

    /// The eight bytes of `value`, highest first: they sort as the numbers do.
    init(bigEndian value: UInt64) {
        self = stride(from: 56, through: 0, by: -8).map {
            UInt8(truncatingIfNeeded: value >> UInt64($0))
        }
    }
}
