public import Dray
public import DrayRuntime

/// A POSIX namespace in a container: what DAOS calls DFS.
///
/// A directory is an object whose dkeys are the names of its entries, a file is an object with one
/// dkey per chunk of 1 MiB. Safe from any task; every operation costs one round trip per step of a
/// path, plus its own. Nothing is cached: what one client wrote, another sees at once.
public struct FileSystem: Sendable {
    /// Where the file system lives.
    public let container: Container
    let clock: WorldClock
    let superblock: Superblock

    /// Bytes of a chunk of a new file.
    public static let chunkSize = 1 << 20
    /// The largest chunk that a record may ask for.
    static let chunkSizeMax: UInt32 = 64 << 20
    /// The most requests that one operation here keeps in flight.
    public static let inFlightMax = 32
    /// The most symbolic links followed on the way to a path.
    public static let linksMax = 40
    /// The most entries of one page of a listing.
    public static let pageMax = 1024

    /// Creates a file system in a container that has none. Throws `.alreadyFormatted`.
    ///
    /// - Parameter attributes: what the root directory gets.
    public static func format(
        _ container: Container, clock: WorldClock, attributes: FileAttributes? = nil
    ) async throws(FileSystemError) -> FileSystem {
        let now = Timestamp(wallNanoseconds: clock.wallNanoseconds)
        let rootID = try await store { () async throws(DrayError) in
            try await container.makeObjectID()
        }
        let superblock = Superblock(chunkSize: UInt32(chunkSize), rootID: rootID)
        let object = container.object(superblockID(of: container))
        do throws(DrayError) {
            try await object.put(
                dkey: Superblock.dkey, akey: Superblock.akey, value: superblock.encoded,
                condition: .insert)
        } catch {
            if error.code == .exists { throw .alreadyFormatted(container.label) }
            throw .store(error)
        }
        let fileSystem = FileSystem(container: container, clock: clock, superblock: superblock)
        if let attributes {
            try await fileSystem.setRootAttributes(attributes, changed: now)
        }
        return fileSystem
    }

    /// Opens the file system of a container. Throws `.notFormatted`, `.corrupt`.
    public static func mount(
        _ container: Container, clock: WorldClock
    ) async throws(FileSystemError) -> FileSystem {
        let object = container.object(superblockID(of: container))
        let record = try await store { () async throws(DrayError) in
            try await object.get(dkey: Superblock.dkey, akey: Superblock.akey)
        }
        guard let record else { throw .notFormatted(container.label) }
        return FileSystem(
            container: container, clock: clock, superblock: try Superblock(decoding: record))
    }

    /// Opens the file system of a container, and creates it in a container that has none.
    public static func mountOrFormat(
        _ container: Container, clock: WorldClock
    ) async throws(FileSystemError) -> FileSystem {
        do throws(FileSystemError) {
            return try await mount(container, clock: clock)
        } catch {
            guard case .notFormatted = error else { throw error }
        }
        do throws(FileSystemError) {
            return try await format(container, clock: clock)
        } catch {
            guard case .alreadyFormatted = error else { throw error }
            return try await mount(container, clock: clock)
        }
    }

    /// The root directory.
    public var root: Directory { Directory(fileSystem: self, objectID: superblock.rootID) }

    /// The root's record. A root that nobody has set attributes of has mode 0755 and time zero.
    public func rootInode() async throws(FileSystemError) -> Inode {
        let object = container.object(FileSystem.superblockID(of: container))
        let record = try await store { () async throws(DrayError) in
            try await object.get(dkey: Superblock.rootName, akey: Directory.inodeKey)
        }
        if let record { return try Inode(decoding: record) }
        let epoch = Timestamp(seconds: 0, nanoseconds: 0)
        return Inode(
            type: .directory,
            attributes: FileAttributes(mode: 0o755, accessed: epoch, modified: epoch),
            changed: epoch, size: 0, objectID: superblock.rootID)
    }

    func setRootAttributes(
        _ attributes: FileAttributes, changed: Timestamp
    ) async throws(FileSystemError) {
        let inode = Inode(
            type: .directory, attributes: attributes, changed: changed, size: 0,
            objectID: superblock.rootID)
        let object = container.object(FileSystem.superblockID(of: container))
        try await store { () async throws(DrayError) in
            try await object.put(
                dkey: Superblock.rootName, akey: Directory.inodeKey, value: inode.encoded,
                condition: .none)
        }
    }

    /// The wall-clock time, for the `changed` field of what is written now.
    var now: Timestamp { currentTime }

    /// The time of this file system's clock, for what is made now.
    public var currentTime: Timestamp { Timestamp(wallNanoseconds: clock.wallNanoseconds) }

    /// A file without a name: write its contents, then give it one with `Directory.link`.
    public func makeFile() async throws(FileSystemError) -> File {
        let id = try await makeObjectID()
        return File(object: container.object(id), objectID: id, chunkSize: superblock.chunkSize)
    }

    /// The id of a new object of the container's class.
    func makeObjectID() async throws(FileSystemError) -> ObjectID {
        try await store { () async throws(DrayError) in try await container.makeObjectID() }
    }

    /// The contents of the file with this record.
    public func file(_ inode: Inode) -> File {
        precondition(inode.type == .file, "only a file has contents")
        return File(
            object: container.object(inode.objectID), objectID: inode.objectID,
            chunkSize: inode.chunkSize)
    }

    /// The directory with this record.
    public func directory(_ inode: Inode) -> Directory {
        precondition(inode.type == .directory)
        return Directory(fileSystem: self, objectID: inode.objectID)
    }

    /// Gives back what a record that is no longer in any directory refers to.
    func release(_ inode: Inode) async throws(FileSystemError) {
        let object = container.object(inode.objectID)
        if inode.type == .symbolicLink || (inode.type == .file && inode.size == 0) { return }
        let isOneChunk = inode.type == .file && inode.size <= UInt64(inode.chunkSize)
        try await store { () async throws(DrayError) in
            // One request to the chunk's shard, where a punch of the object is one to each.
            if isOneChunk {
                try await object.remove(dkey: [UInt8](bigEndian: UInt64(0)))
            } else {
                try await object.punch()
            }
        }
    }
}
