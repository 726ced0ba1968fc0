internal import CaRT
internal import DrayFabric
internal import DrayRuntime

/// The calling side: contexts of this process, each on an xstream of its own.
struct SelfTestClient {
    private let contexts: [XStreamBound<Context>]
    /// The addresses of the contexts.
    let names: [String]
    private let servers: [FabricAddress]

    static func address(_ text: String) throws(CommandFailure) -> FabricAddress {
        do throws(FabricError) {
            return try FabricAddress(parsing: text)
        } catch {
            throw CommandFailure(.usage, text, "is no address: \(error)")
        }
    }

    /// Opens the contexts.
    init(
        contexts count: Int, servers: [FabricAddress], world: World
    ) async throws(CommandFailure) {
        var contexts: [XStreamBound<Context>] = []
        var names: [String] = []
        let fabric = try FabricOptions.ofEnvironment(world)
        let options = fabric.contextOptions(clock: HybridLogicalClock(clock: world.clock))
        for index in 0..<count {
            let address = try SelfTestClient.listenAddress(
                of: index, toReach: servers[0], fabric, world: world)
            let xstream = world.makeXStream(name: "dray-client-\(index)")
            let (context, name) = try await xstream.run {
                () async throws(CommandFailure) -> (XStreamBound<Context>, String) in
                do throws(RPCError) {
                    let context = try Context(
                        world: world, xstream: xstream, address: address, options: options)
                    return (XStreamBound(context, to: xstream), context.address.description)
                } catch {
                    throw CommandFailure(address, "\(error)")
                }
            }
            contexts.append(context)
            names.append(name)
        }
        self.contexts = contexts
        self.names = names
        self.servers = servers
    }

    /// Where context `index` of a client listens: as it is configured, else on the way to `server`.
    static func listenAddress(
        of index: Int, toReach server: FabricAddress, _ fabric: FabricConfiguration, world: World
    ) throws(CommandFailure) -> String {
        do throws(FabricConfigurationError) {
            return try fabric.address(ofClient: index, provider: server.provider)
                ?? world.fabric.listenAddress(toReach: server)
        } catch {
            throw CommandFailure(error)
        }
    }

    /// Collects from now on where the time of calls goes.
    func startTracing() async {
        for context in contexts {
            await context.xstream.run { context.value.tracer = CallTracer() }
        }
    }

    /// Where it went, for each context.
    var callTraces: [[CallTracer.Summary]] {
        get async {
            var all: [[CallTracer.Summary]] = []
            for context in contexts {
                all.append(
                    await context.xstream.run { context.value.tracer?.summaries ?? [] })
            }
            return all
        }
    }

    func close() async {
        for context in contexts {
            await context.xstream.run { await context.value.close() }
            context.xstream.stop()
        }
    }

    /// Has all contexts call at once, and adds up what they measured.
    func measure(_ options: SelfTest.Options) async throws(CommandFailure) -> SelfTest.Result {
        let results = await withTaskGroup(
            of: (Int, Result<SelfTest.Result, SelfTest.Failure>).self
        ) { group in
            for (index, context) in contexts.enumerated() {
                group.addTask { (index, await run(options, on: context)) }
            }
            var results: [(Int, Result<SelfTest.Result, SelfTest.Failure>)] = []
            for await result in group { results.append(result) }
            return results.sorted { $0.0 < $1.0 }
        }
        do throws(SelfTest.Failure) {
            var sum = SelfTest.Result()
            for (_, result) in results { sum.merge(try result.get()) }
            return sum
        } catch {
            throw CommandFailure.selfTest(error.error, "\(error)", servers)
        }
    }

    private func run(
        _ options: SelfTest.Options, on context: XStreamBound<Context>
    ) async -> Result<SelfTest.Result, SelfTest.Failure> {
        let destinations = servers.map { Destination.address($0) }
        do throws(SelfTest.Failure) {
            return .success(
                try await context.xstream.run { () async throws(SelfTest.Failure) in
                    try await SelfTest.run(
                        on: context.value, to: destinations, options: options)
                })
        } catch {
            return .failure(error)
        }
    }

    /// Calls one at a time, each after a pause in which neither side has anything to do. The
    /// rate counts the calls' own time only.
    func measureAfterPauses(
        _ pause: Duration, _ options: SelfTest.Options
    ) async throws(CommandFailure) -> SelfTest.Result {
        let context = contexts[0]
        let destinations = servers.map { Destination.address($0) }
        do throws(SelfTest.Failure) {
            return try await context.xstream.run { () async throws(SelfTest.Failure) in
                var single = options
                (single.repetitions, single.inFlight, single.warmUp) = (1, 1, 1)
                // Connects.
                _ = try await SelfTest.run(
                    on: context.value, to: destinations, options: single)
                single.warmUp = 0
                var sum = SelfTest.Result()
                for index in 0..<options.repetitions {
                    await context.xstream.sleep(for: pause)
                    var one = try await SelfTest.run(
                        on: context.value, to: [destinations[index % destinations.count]],
                        options: single)
                    one.endpoints = []
                    sum.merge(one)
                }
                sum.elapsed = .nanoseconds(Int64(clamping: sum.latencies.total))
                return sum
            }
        } catch {
            throw CommandFailure.selfTest(error.error, "\(error)", servers)
        }
    }
}

extension CommandFailure {
    /// What the error of a call means for whoever measured.
    static func selfTest(
        _ error: RPCError, _ words: String, _ servers: [FabricAddress]
    ) -> CommandFailure {
        let what = servers.count == 1 ? "\(servers[0])" : "self-test"
        if case .application(SelfTest.ErrorCode.badContent, _) = error {
            return CommandFailure(
                .different, what, words, advice: "the network or a program on it is broken")
        }
        return CommandFailure(.unavailable, what, words)
    }
}
