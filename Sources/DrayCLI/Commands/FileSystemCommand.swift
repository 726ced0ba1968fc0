internal import ArgumentParser
internal import Dray
internal import DrayFileSystem
internal import DrayProtocol
internal import DrayRuntime
internal import Glibc

struct FileSystemCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "fs", abstract: "Keep directories and files in a container.",
        discussion: """
            A path in the store is POOL/CONTAINER:PATH, such as tank/photos:/2026/a.jpg. The first \
            'put' or 'mkdir' makes the file system of a container. Names are bytes.
            """,
        subcommands: [
            Put.self, Get.self, List.self, Concatenate.self, Remove.self, MakeDirectory.self,
            Status.self, Compare.self,
        ])

    struct Put: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Store a directory's contents, or a file.",
            discussion: """
                A directory's contents become those of the path, which is made if need be; what is \
                there already under the same name is replaced. Types, modes, owners, times in \
                nanoseconds and symbolic links are kept; hard links are stored as files of their \
                own. Sockets, FIFOs, devices and what cannot be read are skipped with a line each, \
                and the exit status is 3.
                """)

        @Argument(help: "A directory or file of this machine.", completion: .file())
        var source: ByteArgument
        @Argument(help: "POOL/CONTAINER:PATH") var destination: StorePath
        @Option(
            name: .long,
            help: ArgumentHelp(
                """
                Append the path of each entry, ended by a zero byte, the moment it is on stable \
                storage.
                """, valueName: "file"), completion: .file())
        var acknowledged: ByteArgument?
        @Flag(name: .shortAndLong, help: "A line on standard error for each stored entry.")
        var verbose = false
        @Flag(name: .shortAndLong, help: "No progress bar and no summary.") var quiet = false
        @OptionGroup var access: AccessOptions
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            var list: OpenFile?
            if let acknowledged {
                do throws(Errno) {
                    list = try OpenFile(
                        LocalPath(acknowledged.bytes), O_WRONLY | O_CREAT | O_APPEND, mode: 0o644)
                } catch {
                    throw CommandFailure(acknowledged.text, error.text)
                }
            }
            let path = try destination.checkedPath()
            let (source, list_, verbose, quiet) = (
                LocalPath(source.bytes), list, verbose, quiet || output.json
            )
            let report = try await cluster.withFileSystem(
                destination.container, creating: true, for: access.access
            ) {
                (fileSystem, xstream) async throws(CommandFailure) in
                try await Upload(
                    fileSystem: fileSystem, xstream: xstream, acknowledged: list_,
                    verbose: verbose, quiet: quiet
                ).run(source, to: path)
            }
            try report.print("stored", quiet: self.quiet, output)
            try finish(report.skipped > 0 ? .skipped : .success)
        }
    }

    struct Get: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Write a stored directory's contents, or a file, to this machine.",
            discussion: """
                Modes, times in nanoseconds and symbolic links come back, owners too when run by \
                root. Files that are there already are replaced.
                """)

        @Argument(help: "POOL/CONTAINER:PATH") var source: StorePath
        @Argument(help: "A directory or file of this machine.", completion: .file())
        var destination: ByteArgument
        @Flag(name: .shortAndLong, help: "No progress bar and no summary.") var quiet = false
        @OptionGroup var time: TimeOptions
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let path = try source.checkedPath()
            let (destination, quiet) = (LocalPath(destination.bytes), quiet || output.json)
            let report = try await cluster.withFileSystem(source.container, at: time) {
                (fileSystem, xstream) async throws(CommandFailure) in
                try await Download(fileSystem: fileSystem, xstream: xstream, quiet: quiet)
                    .run(path, to: destination)
            }
            try report.print("read", quiet: self.quiet, output)
        }
    }

    struct Compare: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Compare a directory of this machine with one in the store.",
            discussion: """
                Types, modes, modification times, links' targets and every byte. A line for each \
                difference; exit status 8 when there is one.
                """)

        @Argument(help: "A directory of this machine.", completion: .directory)
        var local: ByteArgument
        @Argument(help: "POOL/CONTAINER:PATH") var stored: StorePath
        @Option(
            name: .long,
            help: ArgumentHelp(
                "Compare only the paths in this file, as 'fs put --acknowledged' writes them.",
                valueName: "file"), completion: .file())
        var only: ByteArgument?
        @Flag(name: .shortAndLong, help: "No progress bar and no summary.") var quiet = false
        @OptionGroup var time: TimeOptions
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        struct Result: Encodable, Sendable {
            var report: TransferReport
            var differences: [String]
        }

        func run() async throws {
            var paths: [[UInt8]]?
            if let only {
                do throws(Errno) {
                    paths = try LocalFiles.read(LocalPath(only.bytes), max: 1 << 30)
                        .split(separator: 0).map { Array($0) }
                } catch {
                    throw CommandFailure(only.text, error.text)
                }
            }
            let path = try stored.checkedPath()
            let (local, only, quiet) = (LocalPath(local.bytes), paths, quiet || output.json)
            let result = try await cluster.withFileSystem(stored.container, at: time) {
                (fileSystem, xstream) async throws(CommandFailure) in
                let comparison = Comparison(
                    fileSystem: fileSystem, xstream: xstream, quiet: quiet)
                let report = try await comparison.run(local, with: path, only: only)
                return Result(report: report, differences: comparison.lines)
            }
            if output.json {
                try Terminal.print(try JSON.text(result))
            } else {
                for line in result.differences { try Terminal.print(line) }
                if !self.quiet { try Terminal.print(result.report.summary("compared")) }
            }
            try finish(result.report.differences > 0 ? .different : .success)
        }
    }
}

extension TransferReport {
    /// Prints the report: JSON, or a line unless it is to be quiet.
    func print(_ verb: String, quiet: Bool, _ output: OutputOptions) throws(CommandFailure) {
        if output.json {
            try Terminal.print(try JSON.text(self))
        } else if !quiet {
            try Terminal.print(summary(verb))
        }
    }
}

extension StorePath {
    /// The path, or a failure that names it.
    func checkedPath() throws(CommandFailure) -> FilePath {
        do throws(FileSystemError) {
            return try path()
        } catch {
            throw CommandFailure(.usage, text, "\(error)")
        }
    }
}

extension ClusterOptions {
    /// Connects, opens the file system of a container, and runs `body` on the client's xstream.
    func withFileSystem<Value: Sendable>(
        _ path: ContainerPath, creating: Bool = false, for access: ContainerAccess = .readOnly,
        at time: TimeOptions? = nil,
        _ body: @escaping @Sendable (FileSystem, XStream) async throws(CommandFailure) -> Value
    ) async throws(CommandFailure) -> Value {
        try await withCluster { (cluster, world) async throws(CommandFailure) in
            let container =
                if let time { try await time.container(path, of: cluster) } else {
                    try await cluster.container(path, access)
                }
            let clock = world.clock
            let xstream = cluster.xstream
            return try await cluster.run { () async throws(CommandFailure) -> Value in
                let fileSystem: FileSystem
                do throws(FileSystemError) {
                    fileSystem =
                        creating
                        ? try await FileSystem.mountOrFormat(container, clock: clock)
                        : try await FileSystem.mount(container, clock: clock)
                } catch {
                    throw CommandFailure(error, path.text)
                }
                return try await body(fileSystem, xstream)
            }
        }
    }
}
