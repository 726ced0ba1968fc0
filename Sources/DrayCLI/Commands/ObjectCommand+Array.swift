internal import ArgumentParser
internal import Dray
internal import DrayPlacement
internal import DrayRuntime

/// The keys that an array stands under.
struct ArrayKeys: ParsableArguments {
    @Argument(help: "POOL/CONTAINER") var container: ContainerPath
    @Argument(help: "The object's id.") var object: ObjectArgument
    @Argument(help: "The distribution key.") var dkey: ByteArgument
    @Argument(help: "The attribute key.") var akey: ByteArgument

    /// For messages.
    var text: String { "array \(dkey.text) \(akey.text)" }

    /// The keys as the object has them.
    func keys() throws(CommandFailure) -> (dkey: [UInt8], akey: [UInt8]) {
        let types = object.id.keyTypes
        return (try types.dkey.key(dkey) ?? [], try types.akey.key(akey) ?? [])
    }
}

extension ObjectCommand {
    /// A record size as an argument.
    static func recordSize(_ size: Size) throws(ValidationError) -> UInt32 {
        guard let bytes = UInt32(exactly: size.bytes), bytes > 0 else {
            throw ValidationError("--record-size must be from 1 to \(UInt32.max) bytes.")
        }
        return bytes
    }

    struct Write: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Write standard input into an array.",
            discussion: """
                Whole records. The first write of an array chooses their size; as long as the \
                array is there, all others must say the same.
                """)

        /// The most that is read from standard input.
        static let bytesMax = 256 << 20

        @OptionGroup var keys: ArrayKeys
        @Option(name: .long, help: "How many bytes a record has.")
        var recordSize = Size(bytes: 1)
        @Option(name: .long, help: "The record to begin at.") var at: UInt64 = 0
        @OptionGroup var access: AccessOptions
        @OptionGroup var cluster: ClusterOptions

        func validate() throws { _ = try ObjectCommand.recordSize(recordSize) }

        func run() async throws {
            let (dkey, akey) = try keys.keys()
            let size = try ObjectCommand.recordSize(recordSize)
            let bytes = try StandardInput.readAll(max: Write.bytesMax)
            try await cluster.withCluster { (cluster, _) async throws(CommandFailure) in
                let object = try await cluster.container(keys.container, access.access)
                    .object(keys.object.id)
                try await store(keys.text) { () async throws(DrayError) in
                    try await object.array(dkey: dkey, akey: akey, recordSize: size)
                        .write(bytes, at: at)
                }
            }
        }
    }

    struct Read: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Print records of an array.",
            discussion: """
                The bytes go to standard output as they are. Records that were never written are \
                zeros. With --record-size the array must have records of that size.
                """)

        /// About how many bytes are read at once.
        private static let pieceBytes: UInt64 = 16 << 20

        @OptionGroup var keys: ArrayKeys
        @Option(name: .long, help: "How many bytes a record must have.") var recordSize: Size?
        @Option(name: .long, help: "The record to begin at.") var at: UInt64 = 0
        @Option(name: .long, help: "How many records; to the end of the array if left out.")
        var count: UInt64?
        @OptionGroup var time: TimeOptions
        @OptionGroup var cluster: ClusterOptions

        func validate() throws {
            if let recordSize { _ = try ObjectCommand.recordSize(recordSize) }
        }

        func run() async throws {
            let (dkey, akey) = try keys.keys()
            let wanted = try recordSize.map { size throws in try ObjectCommand.recordSize(size) }
            try await cluster.withCluster { (cluster, _) async throws(CommandFailure) in
                let object = try await time.container(keys.container, of: cluster)
                    .object(keys.object.id)
                let array = try await ObjectCommand.array(
                    object, keys, dkey, akey, recordSize: wanted)
                let total = try await store(keys.text) { () async throws(DrayError) in
                    try await array.count()
                }
                let (last, overflow) = at.addingReportingOverflow(count ?? 0)
                guard !overflow else { throw CommandFailure(.usage, "--count", "is too large") }
                let end = count == nil ? total : last
                let step = max(1, Read.pieceBytes / UInt64(array.recordSize))
                var first = at
                while first < end {
                    let next = first + min(step, end - first)
                    let bytes = try await store(keys.text) { () async throws(DrayError) in
                        try await array.read(first..<next)
                    }
                    try Terminal.write(bytes)
                    first = next
                }
            }
        }
    }

    struct ArraySize: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "size",
            abstract: "Show how many records an array has, and of which size.",
            discussion: "Records are counted up to the last one that was written.")

        @OptionGroup var keys: ArrayKeys
        @OptionGroup var time: TimeOptions
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        struct Info: Codable, Hashable {
            var records: UInt64
            /// In bytes.
            var recordSize: UInt32
        }

        func run() async throws {
            let (dkey, akey) = try keys.keys()
            let info = try await cluster.withCluster { (cluster, _) async throws(CommandFailure) in
                let object = try await time.container(keys.container, of: cluster)
                    .object(keys.object.id)
                let array = try await ObjectCommand.array(object, keys, dkey, akey)
                return try await store(keys.text) { () async throws(DrayError) in
                    Info(records: try await array.count(), recordSize: array.recordSize)
                }
            }
            let unit = info.recordSize == 1 ? "byte" : "bytes"
            let what = info.records == 1 ? "record" : "records"
            try output.print(info, text: "\(info.records) \(what) of \(info.recordSize) \(unit)")
        }
    }

    /// The array that is there, whatever records it has; or of these.
    private static func array(
        _ object: DrayObject, _ keys: ArrayKeys, _ dkey: [UInt8], _ akey: [UInt8],
        recordSize: UInt32? = nil
    ) async throws(CommandFailure) -> RecordArray {
        try await store(keys.text) { () async throws(DrayError) in
            let stored = try await object.recordSize(dkey: dkey, akey: akey)
            guard let stored else { throw DrayError(.notFound, "there is no such array") }
            return try object.array(dkey: dkey, akey: akey, recordSize: recordSize ?? stored)
        }
    }
}
