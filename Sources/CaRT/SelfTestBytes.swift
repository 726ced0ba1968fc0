internal import DrayRuntime

/// The bytes that a self-test sends.
enum SelfTestBytes {
    /// The seeds of both directions of a call.
    static func requestSeed(_ number: UInt64) -> UInt64 { number &* 2 }
    static func replySeed(_ number: UInt64) -> UInt64 { number &* 2 &+ 1 }

    /// Fills memory with bytes that depend on the seed and their place.
    static func fill(_ bytes: UnsafeMutableRawBufferPointer, seed: UInt64) {
        var value = start(seed)
        var offset = 0
        while offset + 8 <= bytes.count {
            step(&value)
            unsafe bytes.storeBytes(of: value.littleEndian, toByteOffset: offset, as: UInt64.self)
            offset += 8
        }
        step(&value)
        while offset < bytes.count {
            unsafe bytes[offset] = UInt8(truncatingIfNeeded: value >> UInt64(offset % 8 * 8))
            offset += 1
        }
    }

    /// Where the first byte is that `fill` would not have written; nil when all are right.
    static func difference(in bytes: UnsafeRawBufferPointer, seed: UInt64) -> Int? {
        var value = start(seed)
        var offset = 0
        while offset + 8 <= bytes.count {
            step(&value)
            let found = unsafe bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
            if found.littleEndian != value {
                return offset + (found.littleEndian ^ value).trailingZeroBitCount / 8
            }
            offset += 8
        }
        step(&value)
        while offset < bytes.count {
            let wanted = UInt8(truncatingIfNeeded: value >> UInt64(offset % 8 * 8))
            if unsafe bytes[offset] != wanted { return offset }
            offset += 1
        }
        return nil
    }

    private static func start(_ seed: UInt64) -> UInt64 { (seed &+ 1) &* 0x9e37_79b9_7f4a_7c15 }

    private static func step(_ value: inout UInt64) {
        value = value &* 0x5851_f42d_4c95_7f2d &+ 0x1405_7b7e_f767_814f
    }

    /// The checksum of a part at each end: enough to notice that nothing arrived, and cheap.
    static func sample(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        let head = unsafe UnsafeRawBufferPointer(rebasing: bytes.prefix(64))
        let tail = unsafe UnsafeRawBufferPointer(rebasing: bytes.suffix(64))
        return unsafe CRC32C.checksum(of: tail, continuing: CRC32C.checksum(of: head))
    }

    /// Throws when a byte is not what the seed says.
    static func check(
        _ bytes: UnsafeRawBufferPointer, seed: UInt64, _ what: String
    ) throws(RPCError) {
        guard let offset = unsafe difference(in: bytes, seed: seed) else { return }
        throw .application(
            code: SelfTest.ErrorCode.badContent,
            message: "byte \(offset) of the \(bytes.count) of a \(what) is not what was sent")
    }
}
