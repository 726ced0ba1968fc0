internal import ArgumentParser
internal import Dray
internal import DrayFileSystem
internal import DrayProtocol

/// `dray container snapshot`.
struct SnapshotCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "snapshot", abstract: "Create, list and destroy snapshots of containers.",
        discussion: """
            A snapshot keeps a container readable as it was. It is named by its label, if it has \
            one, or by its epoch, as 'dray container snapshot list' prints it. Commands that read \
            take it as --snapshot.
            """,
        subcommands: [Create.self, List.self, Destroy.self])

    /// How a snapshot is printed.
    struct Info: Encodable {
        var epoch: UInt64
        var label: String
        /// The epoch as a time, UTC.
        var time: String

        init(_ snapshot: SnapshotRecord) {
            epoch = snapshot.epoch
            label = snapshot.label
            time = CalendarTime.text(Timestamp(wallNanoseconds: snapshot.epoch))
        }
    }

    struct Create: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Keep a container as it is now.",
            discussion: """
                Prints the epoch. Everything that was stored before is in the snapshot. All \
                engines must answer.
                """)

        @Argument(help: "POOL/CONTAINER") var container: ContainerPath
        @Argument(help: "A label, to name it by.") var label: String?
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let (path, label) = (container, label ?? "")
            let what = label.isEmpty ? "snapshot of \(path.text)" : "snapshot \(label)"
            let made = try await cluster.run(what) { (cluster) async throws(DrayError) in
                try await cluster.pool(path.pool).container(path.container)
                    .createSnapshot(label: label)
            }
            try output.print(Info(made), text: "\(made.epoch)")
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List a container's snapshots, oldest first.")

        @Argument(help: "POOL/CONTAINER") var container: ContainerPath
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let path = container
            let snapshots = try await cluster.run(path.text) {
                (cluster) async throws(DrayError) in
                try await cluster.pool(path.pool).container(path.container, .readOnly)
                    .snapshots()
            }.map(Info.init)
            var table = Table([("EPOCH", .right), ("TIME", .left), ("LABEL", .left)])
            for snapshot in snapshots {
                table.add(["\(snapshot.epoch)", snapshot.time, snapshot.label])
            }
            try output.print(snapshots, text: table.text)
        }
    }

    struct Destroy: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Give up a snapshot. What only it shows is dropped.")

        @Argument(help: "POOL/CONTAINER") var container: ContainerPath
        @Argument(help: "Its label or epoch.") var snapshot: String
        @OptionGroup var cluster: ClusterOptions

        func run() async throws {
            try await cluster.withCluster { (cluster, _) async throws(CommandFailure) in
                let container = try await cluster.container(self.container, .readWrite)
                let found = try await container.snapshot(named: snapshot, self.container)
                try await store("snapshot \(snapshot)") { () async throws(DrayError) in
                    try await container.destroySnapshot(found)
                }
            }
        }
    }
}

/// At which time a container is read.
struct TimeOptions: ParsableArguments {
    @Option(name: .long, help: "Read a snapshot, named by its label or epoch.")
    var snapshot: String?

    @Option(
        name: .long,
        help: """
            Read what was there at an epoch of the last seconds: nanoseconds since 1970.
            """)
    var epoch: UInt64?

    func validate() throws {
        if snapshot != nil && epoch != nil {
            throw ValidationError("--snapshot and --epoch exclude each other.")
        }
        if epoch == 0 { throw ValidationError("--epoch must be at least 1.") }
    }

    /// A container as it was then, opened for reading only.
    func container(
        _ path: ContainerPath, of cluster: Cluster
    ) async throws(CommandFailure) -> Container {
        let container = try await cluster.container(path, .readOnly)
        if let snapshot { return container.at(try await container.snapshot(named: snapshot, path)) }
        return epoch.map { container.at(epoch: $0) } ?? container
    }
}

extension Container {
    /// The snapshot with a label or epoch.
    func snapshot(
        named name: String, _ path: ContainerPath
    ) async throws(CommandFailure) -> SnapshotRecord {
        let snapshots = try await store(path.text) {
            () async throws(DrayError) -> [SnapshotRecord] in
            try await self.snapshots()
        }
        let found =
            snapshots.first { $0.label == name && !name.isEmpty }
            ?? snapshots.first { "\($0.epoch)" == name }
        guard let found else {
            throw CommandFailure(
                .notFound, "snapshot \(name)", "\(path.text) has none of this label or epoch",
                advice: "'dray container snapshot list \(path.text)' shows those there are")
        }
        return found
    }
}
