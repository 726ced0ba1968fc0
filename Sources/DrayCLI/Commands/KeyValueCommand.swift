internal import ArgumentParser
internal import Dray

struct KeyValueCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kv", abstract: "Store, read, list and remove keys of a container.",
        discussion: "Keys and values are bytes. A value of '-' is read from standard input.",
        subcommands: [Put.self, Get.self, List.self, Remove.self])

    /// A key, or a pair, as JSON. What is no UTF-8 is in base 64.
    struct Pair: Encodable {
        var key: String?
        var key_base64: String?
        var value: String?
        var value_base64: String?

        init(key: [UInt8], value: [UInt8]?) {
            let name = JSONName(bytes: key)
            self.key = name.text
            key_base64 = name.base64
            guard let value else { return }
            let data = JSONName(bytes: value)
            self.value = data.text
            value_base64 = data.base64
        }
    }

    static func missing(_ key: ByteArgument, _ container: ContainerPath) -> CommandFailure {
        CommandFailure(
            .notFound, "key \(key.text)", "is not in \(container.text)",
            advice: "'dray kv list \(container.text)' shows what is")
    }

    struct Put: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Store a value under a key.")

        @Argument(help: "POOL/CONTAINER") var container: ContainerPath
        @Argument(help: "The key.") var key: ByteArgument
        @Argument(help: "The value; '-' reads it from standard input.") var value: ByteArgument
        @Flag(name: .long, help: "Fail if the key is there already.") var insert = false
        @Flag(name: .long, help: "Fail if the key is not there yet.") var update = false
        @OptionGroup var access: AccessOptions
        @OptionGroup var cluster: ClusterOptions

        func validate() throws {
            if insert && update {
                throw ValidationError("--insert and --update exclude each other.")
            }
        }

        func run() async throws {
            let bytes =
                value.bytes == [UInt8(ascii: "-")]
                ? try StandardInput.readAll(max: DrayObject.valueMax) : value.bytes
            let condition: DrayObject.Condition = insert ? .insert : update ? .update : .none
            try await cluster.withCluster { (cluster, _) async throws(CommandFailure) in
                let map = KeyValue(
                    container: try await cluster.container(container, access.access))
                try await store("key \(key.text)") { () async throws(DrayError) in
                    try await map.put(key.bytes, bytes, condition: condition)
                }
            }
        }
    }

    struct Get: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Print the value of a key.",
            discussion: """
                The value's bytes go to standard output as they are; on a terminal an end of line \
                follows.
                """)

        @Argument(help: "POOL/CONTAINER") var container: ContainerPath
        @Argument(help: "The key.") var key: ByteArgument
        @OptionGroup var time: TimeOptions
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            try await cluster.withCluster { (cluster, _) async throws(CommandFailure) in
                let map = KeyValue(
                    container: try await time.container(container, of: cluster))
                let value = try await store("key \(key.text)") { () async throws(DrayError) in
                    try await map.get(key.bytes)
                }
                guard let value else { throw KeyValueCommand.missing(key, container) }
                if output.json {
                    try Terminal.print(try JSON.text(Pair(key: key.bytes, value: value)))
                } else {
                    try Terminal.write(value + (Terminal.isTerminal(1) ? [0x0a] : []))
                }
            }
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List keys in byte order.",
            discussion: "A key a line; on a terminal, unprintable bytes are escaped.")

        @Argument(help: "POOL/CONTAINER") var container: ContainerPath
        @OptionGroup var keys: KeyListOptions
        @OptionGroup var time: TimeOptions
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            try await cluster.withCluster { (cluster, _) async throws(CommandFailure) in
                let map = KeyValue(
                    container: try await time.container(container, of: cluster))
                try await keys.print(json: output.json) {
                    (range, after, limit) async throws(CommandFailure) in
                    try await store(container.text) { () async throws(DrayError) in
                        try await map.list(in: range, after: after, limit: limit)
                    }
                }
            }
        }
    }

    struct Remove: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Remove a key.")

        @Argument(help: "POOL/CONTAINER") var container: ContainerPath
        @Argument(help: "The key.") var key: ByteArgument
        @OptionGroup var access: AccessOptions
        @OptionGroup var cluster: ClusterOptions

        func run() async throws {
            try await cluster.withCluster { (cluster, _) async throws(CommandFailure) in
                let map = KeyValue(
                    container: try await cluster.container(container, access.access))
                do throws(DrayError) {
                    try await map.remove(key.bytes)
                } catch {
                    if error.code == .notFound { throw KeyValueCommand.missing(key, container) }
                    throw CommandFailure(error, "key \(key.text)")
                }
            }
        }
    }
}
