internal import DrayRuntime

/// What makes a container a file system: its version, its chunk size and its root.
struct Superblock: Hashable, Sendable {
    /// Bytes a chunk of a new file has.
    var chunkSize: UInt32
    /// The root directory's object.
    var rootID: ObjectID

    /// "DrayDFS" and a version.
    static let magic: UInt64 = 0x0153_4644_7961_7244

    /// Where the record stands in the superblock's object; a single version of everything.
    static let dkey = Array("superblock".utf8)
    static let akey = Array("superblock".utf8)
    /// The dkey of the root's own record: an entry of the superblock's object.
    static let rootName = Array("/".utf8)

    var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(littleEndian: Superblock.magic)
        bytes.append(littleEndian: chunkSize)
        bytes.append(littleEndian: rootID.high)
        bytes.append(littleEndian: rootID.low)
        return bytes
    }

    init(chunkSize: UInt32, rootID: ObjectID) {
        self.chunkSize = chunkSize
        self.rootID = rootID
    }

    /// Reads a record. Throws `.corrupt`, never traps.
    init(decoding bytes: [UInt8]) throws(FileSystemError) {
        var reader = RecordReader(bytes)
        let magic: UInt64 = try reader.next()
        guard magic == Superblock.magic else {
            throw .corrupt("superblock begins with \(String(magic, radix: 16))")
        }
        chunkSize = try reader.next()
        rootID = ObjectID(high: try reader.next(), low: try reader.next())
        _ = try reader.rest(count: 0)
        guard chunkSize > 0, chunkSize <= FileSystem.chunkSizeMax else {
            throw .corrupt("superblock with chunks of \(chunkSize) bytes")
        }
    }
}
