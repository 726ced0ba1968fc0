internal import ArgumentParser
internal import Dray
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime

struct ObjectCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "object",
        abstract: "List a container's objects and their keys, locate and verify them; arrays.",
        discussion: """
            An object is named by its id, HIGH.LOW in hexadecimal, as 'dray object create' and \
            'dray object list' print it. A target is written RANK.TARGET.
            """,
        subcommands: [
            Create.self, List.self, Keys.self, Layout.self, Verify.self, Read.self, Write.self,
            ArraySize.self,
        ])

    /// How a target is printed as JSON.
    struct Target: Codable, Hashable {
        var rank: UInt32
        var target: UInt32

        init(_ address: TargetAddress) {
            rank = address.rank
            target = address.target
        }
    }

    static func text(_ address: TargetAddress) -> String { "\(address.rank).\(address.target)" }

    struct Create: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Print the id of a new object.",
            discussion: """
                Its class and the types of its keys are part of the id. Nothing is stored until \
                something is written into the object.
                """)

        @Argument(help: "POOL/CONTAINER") var container: ContainerPath
        @Option(
            name: .customLong("class"),
            help: "Replicas and spread of the object (default: those of the container).",
            completion: .list(ClassArgument.names))
        var objectClass: ClassArgument?
        @Option(name: .customLong("dkeys"), help: "What its distribution keys are.")
        var dkeys = KeyTypeArgument(.lexical)
        @Option(name: .customLong("akeys"), help: "What its attribute keys are.")
        var akeys = KeyTypeArgument(.lexical)
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let id = try await cluster.run(container.text) { (cluster) async throws(DrayError) in
                try await cluster.pool(container.pool).container(container.container, .readOnly)
                    .makeObjectID(
                        objectClass: objectClass?.objectClass,
                        keys: KeyTypes(dkey: dkeys.type, akey: akeys.type))
            }
            try output.print(List.Info(id), text: id.description)
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the objects of a container.",
            discussion: """
                A line for each: its id and its class. Every target is asked, so an object \
                that only \
                one replica has is listed too.
                """)

        @Argument(help: "POOL/CONTAINER") var container: ContainerPath
        @Option(name: .long, help: "Begin after this object.") var after: ObjectArgument?
        @Option(name: .long, help: "List at most so many objects.") var limit: Int = .max
        @OptionGroup var time: TimeOptions
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        struct Info: Encodable {
            var id: String
            var objectClass: String

            init(_ id: ObjectID) {
                self.id = id.description
                objectClass = id.objectClass.map(\.description) ?? "?"
            }
        }

        func validate() throws {
            if limit < 1 { throw ValidationError("--limit must be at least 1.") }
        }

        func run() async throws {
            try await cluster.withCluster { (cluster, _) async throws(CommandFailure) in
                let container = try await time.container(self.container, of: cluster)
                var array = JSONArray()
                var last = after?.id
                var left = limit
                while left > 0 {
                    let page = try await store(self.container.text) { () throws(DrayError) in
                        try await container.listObjects(after: last, limit: min(1000, left))
                    }
                    let infos = page.objects.map(Info.init)
                    if output.json {
                        try array.write(infos)
                    } else {
                        let lines = infos.map { "\($0.id)  \($0.objectClass)\n" }
                        try Terminal.write(Array(lines.joined().utf8))
                    }
                    left -= page.objects.count
                    guard page.more, let next = page.objects.last else { break }
                    last = next
                }
                if output.json { try array.end() }
            }
        }
    }

    struct Keys: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the keys of an object in their order.",
            discussion: """
                Its distribution keys, or the attribute keys of one of them. A key a line; on a \
                terminal, unprintable bytes are escaped. Keys that are integers are in decimal, \
                in order of their value.
                """)

        @Argument(help: "POOL/CONTAINER") var container: ContainerPath
        @Argument(help: "The object's id.") var object: ObjectArgument
        @Option(name: .long, help: "List the attribute keys of this distribution key.")
        var dkey: ByteArgument?
        @OptionGroup var keys: KeyListOptions
        @OptionGroup var time: TimeOptions
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let types = self.object.id.keyTypes
            let dkey = try types.dkey.key(dkey)
            try await cluster.withCluster { (cluster, _) async throws(CommandFailure) in
                let object = try await time.container(container, of: cluster)
                    .object(self.object.id)
                try await keys.print(
                    dkey == nil ? types.dkey : types.akey, json: output.json
                ) {
                    (range, after, limit) async throws(CommandFailure) in
                    try await store("object \(object.id)") { () async throws(DrayError) in
                        guard let dkey else {
                            return try await object.listDkeys(
                                in: range, after: after, limit: limit)
                        }
                        return try await object.listAkeys(
                            dkey: dkey, in: range, after: after, limit: limit)
                    }
                }
            }
        }
    }

    struct Layout: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show which targets hold an object.",
            discussion: """
                Each redundancy group with its members; the first one leads it. The layout follows \
                from the id and the pool: whether the object exists does not matter.
                """)

        @Argument(help: "POOL/CONTAINER") var container: ContainerPath
        @Argument(help: "The object's id.") var object: ObjectArgument
        @Option(name: .long, help: "Only the group that holds this distribution key.")
        var dkey: ByteArgument?
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        struct Info: Encodable {
            var id: String
            var objectClass: String
            var groups: [Group]
        }

        struct Group: Encodable {
            var group: Int
            var leader: Target
            var members: [Target]
        }

        func run() async throws {
            let container = try await cluster.run(self.container.text) {
                (cluster) async throws(DrayError) in
                try await cluster.pool(self.container.pool)
                    .container(self.container.container, .readOnly)
            }
            guard let layout = ObjectLayout(of: object.id, in: container.pool.record.map) else {
                throw CommandFailure(
                    "object \(object.id)", "was not made for pool \(self.container.pool)",
                    advice: "'dray object list \(self.container.text)' shows what is there")
            }
            let shown = dkey.map { key in
                let group = layout.group(ofDkey: key.bytes)
                return group..<(group + 1)
            }
            var table = Table([("GROUP", .right), ("LEADER", .left), ("MEMBERS", .left)])
            var info = Info(
                id: object.id.description,
                objectClass: object.id.objectClass.map(\.description) ?? "?", groups: [])
            for group in shown ?? 0..<layout.groupCount {
                let members = layout.members(ofGroup: group)
                let leader = layout.leader(ofGroup: group)
                table.add([
                    "\(group)", ObjectCommand.text(leader),
                    members.map(ObjectCommand.text).joined(separator: " "),
                ])
                info.groups.append(
                    Group(
                        group: group, leader: Target(leader), members: members.map { Target($0) }))
            }
            try output.print(info, text: table.text)
        }
    }
}

/// An object's id as an argument.
struct ObjectArgument: ExpressibleByArgument, Hashable, Sendable {
    var id: ObjectID

    init?(argument: String) {
        guard let id = ObjectID(argument) else { return nil }
        self.id = id
    }
}
