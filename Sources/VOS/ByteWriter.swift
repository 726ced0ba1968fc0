internal import DrayRuntime
internal import Glibc

/// Writes numbers and strings into memory that was measured before. Traps when it does not fit.
@safe struct ByteWriter {
    // SAFETY: `[UInt8].written` lends it memory of `capacity` bytes.
    private let start: UnsafeMutableRawPointer
    private let capacity: Int
    private(set) var count = 0

    fileprivate init(_ memory: UnsafeMutableRawBufferPointer) {
        unsafe start = memory.baseAddress!
        capacity = memory.count
    }

    /// A number, least significant byte first.
    @inline(__always)
    mutating func put<Number: FixedWidthInteger & BitwiseCopyable>(_ number: Number) {
        let size = MemoryLayout<Number>.size
        precondition(size <= capacity - count)
        unsafe start.storeBytes(of: number.littleEndian, toByteOffset: count, as: Number.self)
        count += size
    }

    /// Eight bytes, most significant first.
    @inline(__always)
    mutating func put(word: UInt64) { put(word.byteSwapped) }

    @inline(__always)
    mutating func put(id: UniqueID) {
        put(word: id.high)
        put(word: id.low)
    }

    mutating func put(bytes: [UInt8]) {
        unsafe bytes.withUnsafeBytes { unsafe put($0) }
    }

    mutating func put(bytes: [UInt8], _ range: Range<Int>) {
        unsafe bytes.withUnsafeBytes { unsafe put(UnsafeRawBufferPointer(rebasing: $0[range])) }
    }

    private mutating func put(_ bytes: UnsafeRawBufferPointer) {
        guard let first = bytes.baseAddress, bytes.count > 0 else { return }
        precondition(bytes.count <= capacity - count)
        unsafe memcpy(start + count, first, bytes.count)
        count += bytes.count
    }

    /// A length of four bytes, and that many bytes.
    mutating func put(string: [UInt8]) {
        put(UInt32(string.count))
        put(bytes: string)
    }
}

extension [UInt8] {
    /// What fits is written on the stack.
    private static let stackBytes = 512

    /// The bytes that `body` writes: at most `capacity`. There is room for `spare` more.
    ///
    /// Written elsewhere and copied once: the array's initialisers for memory that is filled in
    /// place look up its type at run time, which costs more than a short string does.
    @inline(__always)
    static func written(
        capacity: Int, spare: Int = 0, _ body: (inout ByteWriter) -> Void
    ) -> [UInt8] {
        let bytes =
            capacity <= stackBytes
            ? unsafe withUnsafeTemporaryAllocation(
                byteCount: stackBytes, alignment: 8
            ) { memory in unsafe written(to: memory, spare: spare, body) }
            : unsafe withUnsafeTemporaryAllocation(byteCount: capacity, alignment: 8) { memory in
                unsafe written(to: memory, spare: spare, body)
            }
        return bytes
    }

    @inline(__always)
    private static func written(
        to memory: UnsafeMutableRawBufferPointer, spare: Int, _ body: (inout ByteWriter) -> Void
    ) -> [UInt8] {
        var writer = unsafe ByteWriter(memory)
        body(&writer)
        var bytes: [UInt8] = []
        bytes.reserveCapacity(writer.count + spare)
        unsafe bytes.append(
            contentsOf: UnsafeRawBufferPointer(rebasing: memory[0..<writer.count]))
        return bytes
    }
}
