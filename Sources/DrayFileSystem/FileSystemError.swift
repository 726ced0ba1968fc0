public import Dray

/// What can go wrong in a file system.
public enum FileSystemError: Error, Sendable {
    /// No entry of this name, or at this path.
    case notFound([UInt8])
    /// An entry of this name stands there already.
    case exists([UInt8])
    /// A step of a path, or the target of an operation, is not a directory.
    case notDirectory([UInt8])
    /// A directory stands where a file or a link is expected.
    case isDirectory([UInt8])
    /// A directory that is to be removed has entries.
    case notEmpty([UInt8])
    /// Bytes that cannot be a name, a path or a link's target.
    case invalidName([UInt8], reason: String)
    /// More symbolic links than `FileSystem.linksMax` on the way to this path.
    case tooManyLinks([UInt8])
    /// A record that this version cannot read.
    case corrupt(String)
    /// The container holds no file system.
    case notFormatted(String)
    /// The container holds a file system already.
    case alreadyFormatted(String)
    /// The store failed.
    case store(DrayError)
}

extension FileSystemError: CustomStringConvertible {
    /// One line: what it concerns, and why.
    public var description: String {
        switch self {
        case .notFound(let name): "\(FileSystemError.text(name)): no such file or directory"
        case .exists(let name): "\(FileSystemError.text(name)): exists already"
        case .notDirectory(let name): "\(FileSystemError.text(name)): not a directory"
        case .isDirectory(let name): "\(FileSystemError.text(name)): is a directory"
        case .notEmpty(let name): "\(FileSystemError.text(name)): the directory is not empty"
        case .invalidName(let name, let reason): "\(FileSystemError.text(name)): \(reason)"
        case .tooManyLinks(let name):
            "\(FileSystemError.text(name)): more than \(FileSystem.linksMax) symbolic links"
        case .corrupt(let what): "damaged record: \(what)"
        case .notFormatted(let label): "container \(label) holds no file system"
        case .alreadyFormatted(let label): "container \(label) holds a file system already"
        case .store(let error): error.message
        }
    }

    /// A name for a message: control bytes and bytes that are no UTF-8 are escaped.
    public static func text(_ bytes: [UInt8]) -> String {
        if let text = String(validating: bytes, as: UTF8.self),
            !text.unicodeScalars.contains(where: { $0.value < 32 || $0.value == 127 })
        {
            return text
        }
        let digits = Array("0123456789abcdef")
        var text = ""
        for byte in bytes {
            if byte >= 32, byte < 127, byte != UInt8(ascii: "\\") {
                text.unicodeScalars.append(Unicode.Scalar(byte))
            } else {
                text += "\\x\(digits[Int(byte >> 4)])\(digits[Int(byte & 15)])"
            }
        }
        return text
    }
}

/// Runs an operation of the store and wraps its error.
func store<Value>(
    _ body: () async throws(DrayError) -> Value
) async throws(FileSystemError) -> Value {
    do throws(DrayError) {
        return try await body()
    } catch {
        throw .store(error)
    }
}
