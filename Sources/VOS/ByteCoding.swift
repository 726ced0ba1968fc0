internal import DrayRuntime

/// What was read is not what the format says.
struct MalformedBytes: Error {
    let what: String
}

/// Reads numbers (little-endian) and strings from bytes, and never beyond them.
struct ByteReader {
    let bytes: [UInt8]
    private(set) var index: Int

    init(_ bytes: [UInt8], from index: Int = 0) {
        self.bytes = bytes
        self.index = index
    }

    var remaining: Int { bytes.count - index }

    private mutating func number<Number: FixedWidthInteger>(
        _ type: Number.Type
    ) throws(MalformedBytes) -> Number {
        let size = MemoryLayout<Number>.size
        guard remaining >= size else { throw MalformedBytes(what: "a number is cut off") }
        defer { index += size }
        // SAFETY: the bytes from `index` on were just counted.
        return unsafe bytes.withUnsafeBytes { bytes in
            unsafe Number(
                littleEndian: bytes.loadUnaligned(fromByteOffset: index, as: Number.self))
        }
    }

    mutating func byte() throws(MalformedBytes) -> UInt8 { try number(UInt8.self) }
    mutating func short() throws(MalformedBytes) -> UInt16 { try number(UInt16.self) }
    mutating func long() throws(MalformedBytes) -> UInt32 { try number(UInt32.self) }
    mutating func quad() throws(MalformedBytes) -> UInt64 { try number(UInt64.self) }

    /// An identifier, as `append(id:)` writes it.
    mutating func id() throws(MalformedBytes) -> UniqueID {
        let high = try number(UInt64.self)
        return UniqueID(high: high.byteSwapped, low: try number(UInt64.self).byteSwapped)
    }

    /// `count` bytes.
    mutating func string(_ count: Int) throws(MalformedBytes) -> [UInt8] {
        guard count >= 0, remaining >= count else {
            throw MalformedBytes(what: "a string of \(count) bytes is cut off")
        }
        defer { index += count }
        return Array(bytes[index..<index + count])
    }

    /// The first and the last of a range of epochs.
    mutating func epochs() throws(MalformedBytes) -> ClosedRange<UInt64> {
        let first = try quad()
        let last = try quad()
        guard first <= last else { throw MalformedBytes(what: "epochs \(first) to \(last)") }
        return first...last
    }

    /// A length of 4 bytes, not above `maximum`, and that many bytes.
    mutating func countedString(maximum: Int) throws(MalformedBytes) -> [UInt8] {
        let count = Int(try long())
        guard count <= maximum else {
            throw MalformedBytes(what: "a string of \(count) bytes, where \(maximum) are the most")
        }
        return try string(count)
    }
}

extension [UInt8] {
    @inline(__always)
    mutating func put<Number: FixedWidthInteger>(_ number: Number) {
        unsafe Swift.withUnsafeBytes(of: number.littleEndian) { unsafe append(contentsOf: $0) }
    }

    mutating func put(string: [UInt8]) {
        put(UInt32(string.count))
        append(contentsOf: string)
    }

    /// CRC32C of the first `length` bytes.
    func checksum(first length: Int) -> UInt32 {
        unsafe withUnsafeBytes { bytes in
            unsafe CRC32C.checksum(of: UnsafeRawBufferPointer(rebasing: bytes[0..<length]))
        }
    }
}
