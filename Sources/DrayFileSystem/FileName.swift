/// The name of a directory's entry: 1 to 255 bytes without `/` and NUL, and neither `.` nor `..`.
///
/// A name is bytes and never a `String`: two names that differ only in their Unicode
/// normalisation are two names, and bytes that are no UTF-8 at all are a name too.
public struct FileName: Hashable, Comparable, Sendable {
    /// The bytes, as they stand in the directory.
    public let bytes: [UInt8]

    /// What every POSIX file system allows (NAME_MAX).
    public static let bytesMax = 255

    /// Throws `.invalidName` when `bytes` cannot be a name.
    public init(_ bytes: some Collection<UInt8>) throws(FileSystemError) {
        let bytes = Array(bytes)
        guard !bytes.isEmpty else {
            throw .invalidName(bytes, reason: "a name has at least one byte")
        }
        guard bytes.count <= FileName.bytesMax else {
            throw .invalidName(
                bytes, reason: "a name has at most \(FileName.bytesMax) bytes, this \(bytes.count)")
        }
        guard !bytes.contains(UInt8(ascii: "/")), !bytes.contains(0) else {
            throw .invalidName(bytes, reason: "a name contains neither '/' nor a zero byte")
        }
        guard bytes != [UInt8(ascii: ".")], bytes != [UInt8(ascii: "."), UInt8(ascii: ".")] else {
            throw .invalidName(bytes, reason: "'.' and '..' stand for directories")
        }
        self.bytes = bytes
    }

    /// Orders by bytes, as directories are listed.
    public static func < (left: FileName, right: FileName) -> Bool {
        left.bytes.lexicographicallyPrecedes(right.bytes)
    }
}
