internal import Dray
public import DrayRuntime

/// A directory: an object whose dkeys are names, each with a record under the akey `inode`.
///
/// Two clients may change a directory at the same time; each entry changes as a whole.
public struct Directory: Sendable {
    let fileSystem: FileSystem
    /// The object with the entries.
    public let objectID: ObjectID

    /// The akey of an entry's record.
    static let inodeKey = Array("inode".utf8)

    /// An entry as it is listed.
    public struct Entry: Sendable {
        public let name: FileName
        public let inode: Inode
    }

    private var object: DrayObject { fileSystem.container.object(objectID) }

    // MARK: - Reading

    /// The record of the entry `name`; nil when there is none. One round trip.
    public func inode(_ name: FileName) async throws(FileSystemError) -> Inode? {
        let object = object
        let record = try await store { () async throws(DrayError) in
            try await object.get(dkey: name.bytes, akey: Directory.inodeKey)
        }
        guard let record else { return nil }
        return try Inode(decoding: record)
    }

    /// A page of names in byte order, from the first after `name`.
    ///
    /// - Parameter limit: 1 to `FileSystem.pageMax`.
    public func names(
        after name: FileName? = nil, limit: Int = FileSystem.pageMax
    ) async throws(FileSystemError) -> (names: [FileName], more: Bool) {
        precondition(limit > 0 && limit <= FileSystem.pageMax)
        let object = object
        let page = try await store { () async throws(DrayError) in
            try await object.listDkeys(after: name?.bytes, limit: limit)
        }
        var names: [FileName] = []
        names.reserveCapacity(page.keys.count)
        for key in page.keys { names.append(try FileName(key)) }
        return (names, page.more)
    }

    /// A page of entries in byte order of their names, from the first after `name`.
    ///
    /// One round trip for the names, then one each for the records, `FileSystem.inFlightMax` at a
    /// time. An entry that is removed meanwhile is left out.
    public func entries(
        after name: FileName? = nil, limit: Int = FileSystem.pageMax
    ) async throws(FileSystemError) -> (entries: [Entry], last: FileName?, more: Bool) {
        let page = try await names(after: name, limit: limit)
        let inodes = try await concurrently(page.names) {
            (name: FileName) async throws(FileSystemError) in try await inode(name)
        }
        var entries: [Entry] = []
        entries.reserveCapacity(inodes.count)
        for (name, inode) in zip(page.names, inodes) {
            if let inode { entries.append(Entry(name: name, inode: inode)) }
        }
        return (entries, page.names.last, page.more)
    }

    // MARK: - Making entries

    /// Makes a directory. Throws `.exists`.
    public func makeDirectory(
        _ name: FileName, attributes: FileAttributes
    ) async throws(FileSystemError) -> Directory {
        let id = try await fileSystem.makeObjectID()
        let inode = Inode(
            type: .directory, attributes: attributes, changed: fileSystem.now, size: 0,
            objectID: id)
        guard try await insert(name, inode) else { throw .exists(name.bytes) }
        return fileSystem.directory(inode)
    }

    /// Gives a file its name. What the name stood for before is gone when this returns; at no
    /// moment does the name stand for anything but the old file or the whole new one.
    ///
    /// - Parameters:
    ///   - size: bytes of the file; what was not written reads as zeroes. Nothing may have been
    ///     written beyond: its space would not be given back.
    ///   - replacing: whether a file or a link of that name gives way. A directory never does.
    public func link(
        _ file: File, size: UInt64, as name: FileName, attributes: FileAttributes,
        replacing: Bool = true
    ) async throws(FileSystemError) {
        let inode = Inode(
            type: .file, attributes: attributes, changed: fileSystem.now, size: size,
            objectID: file.objectID, chunkSize: file.chunkSize)
        try await place(name, inode, replacing: replacing)
    }

    /// Makes a symbolic link to `target`: 1 to `FilePath.bytesMax` bytes, no zero byte.
    public func makeSymbolicLink(
        _ name: FileName, target: [UInt8], attributes: FileAttributes, replacing: Bool = true
    ) async throws(FileSystemError) {
        guard !target.isEmpty, target.count <= FilePath.bytesMax, !target.contains(0) else {
            throw .invalidName(
                target, reason: "a link's target has 1 to \(FilePath.bytesMax) bytes, none zero")
        }
        let inode = Inode(
            type: .symbolicLink, attributes: attributes, changed: fileSystem.now,
            size: UInt64(target.count), objectID: ObjectID(high: 0, low: 0), target: target)
        try await place(name, inode, replacing: replacing)
    }

    /// Changes the mode, owner and times of an entry. Throws `.notFound`.
    public func setAttributes(
        _ name: FileName, _ attributes: FileAttributes
    ) async throws(FileSystemError) {
        guard var inode = try await inode(name) else { throw .notFound(name.bytes) }
        inode.attributes = attributes
        inode.changed = fileSystem.now
        try await write(name, inode, condition: .none)
    }

    private func place(
        _ name: FileName, _ inode: Inode, replacing: Bool
    ) async throws(FileSystemError) {
        if try await insert(name, inode) { return }
        guard replacing else { throw .exists(name.bytes) }
        let old = try await self.inode(name)
        if old?.type == .directory { throw .isDirectory(name.bytes) }
        try await write(name, inode, condition: .none)
        if let old { try await fileSystem.release(old) }
    }

    private func insert(
        _ name: FileName, _ inode: Inode
    ) async throws(FileSystemError) -> Bool {
        do throws(FileSystemError) {
            try await write(name, inode, condition: .insert)
            return true
        } catch {
            if case .store(let cause) = error, cause.code == .exists { return false }
            throw error
        }
    }

    private func write(
        _ name: FileName, _ inode: Inode, condition: DrayObject.Condition
    ) async throws(FileSystemError) {
        let object = object
        try await store { () async throws(DrayError) in
            try await object.put(
                dkey: name.bytes, akey: Directory.inodeKey, value: inode.encoded,
                condition: condition)
        }
    }

    // MARK: - Removing entries

    /// Removes a file, a link, or a directory without entries. Throws `.notFound`, `.notEmpty`.
    public func remove(_ name: FileName) async throws(FileSystemError) {
        guard let inode = try await inode(name) else { throw .notFound(name.bytes) }
        if inode.type == .directory {
            let page = try await fileSystem.directory(inode).names(limit: 1)
            guard page.names.isEmpty else { throw .notEmpty(name.bytes) }
        }
        try await removeEntry(name, inode)
    }

    /// Removes an entry with everything below it.
    public func removeTree(_ name: FileName) async throws(FileSystemError) {
        guard let inode = try await inode(name) else { throw .notFound(name.bytes) }
        if inode.type == .directory {
            try await fileSystem.directory(inode).removeEntries()
        }
        try await removeEntry(name, inode)
    }

    /// Removes all entries of this directory with everything below them.
    ///
    /// Goes on from page to page, because the store passes over what was removed a moment ago one
    /// key at a time; then once more from the start, until nobody has added anything.
    func removeEntries() async throws(FileSystemError) {
        var after: FileName?
        while true {
            let page = try await entries(after: after)
            for entry in page.entries where entry.inode.type == .directory {
                try await fileSystem.directory(entry.inode).removeEntries()
            }
            _ = try await concurrently(page.entries) {
                (entry: Entry) async throws(FileSystemError) in
                try await removeEntry(entry.name, entry.inode)
            }
            if after == nil, page.last == nil { return }
            after = page.more ? page.last : nil
        }
    }

    private func removeEntry(_ name: FileName, _ inode: Inode) async throws(FileSystemError) {
        let object = object
        try await store { () async throws(DrayError) in try await object.remove(dkey: name.bytes) }
        try await fileSystem.release(inode)
    }
}
