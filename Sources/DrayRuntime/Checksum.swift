internal import CISAL

/// CRC32C (Castagnoli, RFC 3720) by ISA-L.
public enum CRC32C {
    /// The checksum of `bytes`, continuing from `previous` (the checksum of what stands before).
    ///
    /// About 20 GB/s on a current processor.
    public static func checksum(of bytes: RawSpan, continuing previous: UInt32 = 0) -> UInt32 {
        unsafe bytes.withUnsafeBytes { buffer in
            unsafe checksum(of: buffer, continuing: previous)
        }
    }

    /// The checksum of `buffer`, for callers that hold memory of a device or the fabric.
    public static func checksum(
        of buffer: UnsafeRawBufferPointer, continuing previous: UInt32 = 0
    ) -> UInt32 {
        precondition(buffer.count <= Int(Int32.max), "a checksum covers at most 2 GiB")
        guard let base = buffer.baseAddress else { return previous }
        // SAFETY: ISA-L reads `buffer.count` bytes and takes a non-const pointer only by habit.
        let bytes = unsafe UnsafeMutableRawPointer(mutating: base)
            .assumingMemoryBound(to: UInt8.self)
        return unsafe ~crc32_iscsi(bytes, Int32(buffer.count), ~previous)
    }
}
