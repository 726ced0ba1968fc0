internal import ArgumentParser
internal import CaRT
internal import DrayFabric
internal import DrayRuntime

struct SelfTestCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "self-test",
        abstract: "Measure RPC latency, rate and bulk bandwidth between processes.",
        discussion: """
            Between this process and a second one that it starts, unless --server names servers \
            ('dray self-test --listen', or any engine) or --engines takes those of a cluster. \
            With --among, the engines measure each other, all at once. Every provider, kind of \
            request and reply, size and number of calls in flight is measured in turn; calls go \
            to all servers in turn.

            Latencies come from histograms with an error of at most 0.8 %.
            """)

    enum Direction: String, ExpressibleByArgument, CaseIterable, Sendable {
        /// The size travels both ways.
        case both
        /// With the request only, or the reply only.
        case request, reply
    }

    /// How bytes travel in one direction.
    enum Kind: String, ExpressibleByArgument, CaseIterable, Codable, Sendable {
        case empty, inline, bulk

        func load(_ size: Int) -> SelfTest.Load {
            switch self {
            case .inline where size > 0: .inline(size)
            case .bulk where size > 0: .bulk(size)
            case .empty, .inline, .bulk: .empty
            }
        }
    }

    @Option(
        name: .long,
        help: """
            ofi+tcp, ofi+tcp;ofi_rxm, ofi+verbs;ofi_rxm, shm, ofi+shm; ://HOST chooses a network \
            (repeat for more; default: DRAY_PROVIDER, else ofi+tcp).
            """)
    var provider: [String] = []
    @Option(name: .long, help: "Address of a server that runs already (repeat for more).")
    var server: [String] = []
    @Option(
        name: .long,
        help: "Be the server at this address until standard input ends (port 0: any).")
    var listen: String?
    @Flag(name: .long, help: "Measure the engines of the cluster.") var engines = false
    @Flag(name: .long, help: "Have the engines of the cluster measure each other.")
    var among = false
    @Option(name: .long, help: "Only this engine of the cluster (repeat for more).")
    var rank: [UInt32] = []
    @Option(
        name: .long,
        help:
            "Only this context of each engine (repeat for more): 0 is its system, 1 up its targets."
    )
    var tag: [UInt32] = []
    @Option(name: .long, help: "Contexts that call at once, each on a thread of its own.")
    var contexts = 1
    @Option(name: .long, help: "Bytes of each message: a list with commas, measured in turn.")
    var size = [CommaList([Size(bytes: 64)])]
    @Option(name: .long, help: "How requests carry them: empty, inline or bulk (repeat for more).")
    var request: [Kind] = []
    @Option(name: .long, help: "How replies carry them: empty, inline or bulk (repeat for more).")
    var reply: [Kind] = []
    @Flag(name: .long, help: "All nine combinations of empty, inline and bulk.") var all = false
    @Option(name: .long, help: "Which way the bytes go: both, request or reply.")
    var direction: Direction?
    @Flag(name: .long, help: "By bulk transfer: 'request' is pulled, 'reply' is pushed.")
    var bulk = false
    @Option(
        name: .long, help: "Calls in flight of each context: a list with commas, measured in turn.")
    var inFlight = [CommaList([1, 16])]
    @Option(name: .long, help: "Calls of each context in each measurement.")
    var repetitions = 20_000
    @Option(name: .long, help: "Every buffer begins so many bytes behind a page, 0 to 4095.")
    var align = 0
    @Flag(name: .long, help: "Compare every byte at both ends. Costs time that is measured too.")
    var verify = false
    @Option(
        name: .long,
        help: "Wait before each call, one at a time: shows what the first after a rest costs.")
    var pause = HumanDuration(.zero)
    @Option(name: .long, help: "How long one measurement by engines may take.")
    var limit = HumanDuration(.seconds(300))
    @Flag(name: .long, help: "Also show what each context had of each server.")
    var perEndpoint = false
    @Option(
        name: .long, help: "Draw the latencies and rates into this file.",
        completion: .file(extensions: ["svg"]))
    var plot: ByteArgument?
    @OptionGroup var cluster: ClusterOptions
    @OptionGroup var output: OutputOptions

    static let contextsMax = 64

    func validate() throws {
        guard (1...SelfTestCommand.contextsMax).contains(contexts) else {
            throw ValidationError("--contexts is 1 to \(SelfTestCommand.contextsMax).")
        }
        guard size.flatMap(\.elements).allSatisfy({ $0.bytes <= SelfTest.inlineSizeMax }) else {
            throw ValidationError("--size is at most 32MiB.")
        }
        let targets = [!server.isEmpty, listen != nil, engines || among].count { $0 }
        guard targets <= 1 else {
            throw ValidationError("--server, --listen and --engines or --among exclude each other.")
        }
        guard engines || among || rank.isEmpty && tag.isEmpty else {
            throw ValidationError("--rank and --tag choose among --engines.")
        }
        let kinds = !request.isEmpty || !reply.isEmpty
        guard [kinds, all, bulk || direction != nil].count(where: { $0 }) <= 1 else {
            throw ValidationError(
                "--request and --reply, --all, and --direction with --bulk exclude each other.")
        }
        guard pause.duration == .zero || !among && contexts == 1 else {
            throw ValidationError("--pause is for one context of this process.")
        }
        for options in options {
            if let problem = options.options.problem { throw ValidationError("\(problem).") }
        }
    }

    func run() async throws {
        let world = try RealWorld.make(logMask: cluster.log)
        if let listen { return try await SelfTestServer.serve(listen, world: world) }
        var rows: [SelfTestRow] = []
        if engines || among {
            rows = try await measureCluster(world)
        } else if !server.isEmpty {
            let addresses = try server.map(SelfTestClient.address)
            rows = try await measure(addresses, world)
        } else {
            let configured = try FabricOptions.ofEnvironment(world)
            for provider in provider.isEmpty ? configured.providers : provider {
                let child = try SelfTestServer.start(at: provider, configured)
                defer { child.end() }
                rows += try await measure(
                    [try SelfTestClient.address(child.address)], world)
            }
        }
        if let plot { try SelfTestPlot(rows).write(LocalPath(plot.bytes)) }
        var text = SelfTestRow.table(rows)
        if perEndpoint { text += "\n\n" + SelfTestRow.endpointTable(rows) }
        try output.print(rows, text: text)
    }

    /// From this process to servers.
    private func measure(
        _ servers: [FabricAddress], _ world: World
    ) async throws(CommandFailure) -> [SelfTestRow] {
        let client = try await SelfTestClient(
            contexts: contexts, servers: servers, world: world)
        if cluster.trace { await client.startTracing() }
        var rows: [SelfTestRow] = []
        for one in options {
            let pairs = client.names.flatMap { from in
                servers.map { SelfTestRow.Pair(from: from, to: $0.description) }
            }
            let result =
                pause.duration > .zero
                ? try await client.measureAfterPauses(pause.duration, one.options)
                : try await client.measure(one.options)
            rows.append(
                SelfTestRow(
                    shape(one, provider: servers[0].provider, from: "client", pairs), pairs, result)
            )
        }
        if cluster.trace {
            for summaries in await client.callTraces { Terminal.note(TraceTable.text(summaries)) }
        }
        await client.close()
        return rows
    }

    /// To engines, from this process or from each other.
    private func measureCluster(_ world: World) async throws(CommandFailure) -> [SelfTestRow] {
        let plan = try await SelfTestEngines.find(cluster, ranks: rank, tags: tag, world: world)
        guard among else {
            return try await measure(plan.addresses, world)
        }
        var rows: [SelfTestRow] = []
        for one in options {
            let (pairs, result) = try await plan.measure(
                one.options, limit: limit.duration, world: world)
            rows.append(
                SelfTestRow(
                    shape(one, provider: plan.provider, from: "engines", pairs), pairs, result))
        }
        return rows
    }

    private func shape(
        _ one: Measurement, provider: String, from: String, _ pairs: [SelfTestRow.Pair]
    ) -> SelfTestRow.Shape {
        SelfTestRow.Shape(
            provider: provider, from: from, sources: Set(pairs.map(\.from)).count,
            targets: Set(pairs.map(\.to)).count, request: one.request, reply: one.reply,
            size: one.size, inFlight: one.options.inFlight, align: align, verify: verify)
    }

    /// What is measured in turn.
    struct Measurement {
        var request: Kind
        var reply: Kind
        var size: Int
        var options: SelfTest.Options
    }

    /// The combinations of kinds of request and reply.
    private var kinds: [(request: Kind, reply: Kind)] {
        if all || !request.isEmpty || !reply.isEmpty {
            let requests = all ? Kind.allCases : request.isEmpty ? [.empty] : request
            let replies = all ? Kind.allCases : reply.isEmpty ? [.empty] : reply
            return requests.flatMap { request in replies.map { (request, $0) } }
        }
        // A bulk transfer both ways is a pull and a push in the same call.
        let kind: Kind = bulk ? .bulk : .inline
        switch direction ?? .both {
        case .both: return [(kind, kind)]
        case .request: return [(kind, .empty)]
        case .reply: return [(.empty, kind)]
        }
    }

    /// Every measurement of one provider.
    private var options: [Measurement] {
        var result: [Measurement] = []
        for kind in kinds {
            // Without bytes, sizes do not differ.
            let isEmpty = kind.request == .empty && kind.reply == .empty
            for size in isEmpty ? [Size(bytes: 0)] : size.flatMap(\.elements) {
                for inFlight in inFlight.flatMap(\.elements) {
                    var options = SelfTest.Options()
                    options.request = kind.request.load(Int(size.bytes))
                    options.reply = kind.reply.load(Int(size.bytes))
                    options.inFlight = inFlight
                    options.repetitions = repetitions
                    options.warmUp = min(1_000, repetitions)
                    options.alignment = align
                    options.verify = verify
                    options.timeout = max(.milliseconds(1), cluster.timeout.duration)
                    result.append(
                        Measurement(
                            request: size.bytes == 0 ? .empty : kind.request,
                            reply: size.bytes == 0 ? .empty : kind.reply, size: Int(size.bytes),
                            options: options))
                }
            }
        }
        return result
    }
}
