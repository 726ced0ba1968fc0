internal import ArgumentParser
internal import CAllocationCounter
internal import CaRT
internal import DrayFabric
internal import DrayRuntime

/// Allocations per call, and growth over many.
struct Calls: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Count allocations per call, and how memory grows over many calls.",
        discussion: """
            A client and a server on one thread call over a provider; the thread's allocations \
            are counted, libfabric's too. A handler that answers at once may allocate nothing, \
            one that runs as a task a fixed number.
            """)

    @Option(help: "Where to listen (repeat for more).")
    var provider: [String] = ["ofi+tcp", "ofi+tcp;ofi_rxm", "shm", "ofi+shm"]

    @Option(help: "Calls of each kind.")
    var calls = 100_000

    @Option(help: "How they are answered (repeat for more).")
    var answered = Answered.allCases

    @Option(help: "Calls in flight at a time (repeat for more).")
    var inFlight = [1, 16]

    /// Pools, tasks and histograms may grow a little while calls are counted.
    static let slack = 0.01
    /// What a timer that fires costs; one fires each millisecond while calls are under way.
    static let objectsPerMillisecond = 4.0
    static let growthMax = 1024.0

    func validate() throws {
        guard calls >= 1000 else { throw ValidationError("--calls is at least 1000") }
        guard inFlight.allSatisfy({ $0 > 0 }) else {
            throw ValidationError("--in-flight is at least 1")
        }
    }

    func run() async throws {
        var findings: [Finding] = []
        for provider in provider {
            findings += try await measure(provider)
        }
        try Finding.report(findings)
    }

    private func measure(_ provider: String) async throws -> [Finding] {
        try await Context.run(at: provider) { client in
            let server = try Context(
                world: .libfabric(), xstream: client.xstream, address: provider,
                options: ContextOptions(clock: client.clock))
            server.registerSynchronous(Question.atOnce) { question, _ in question }
            server.register(Question.byTask) { question, _ in question }
            var findings: [Finding] = []
            let start = try residentKibibytes()
            for answered in answered {
                for inFlight in inFlight {
                    let run = CallLoop(client, server.address, answered.procedure)
                    await run.go(10_000, inFlight: inFlight)
                    let start = client.xstream.now
                    let begin = dray_thread_allocations()
                    await run.go(calls, inFlight: inFlight)
                    let count = dray_thread_allocations() - begin
                    let elapsed = client.xstream.now.since(start) / .milliseconds(1)
                    let timers = elapsed * Self.objectsPerMillisecond / Double(calls)
                    findings.append(
                        Finding(
                            what: "\(provider), \(answered.procedure.name), "
                                + "\(inFlight) in flight",
                            found: Double(count) / Double(calls),
                            limit: answered.objects + timers + Self.slack,
                            unit: "allocations a call"))
                    if let error = run.failure { throw error }
                }
            }
            // The first round of every kind has grown what grows.
            let counted = calls * answered.count * inFlight.count
            let grown = try residentKibibytes()
            for answered in answered {
                let run = CallLoop(client, server.address, answered.procedure)
                await run.go(calls * 2, inFlight: inFlight.max() ?? 1)
                if let error = run.failure { throw error }
            }
            findings.append(
                Finding(
                    what: "\(provider), growth after \(counted) calls by "
                        + "\(calls * 2 * answered.count) more "
                        + "(\(Int(grown - start)) KiB before)",
                    found: try residentKibibytes() - grown, limit: Self.growthMax, unit: "KiB"))
            await server.close()
            return findings
        }
    }
}

/// How the handler of a call answers.
enum Answered: String, CaseIterable, ExpressibleByArgument {
    case atOnce = "at-once"
    case byTask = "by-task"

    var procedure: Procedure<Question, Question> {
        switch self {
        case .atOnce: Question.atOnce
        case .byTask: Question.byTask
        }
    }

    /// Objects that a call may cost: those of a task are the request, and the closure that runs it.
    var objects: Double {
        switch self {
        case .atOnce: 0
        case .byTask: 2
        }
    }
}

/// Calls of one procedure, some of them in flight at a time.
final class CallLoop {
    private let context: Context
    private let address: FabricAddress
    private let procedure: Procedure<Question, Question>
    private var remaining = 0
    private var running = 0
    private var finished: SuspendedTask?
    private(set) var failure: RPCError?

    init(
        _ context: Context, _ address: FabricAddress, _ procedure: Procedure<Question, Question>
    ) {
        self.context = context
        self.address = address
        self.procedure = procedure
    }

    /// Makes `count` calls.
    func go(_ count: Int, inFlight: Int) async {
        remaining = count
        running = inFlight
        await SuspendedTask.suspend { waiter in
            finished = waiter
            for _ in 0..<inFlight {
                context.xstream.spawn { [self] in
                    await loop()
                    running -= 1
                    if running == 0 { finished?.resume() }
                }
            }
        }
    }

    private func loop() async {
        do throws(RPCError) {
            while remaining > 0, failure == nil {
                remaining -= 1
                _ = try await context.call(procedure, Question(), to: .address(address))
            }
        } catch {
            failure = error
        }
    }
}
