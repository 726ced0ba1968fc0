internal import DrayRuntime
internal import Glibc

/// Little-endian fields at fixed places of a transfer buffer, bounds-checked.
extension IOBuffer {
    func store<Value: FixedWidthInteger>(_ value: Value, at offset: Int) {
        precondition(offset >= 0 && offset + MemoryLayout<Value>.size <= count)
        unsafe bytes.storeBytes(of: value.littleEndian, toByteOffset: offset, as: Value.self)
    }

    func load<Value: FixedWidthInteger>(_ type: Value.Type, at offset: Int) -> Value {
        precondition(offset >= 0 && offset + MemoryLayout<Value>.size <= count)
        return Value(littleEndian: unsafe bytes.loadUnaligned(fromByteOffset: offset, as: type))
    }

    func store(_ identity: UniqueID, at offset: Int) {
        store(identity.high, at: offset)
        store(identity.low, at: offset + 8)
    }

    func loadIdentity(at offset: Int) -> UniqueID {
        UniqueID(high: load(UInt64.self, at: offset), low: load(UInt64.self, at: offset + 8))
    }

    /// CRC32C of the bytes in `range`.
    func checksum(_ range: Range<Int>) -> UInt32 {
        precondition(range.lowerBound >= 0 && range.upperBound <= count)
        return unsafe CRC32C.checksum(of: UnsafeRawBufferPointer(rebasing: bytes[range]))
    }

    func zero(_ range: Range<Int>) {
        precondition(range.lowerBound >= 0 && range.upperBound <= count)
        guard !range.isEmpty else { return }
        unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[range])
            .initializeMemory(as: UInt8.self, repeating: 0)
    }

    /// Whether every byte in `range` is zero.
    func isZero(_ range: Range<Int>) -> Bool {
        precondition(range.lowerBound >= 0 && range.upperBound <= count)
        guard !range.isEmpty, unsafe bytes[range.lowerBound] == 0 else { return range.isEmpty }
        // Equal to itself shifted by one byte: all bytes equal the first one.
        let first = unsafe bytes.baseAddress! + range.lowerBound
        return unsafe memcmp(first, first + 1, range.count - 1) == 0
    }

    func readable(_ range: Range<Int>) -> UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(rebasing: bytes[range])
    }

    func writable(_ range: Range<Int>) -> UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[range])
    }
}
