internal import ArgumentParser
internal import DrayFileSystem
internal import DrayRuntime
internal import Glibc

extension FileSystemCommand {
    struct Remove: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "rm", abstract: "Remove files, links and directories.")

        @Argument(help: "POOL/CONTAINER:PATH") var paths: [StorePath]
        @Flag(
            name: [.customShort("r"), .customLong("recursive")],
            help: "Directories with everything in them.")
        var recursive = false
        @OptionGroup var access: AccessOptions
        @OptionGroup var cluster: ClusterOptions

        func run() async throws {
            for path in paths {
                let (checked, what, recursive) = (try path.checkedPath(), path.text, recursive)
                try await cluster.withFileSystem(path.container, for: access.access) {
                    (fileSystem, _) async throws(CommandFailure) in
                    do throws(FileSystemError) {
                        try await fileSystem.remove(checked, recursive: recursive)
                    } catch {
                        throw CommandFailure(error, what)
                    }
                }
            }
        }
    }

    struct MakeDirectory: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "mkdir", abstract: "Make a directory.")

        @Argument(help: "POOL/CONTAINER:PATH") var path: StorePath
        @Flag(
            name: [.customShort("p"), .customLong("parents")],
            help: "Make missing parents too; one that exists is no error.")
        var parents = false
        @OptionGroup var access: AccessOptions
        @OptionGroup var cluster: ClusterOptions

        func run() async throws {
            let (path, what, parents) = (try path.checkedPath(), path.text, parents)
            let (user, group) = (geteuid(), getegid())
            try await cluster.withFileSystem(
                self.path.container, creating: true, for: access.access
            ) {
                (fileSystem, _) async throws(CommandFailure) in
                let now = fileSystem.currentTime
                let attributes = FileAttributes(
                    mode: 0o755, userID: user, groupID: group, accessed: now, modified: now)
                do throws(FileSystemError) {
                    if parents {
                        _ = try await fileSystem.makeDirectories(path, attributes: attributes)
                        return
                    }
                    guard case .name(let name) = path.components.last else {
                        throw .exists(path.bytes)
                    }
                    let above = FilePath(components: path.components.dropLast())
                    let parent = try await fileSystem.lookup(above)
                    guard parent.inode.type == .directory else {
                        throw .notDirectory(above.bytes)
                    }
                    _ = try await fileSystem.directory(parent.inode).makeDirectory(
                        name, attributes: attributes)
                } catch {
                    throw CommandFailure(error, what)
                }
            }
        }
    }
}
