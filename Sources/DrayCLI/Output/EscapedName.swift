internal import DrayFileSystem

/// Names of files and keys, as a terminal can show them.
enum EscapedName {
    /// `bytes` as text: control bytes and what is no UTF-8 are written `\xNN`.
    static func text(_ bytes: [UInt8]) -> String { FileSystemError.text(bytes) }
}
