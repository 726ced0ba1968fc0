internal import CCrypto
internal import CXXHash
internal import DrayRuntime

/// How the chunks of values are checked. Chosen for each container when it is made (DAOS: the
/// container property `cksum`).
///
/// A checksum is one or more words of 4 bytes; those of several chunks follow each other.
public enum ChecksumType: UInt8, Sendable, Hashable, CaseIterable {
    /// CRC32C (Castagnoli, RFC 3720): finds what rots; the processor has an instruction for it.
    case crc32c = 0
    /// XXH64, by xxHash: twice as long, so that chance does not hide damage.
    case xxh64 = 1
    /// SHA-256 (FIPS 180-4), by OpenSSL: nobody can find other bytes with the same one.
    case sha256 = 2
    /// None: what was damaged is not found.
    case off = 3

    /// The most words of one checksum.
    public static let wordsMax = 8

    /// The words of one checksum.
    @inlinable
    public var words: Int {
        switch self {
        case .crc32c: 1
        case .xxh64: 2
        case .sha256: 8
        case .off: 0
        }
    }

    /// As people write it.
    public var name: String {
        switch self {
        case .crc32c: "crc32c"
        case .xxh64: "xxh64"
        case .sha256: "sha256"
        case .off: "off"
        }
    }

    /// The type with a name; nil when there is none.
    public init?(name: String) {
        guard let type = ChecksumType.allCases.first(where: { $0.name == name }) else {
            return nil
        }
        self = type
    }

    /// The words of the checksums of each `chunk` bytes of `bytes`, the last chunk being shorter.
    public func checksums(of bytes: UnsafeRawBufferPointer, chunk: Int) -> [UInt32] {
        precondition(chunk > 0)
        var checksums: [UInt32] = []
        guard self != .off else { return checksums }
        checksums.reserveCapacity((bytes.count + chunk - 1) / chunk * words)
        var start = 0
        while start < bytes.count {
            let end = min(bytes.count, start + chunk)
            unsafe append(of: UnsafeRawBufferPointer(rebasing: bytes[start..<end]), to: &checksums)
            start = end
        }
        return checksums
    }

    /// Appends the words of the checksum of `bytes`.
    public func append(of bytes: UnsafeRawBufferPointer, to checksums: inout [UInt32]) {
        switch self {
        case .crc32c: unsafe checksums.append(CRC32C.checksum(of: bytes))
        case .xxh64:
            // SAFETY: xxHash reads `bytes.count` bytes.
            let hash = unsafe XXH64(bytes.baseAddress, bytes.count, 0)
            checksums.append(UInt32(truncatingIfNeeded: hash))
            checksums.append(UInt32(truncatingIfNeeded: hash >> 32))
        case .sha256:
            unsafe withUnsafeTemporaryAllocation(byteCount: 32, alignment: 4) { digest in
                let input = unsafe bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
                let output = unsafe digest.baseAddress?.assumingMemoryBound(to: UInt8.self)
                // SAFETY: OpenSSL reads `bytes.count` bytes and writes 32.
                _ = unsafe SHA256(input, bytes.count, output)
                for index in 0..<8 {
                    let word = unsafe digest.load(fromByteOffset: 4 * index, as: UInt32.self)
                    checksums.append(UInt32(littleEndian: word))
                }
            }
        case .off: break
        }
    }
}
