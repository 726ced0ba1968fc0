internal import ArgumentParser
internal import DrayFileSystem

/// A container of a pool: `POOL/CONTAINER`.
struct ContainerPath: ExpressibleByArgument, Hashable, Sendable {
    var pool: String
    var container: String

    init?(argument: String) {
        let parts = argument.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 2, !parts[0].isEmpty, !parts[1].isEmpty,
            !argument.contains(":")
        else { return nil }
        pool = String(parts[0])
        container = String(parts[1])
    }

    var text: String { "\(pool)/\(container)" }
}

/// A path in a container's file system: `POOL/CONTAINER:PATH`. The path may be any bytes.
struct StorePath: ExpressibleByArgument, Hashable, Sendable {
    var container: ContainerPath
    /// As it was given.
    var bytes: [UInt8]

    init?(argument: String) {
        guard let colon = argument.unicodeScalars.firstIndex(of: ":"),
            let container = ContainerPath(argument: String(argument[..<colon]))
        else { return nil }
        self.container = container
        bytes = ByteArgument.bytes(
            of: String(argument[argument.unicodeScalars.index(after: colon)...]))
    }

    /// The path. Throws for names that are too long and the like.
    func path() throws(FileSystemError) -> FilePath { try FilePath(bytes) }

    var text: String { "\(container.text):\(EscapedName.text(bytes))" }
}
