/// A path from the root of a file system, as bytes.
///
/// Repeated slashes and `.` say nothing and are dropped; `..` is kept, because it means the parent
/// of what the path reached so far, which a symbolic link may have changed.
public struct FilePath: Hashable, Sendable {
    /// A step of a path.
    public enum Component: Hashable, Sendable {
        case name(FileName)
        case parent
    }

    /// The steps from the root. Empty for the root itself.
    public var components: [Component]

    /// Whether the text ended with a slash: what it names must be a directory.
    public let requiresDirectory: Bool

    /// The longest path in bytes (PATH_MAX).
    public static let bytesMax = 4096

    /// The root.
    public static var root: FilePath { FilePath(components: []) }

    public init(components: [Component]) {
        self.components = components
        requiresDirectory = components.isEmpty
    }

    /// Reads a path; a leading slash is optional. Throws `.invalidName` for a step that cannot be
    /// a name, or a path of more than `bytesMax` bytes.
    public init(_ bytes: some Collection<UInt8>) throws(FileSystemError) {
        guard bytes.count <= FilePath.bytesMax else {
            throw .invalidName(
                Array(bytes.prefix(64)),
                reason: "a path has at most \(FilePath.bytesMax) bytes, this \(bytes.count)")
        }
        let slash = UInt8(ascii: "/")
        let dot = UInt8(ascii: ".")
        var components: [Component] = []
        for part in Array(bytes).split(separator: slash) {
            if part.elementsEqual([dot]) { continue }
            if part.elementsEqual([dot, dot]) {
                components.append(.parent)
            } else {
                components.append(.name(try FileName(part)))
            }
        }
        self.components = components
        requiresDirectory = components.isEmpty || Array(bytes.suffix(1)) == [slash]
    }

    /// The path of the entry `name` in this directory.
    public func appending(_ name: FileName) -> FilePath {
        FilePath(components: components + [.name(name)])
    }

    /// The path as text: absolute, with single slashes.
    public var bytes: [UInt8] {
        guard !components.isEmpty else { return [UInt8(ascii: "/")] }
        var bytes: [UInt8] = []
        for component in components {
            bytes.append(UInt8(ascii: "/"))
            switch component {
            case .name(let name): bytes += name.bytes
            case .parent: bytes += [UInt8(ascii: "."), UInt8(ascii: ".")]
            }
        }
        return bytes
    }
}
