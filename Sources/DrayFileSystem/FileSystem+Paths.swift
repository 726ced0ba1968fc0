/// What a path leads to.
public struct Location: Sendable {
    /// The directory that has the entry, and its name there. Nil for the root.
    public let parent: Directory?
    public let name: FileName?
    public let inode: Inode
}

extension FileSystem {
    /// What stands at `path`. Throws `.notFound`, `.notDirectory`, `.tooManyLinks`.
    ///
    /// - Parameter followingLinks: whether a symbolic link in the last place is followed. Links
    ///   before it always are. An absolute target starts at the root of this file system.
    public func lookup(
        _ path: FilePath, followingLinks: Bool = true
    ) async throws(FileSystemError) -> Location {
        var reached: [Location] = [
            Location(parent: nil, name: nil, inode: try await rootInode())
        ]
        var pending = Array(path.components.reversed())
        var links = 0
        while let component = pending.popLast() {
            guard case .name(let name) = component else {
                if reached.count > 1 { reached.removeLast() }
                continue
            }
            guard let here = reached.last, here.inode.type == .directory else {
                throw .notDirectory(path.bytes)
            }
            let parent = directory(here.inode)
            guard let inode = try await parent.inode(name) else { throw .notFound(path.bytes) }
            let follow = followingLinks || !pending.isEmpty || path.requiresDirectory
            if inode.type == .symbolicLink, follow {
                links += 1
                guard links <= FileSystem.linksMax else { throw .tooManyLinks(path.bytes) }
                let target = try FilePath(inode.target)
                if inode.target.first == UInt8(ascii: "/") { reached.removeSubrange(1...) }
                pending += target.components.reversed()
                continue
            }
            guard inode.type == .directory || pending.isEmpty else {
                throw .notDirectory(path.bytes)
            }
            reached.append(Location(parent: parent, name: name, inode: inode))
        }
        guard let last = reached.last else { throw .notFound(path.bytes) }
        if path.requiresDirectory, last.inode.type != .directory {
            throw .notDirectory(path.bytes)
        }
        return last
    }

    /// The directory at `path`, made with all its parents when it is missing.
    ///
    /// - Parameter attributes: what the directories that are made get.
    public func makeDirectories(
        _ path: FilePath, attributes: FileAttributes
    ) async throws(FileSystemError) -> Directory {
        do throws(FileSystemError) {
            let location = try await lookup(path)
            guard location.inode.type == .directory else { throw .notDirectory(path.bytes) }
            return directory(location.inode)
        } catch {
            guard case .notFound = error else { throw error }
        }
        guard case .name(let name) = path.components.last else { throw .notFound(path.bytes) }
        let above = FilePath(components: path.components.dropLast())
        let parent = try await makeDirectories(above, attributes: attributes)
        do throws(FileSystemError) {
            return try await parent.makeDirectory(name, attributes: attributes)
        } catch {
            guard case .exists = error else { throw error }
        }
        // Somebody else made it at the same time, or it is a link that leads nowhere.
        let location = try await lookup(path)
        guard location.inode.type == .directory else { throw .notDirectory(path.bytes) }
        return directory(location.inode)
    }

    /// Changes the mode, owner and times of what stands at `path`. A link is not followed.
    public func setAttributes(
        _ path: FilePath, _ attributes: FileAttributes
    ) async throws(FileSystemError) {
        let location = try await lookup(path, followingLinks: false)
        guard let parent = location.parent, let name = location.name else {
            return try await setRootAttributes(attributes, changed: now)
        }
        try await parent.setAttributes(name, attributes)
    }

    /// Removes what stands at `path`: a file, a link, or a directory without entries.
    ///
    /// - Parameter recursive: whether a directory goes with everything below it. The root's
    ///   entries go, the root itself stays.
    public func remove(
        _ path: FilePath, recursive: Bool = false
    ) async throws(FileSystemError) {
        let location = try await lookup(path, followingLinks: false)
        guard let parent = location.parent, let name = location.name else {
            guard recursive else { throw .notEmpty(path.bytes) }
            return try await root.removeEntries()
        }
        if recursive {
            try await parent.removeTree(name)
        } else {
            try await parent.remove(name)
        }
    }
}
