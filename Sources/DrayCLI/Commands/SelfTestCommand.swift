internal import ArgumentParser
internal import CaRT
internal import DrayFabric
internal import DrayRuntime
internal import Glibc

struct SelfTestCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "self-test",
        abstract: "Measure RPC latency, rate and bulk bandwidth between two processes.",
        discussion: """
            Starts a second process as the server, unless --server names one: another \
            'dray self-test --listen'. Each size is measured with each number of calls in \
            flight.
            """)

    enum Direction: String, ExpressibleByArgument, CaseIterable, Sendable {
        /// The size travels both ways inside the messages.
        case both
        /// Inside the request only, or the reply only.
        case request, reply
    }

    @Option(
        name: .long,
        help: "ofi+tcp, ofi+tcp;ofi_rxm, ofi+verbs;ofi_rxm, ofi+shm; ://HOST chooses a network.")
    var provider = "ofi+tcp"
    @Option(name: .long, help: "Address of a server that runs already.") var server: String?
    @Option(
        name: .long,
        help: "Be the server at this address until standard input ends (port 0: any).")
    var listen: String?
    @Option(name: .long, help: "Bytes of each message; several are measured in turn.")
    var size: [Size] = [Size(bytes: 64)]
    @Option(name: .long, help: "Which way the bytes go: both, request or reply.")
    var direction = Direction.both
    @Option(name: .long, help: "Calls in flight; several are measured in turn.")
    var inFlight: [Int] = [1, 16]
    @Option(name: .long, help: "Calls of each measurement.") var repetitions = 20_000
    @Option(
        name: .long,
        help: "Wait before each call, one at a time: shows what the first after a rest costs.")
    var pause = HumanDuration(.zero)
    @Flag(name: .long, help: "By bulk transfer: 'request' is pulled, 'reply' is pushed.")
    var bulk = false
    @Option(name: .long, help: "What to log: LEVEL, then FACILITY=LEVEL for exceptions.")
    var log = "error"
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard inFlight.allSatisfy({ (1...SelfTest.inFlightMax).contains($0) }) else {
            throw ValidationError("--in-flight is 1 to \(SelfTest.inFlightMax).")
        }
        guard repetitions > 0 else { throw ValidationError("--repetitions must be at least 1.") }
        guard size.allSatisfy({ $0.bytes <= 32 << 20 }) else {
            throw ValidationError("--size is at most 32MiB.")
        }
        if server != nil && listen != nil {
            throw ValidationError("--server and --listen exclude each other.")
        }
    }

    func run() async throws {
        let world = try RealWorld.make(logMask: log)
        if let listen { return try await SelfTestServer.serve(listen, world: world) }
        var child: SelfTestServer.Child?
        let address: String
        if let server {
            address = server
        } else {
            let started = try SelfTestServer.start(provider: provider)
            address = started.address
            child = started
        }
        let (plan, pause) = (plan, pause.duration)
        let xstream = world.makeXStream(name: "dray-client")
        let rows = try await xstream.run { () async throws(CommandFailure) -> [SelfTestRow] in
            try await SelfTestClient.measure(
                plan, pause: pause, server: address, world: world, xstream: xstream)
        }
        child?.end()
        try output.print(rows, text: SelfTestRow.table(rows))
    }

    /// Each measurement: its row's names, and what CaRT is told.
    private var plan: [(SelfTestRow.Shape, SelfTest.Options)] {
        size.flatMap { size in
            inFlight.map { inFlight in
                let count = Int(size.bytes)
                let load: SelfTest.Load = count == 0 ? .empty : bulk ? .bulk(count) : .inline(count)
                var options = SelfTest.Options()
                // A bulk transfer both ways is a pull and a push in the same call.
                options.request = direction == .reply ? .empty : load
                options.reply = direction == .request ? .empty : load
                options.inFlight = inFlight
                options.repetitions = repetitions
                options.warmUp = min(1_000, repetitions)
                let shape = SelfTestRow.Shape(
                    provider: provider, size: count, direction: direction.rawValue, bulk: bulk,
                    inFlight: inFlight)
                return (shape, options)
            }
        }
    }
}

/// One row of the results. Times in seconds.
struct SelfTestRow: Codable, Hashable, Sendable {
    struct Shape: Codable, Hashable, Sendable {
        var provider: String
        var size: Int
        var direction: String
        var bulk: Bool
        var inFlight: Int
    }

    var shape: Shape
    var callsPerSecond: Double
    var requestBytesPerSecond: Double
    var replyBytesPerSecond: Double
    var minimum: Double
    var median: Double
    var percentile99: Double
    var percentile999: Double
    var maximum: Double

    init(_ shape: Shape, _ result: SelfTest.Result) {
        func seconds(_ duration: Duration) -> Double { HumanDuration(duration).seconds }
        self.shape = shape
        callsPerSecond = result.rate
        requestBytesPerSecond = result.requestBandwidth
        replyBytesPerSecond = result.replyBandwidth
        minimum = seconds(result.minimum)
        median = seconds(result.median)
        percentile99 = seconds(result.percentile99)
        percentile999 = seconds(result.percentile999)
        maximum = seconds(result.maximum)
    }

    static func table(_ rows: [SelfTestRow]) -> String {
        var table = Table([
            ("PROVIDER", .left), ("SIZE", .right), ("BYTES", .left), ("IN FLIGHT", .right),
            ("CALLS/S", .right), ("REQUEST", .right), ("REPLY", .right), ("MIN", .right),
            ("P50", .right), ("P99", .right), ("P99.9", .right), ("MAX", .right),
        ])
        func time(_ seconds: Double) -> String {
            HumanDuration(.nanoseconds(Int64(seconds * 1e9))).description
        }
        for row in rows {
            table.add([
                row.shape.provider, "\(Size(bytes: UInt64(row.shape.size)))",
                (row.shape.bulk ? "bulk " : "inline ") + row.shape.direction,
                "\(row.shape.inFlight)", Decimal.text(row.callsPerSecond, digits: 0),
                "\(Size(bytes: UInt64(row.requestBytesPerSecond)))/s",
                "\(Size(bytes: UInt64(row.replyBytesPerSecond)))/s", time(row.minimum),
                time(row.median), time(row.percentile99), time(row.percentile999),
                time(row.maximum),
            ])
        }
        return table.text
    }
}

/// The calling side.
enum SelfTestClient {
    static func measure(
        _ plan: [(SelfTestRow.Shape, SelfTest.Options)], pause: Duration, server: String,
        world: World, xstream: XStream
    ) async throws(CommandFailure) -> [SelfTestRow] {
        let destination: FabricAddress
        do throws(FabricError) {
            destination = try FabricAddress(parsing: server)
        } catch {
            throw CommandFailure(.usage, server, "is no address: \(error)")
        }
        do throws(RPCError) {
            let context = try Context(
                world: world, xstream: xstream,
                address: world.fabric.listenAddress(toReach: destination),
                options: ContextOptions(clock: HybridLogicalClock(clock: world.clock)))
            var rows: [SelfTestRow] = []
            for (shape, options) in plan {
                guard pause > .zero else {
                    let result = try await SelfTest.run(
                        on: context, to: .address(destination), options: options)
                    rows.append(SelfTestRow(shape, result))
                    continue
                }
                rows.append(
                    SelfTestRow(
                        shape,
                        try await afterPauses(pause, context, .address(destination), options)))
            }
            await context.close()
            return rows
        } catch {
            throw CommandFailure(.unavailable, server, "\(error)")
        }
    }

    /// Calls one at a time, each after a pause in which neither side has anything to do. The
    /// rate counts the calls' own time only.
    private static func afterPauses(
        _ pause: Duration, _ context: Context, _ destination: Destination,
        _ options: SelfTest.Options
    ) async throws(RPCError) -> SelfTest.Result {
        var single = options
        (single.repetitions, single.inFlight, single.warmUp) = (1, 1, 1)
        // Connects.
        var result = try await SelfTest.run(on: context, to: destination, options: single)
        single.warmUp = 0
        var latencies: [Duration] = []
        for _ in 0..<options.repetitions {
            await context.xstream.sleep(for: pause)
            result = try await SelfTest.run(on: context, to: destination, options: single)
            latencies.append(result.maximum)
        }
        latencies.sort()
        func share(_ share: Double) -> Duration {
            latencies[min(latencies.count - 1, Int(Double(latencies.count) * share))]
        }
        result.elapsed = latencies.reduce(.zero, +)
        result.repetitions = latencies.count
        result.rate = Double(latencies.count) / max(HumanDuration(result.elapsed).seconds, 1e-9)
        result.requestBandwidth = result.rate * Double(options.request.size)
        result.replyBandwidth = result.rate * Double(options.reply.size)
        (result.minimum, result.median, result.maximum) = (share(0), share(0.5), share(1))
        (result.percentile99, result.percentile999) = (share(0.99), share(0.999))
        return result
    }
}

/// The answering side.
enum SelfTestServer {
    /// Serves at `address`, prints where that is, and returns when standard input ends.
    static func serve(_ address: String, world: World) async throws(CommandFailure) {
        let xstream = world.makeXStream(name: "dray-server")
        let text = try await xstream.run { () async throws(CommandFailure) -> String in
            do throws(RPCError) {
                var options = ContextOptions(clock: HybridLogicalClock(clock: world.clock))
                // As many calls as a client likes to keep in flight.
                options.credits = 0
                let context = try Context(
                    world: world, xstream: xstream, address: address, options: options)
                SelfTest.register(on: context)
                return context.address.description
            } catch {
                throw CommandFailure(address, "\(error)")
            }
        }
        try Terminal.print(text)
        try StandardInput.waitForEnd()
        xstream.stop()
    }

    /// A server in another process.
    struct Child {
        var address: String
        fileprivate var input: Int32
        fileprivate var pid: Int32

        /// Tells the process to end, and waits until it has.
        func end() {
            close(input)
            var status: Int32 = 0
            while unsafe waitpid(pid, &status, 0) < 0, errno == EINTR {}
        }
    }

    /// Starts this program again as a server, which ends when this process does.
    static func start(provider: String) throws(CommandFailure) -> Child {
        var input: [Int32] = [0, 0]
        var output: [Int32] = [0, 0]
        guard unsafe pipe(&input) == 0, unsafe pipe(&output) == 0 else {
            throw CommandFailure("pipe", SystemError.text(errno))
        }
        for descriptor in input + output { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }
        let pid: Int32
        do throws(Errno) {
            pid = try ChildProcess.spawn(
                try ownPath(),
                ["self-test", "--listen", provider].map { Array($0.utf8) },
                input: .descriptor(input[0]), output: .descriptor(output[1]),
                error: .descriptor(2), detached: false)
        } catch {
            throw CommandFailure("server", "cannot be started: \(error.text)")
        }
        close(input[0])
        close(output[1])
        defer { close(output[0]) }
        var line: [UInt8] = []
        var byte: UInt8 = 0
        while unsafe read(output[0], &byte, 1) == 1, byte != UInt8(ascii: "\n") {
            line.append(byte)
        }
        guard !line.isEmpty else {
            close(input[1])
            throw CommandFailure(
                "server", "ended without serving", advice: "is there a provider \(provider)?")
        }
        return Child(
            address: String(decoding: line, as: UTF8.self), input: input[1], pid: pid)
    }

    private static func ownPath() throws(Errno) -> LocalPath {
        LocalPath(try LocalFiles.target(of: LocalPath("/proc/self/exe")))
    }
}
