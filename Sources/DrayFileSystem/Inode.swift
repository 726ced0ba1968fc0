public import DrayRuntime

/// What an entry of a directory is.
public enum FileType: UInt8, Hashable, Sendable, CaseIterable {
    case file = 1
    case directory = 2
    case symbolicLink = 3
}

/// What a user may set on an entry.
public struct FileAttributes: Hashable, Sendable {
    /// Permission bits with set-user-id, set-group-id and sticky: 0 to 0o7777.
    public var mode: UInt16
    public var userID: UInt32
    public var groupID: UInt32
    public var accessed: Timestamp
    public var modified: Timestamp

    public init(
        mode: UInt16, userID: UInt32 = 0, groupID: UInt32 = 0, accessed: Timestamp,
        modified: Timestamp
    ) {
        precondition(mode <= 0o7777, "a mode has 12 bits")
        self.mode = mode
        self.userID = userID
        self.groupID = groupID
        self.accessed = accessed
        self.modified = modified
    }
}

/// The record of one entry: everything the file system knows about it but its name.
///
/// The layout is in README.md.
public struct Inode: Hashable, Sendable {
    public var type: FileType
    public var attributes: FileAttributes
    /// When the record was last written, by the writer's clock.
    public var changed: Timestamp
    /// Bytes of a file, or of a link's target; 0 for a directory.
    public var size: UInt64
    /// A file's chunks or a directory's entries. Zero for a symbolic link.
    public var objectID: ObjectID
    /// Bytes a chunk of a file has; 0 for others.
    public var chunkSize: UInt32
    /// Where a symbolic link points; empty for others.
    public var target: [UInt8]

    /// The version that `encoded` writes.
    static let version: UInt8 = 1

    /// Bytes before the link's target.
    static let headerSize = 80

    /// The record's bytes, little-endian.
    var encoded: [UInt8] {
        precondition(target.count <= FilePath.bytesMax)
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Inode.headerSize + target.count)
        bytes.append(Inode.version)
        bytes.append(type.rawValue)
        bytes.append(littleEndian: attributes.mode)
        bytes.append(littleEndian: attributes.userID)
        bytes.append(littleEndian: attributes.groupID)
        bytes.append(littleEndian: chunkSize)
        bytes.append(littleEndian: size)
        bytes.append(littleEndian: objectID.high)
        bytes.append(littleEndian: objectID.low)
        for time in [attributes.accessed, attributes.modified, changed] {
            bytes.append(littleEndian: UInt64(bitPattern: time.seconds))
        }
        for time in [attributes.accessed, attributes.modified, changed] {
            bytes.append(littleEndian: time.nanoseconds)
        }
        bytes.append(littleEndian: UInt16(target.count))
        bytes.append(littleEndian: UInt16(0))
        precondition(bytes.count == Inode.headerSize)
        return bytes + target
    }

    /// Reads a record. Throws `.corrupt`, never traps, whatever the bytes are.
    init(decoding bytes: [UInt8]) throws(FileSystemError) {
        var reader = RecordReader(bytes)
        let version: UInt8 = try reader.next()
        guard version == Inode.version else {
            throw .corrupt("entry of version \(version); this program reads \(Inode.version)")
        }
        let typeCode: UInt8 = try reader.next()
        guard let type = FileType(rawValue: typeCode) else {
            throw .corrupt("entry of unknown type \(typeCode)")
        }
        let mode: UInt16 = try reader.next()
        guard mode <= 0o7777 else { throw .corrupt("entry with mode \(mode)") }
        let userID: UInt32 = try reader.next()
        let groupID: UInt32 = try reader.next()
        chunkSize = try reader.next()
        size = try reader.next()
        objectID = ObjectID(high: try reader.next(), low: try reader.next())
        let seconds: [UInt64] = [try reader.next(), try reader.next(), try reader.next()]
        let nanoseconds: [UInt32] = [try reader.next(), try reader.next(), try reader.next()]
        let targetCount: UInt16 = try reader.next()
        let reserved: UInt16 = try reader.next()
        target = try reader.rest(count: Int(targetCount))
        guard reserved == 0 else { throw .corrupt("entry with reserved bits") }
        guard nanoseconds.allSatisfy({ $0 < 1_000_000_000 }) else {
            throw .corrupt("entry with a time of more than a second's nanoseconds")
        }
        let times = zip(seconds, nanoseconds).map {
            Timestamp(seconds: Int64(bitPattern: $0), nanoseconds: $1)
        }
        self.type = type
        attributes = FileAttributes(
            mode: mode, userID: userID, groupID: groupID, accessed: times[0], modified: times[1])
        changed = times[2]
        try checkShape()
    }

    init(
        type: FileType, attributes: FileAttributes, changed: Timestamp, size: UInt64,
        objectID: ObjectID, chunkSize: UInt32 = 0, target: [UInt8] = []
    ) {
        self.type = type
        self.attributes = attributes
        self.changed = changed
        self.size = size
        self.objectID = objectID
        self.chunkSize = chunkSize
        self.target = target
    }

    /// What the type demands of the other fields.
    private func checkShape() throws(FileSystemError) {
        switch type {
        case .file:
            guard target.isEmpty, chunkSize > 0, chunkSize <= FileSystem.chunkSizeMax else {
                throw .corrupt("file with a target or chunks of \(chunkSize) bytes")
            }
            guard size <= UInt64(Int64.max) else { throw .corrupt("file of \(size) bytes") }
        case .directory:
            guard target.isEmpty, chunkSize == 0, size == 0 else {
                throw .corrupt("directory with a target, chunks or a size")
            }
        case .symbolicLink:
            guard !target.isEmpty, target.count <= FilePath.bytesMax, !target.contains(0),
                size == UInt64(target.count), chunkSize == 0
            else { throw .corrupt("symbolic link with a target of \(target.count) bytes") }
        }
    }
}
