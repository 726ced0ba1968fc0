internal import ArgumentParser
internal import Dray
internal import DrayChecksums
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime

struct ContainerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "container",
        abstract: "Create, list and destroy containers, and keep snapshots of them.",
        subcommands: [Create.self, List.self, Destroy.self, SnapshotCommand.self])

    /// How a container is printed.
    struct Info: Codable, Hashable {
        var id: String
        var pool: String
        var label: String
        var objectClass: String
        /// "crc32c", "xxh64", "sha256" or "off".
        var checksum: String
        /// Whether targets compare it before they store a value.
        var serverVerify: Bool

        init(_ container: Container) {
            id = container.id.description
            pool = container.pool.label
            label = container.label
            objectClass = container.objectClass.description
            checksum = container.checksumType.name
            serverVerify = container.isServerVerified
        }
    }

    struct Create: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Create a container.")

        @Argument(help: "POOL/CONTAINER") var container: ContainerPath
        @Option(
            name: .customLong("class"),
            help: """
                How its objects are spread and protected: S1, S2, …, SX for all targets; \
                RP_2G1, …, RP_3GX, … with 2 to 6 replicas, each on an engine of its own.
                """,
            completion: .list(ClassArgument.names))
        var objectClass = ClassArgument(.sx)
        @Option(
            name: .long,
            help: """
                How its values are checked, from the client that writes to the medium and back: \
                crc32c, xxh64, sha256, or off.
                """,
            completion: .list(ChecksumArgument.names))
        var checksum = ChecksumArgument(.crc32c)
        @Flag(
            inversion: .prefixedNo, help: "Targets compare values with that before they store them."
        )
        var serverVerify = true
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let made = try await cluster.run("container \(container.text)") {
                (cluster) async throws(DrayError) in
                try await cluster.pool(container.pool).createContainer(
                    label: container.container, objectClass: objectClass.objectClass,
                    checksumType: checksum.type, isServerVerified: serverVerify)
            }
            let info = Info(made)
            let other = info.checksum == "crc32c" ? "" : ", checksum \(info.checksum)"
            try output.print(
                info, text: "container \(container.text): class \(info.objectClass)\(other)")
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List a pool's containers.")

        @Argument(help: "The pool's label.") var pool: String
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let containers = try await cluster.run("pool \(pool)") {
                (cluster) async throws(DrayError) in
                try await cluster.pool(pool).containers(.readOnly)
            }.map(Info.init)
            var table = Table([
                ("CONTAINER", .left), ("CLASS", .left), ("CHECKSUM", .left), ("ID", .left),
            ])
            for container in containers {
                table.add([
                    container.label, container.objectClass, container.checksum, container.id,
                ])
            }
            try output.print(containers, text: table.text)
        }
    }

    struct Destroy: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Destroy a container with everything in it.")

        @Argument(help: "POOL/CONTAINER") var container: ContainerPath
        @OptionGroup var cluster: ClusterOptions

        func run() async throws {
            try await cluster.run("container \(container.text)") {
                (cluster) async throws(DrayError) in
                try await cluster.pool(container.pool).destroyContainer(container.container)
            }
        }
    }
}

/// An object class as an argument.
struct ClassArgument: ExpressibleByArgument, Hashable, Sendable {
    var objectClass: ObjectClass

    init(_ objectClass: ObjectClass) {
        self.objectClass = objectClass
    }

    init?(argument: String) {
        guard let objectClass = ObjectClass(argument) else { return nil }
        self.objectClass = objectClass
    }

    var defaultValueDescription: String { objectClass.description }

    /// Every name, for completion.
    static var names: [String] { ObjectClass.allCases.map(\.description) }
}

/// A type of checksums as an argument.
struct ChecksumArgument: ExpressibleByArgument, Hashable, Sendable {
    var type: ChecksumType

    init(_ type: ChecksumType) {
        self.type = type
    }

    init?(argument: String) {
        guard let type = ChecksumType(name: argument) else { return nil }
        self.type = type
    }

    var defaultValueDescription: String { type.name }

    /// Every name, for completion.
    static var names: [String] { ChecksumType.allCases.map(\.name) }
}
