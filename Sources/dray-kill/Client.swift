internal import Dray
internal import DrayRuntime
internal import DraySimulator
internal import Synchronization

/// A client with a thread of its own, and the workload that runs there.
final class Client: Sendable {
    let index: Int
    private let cluster: Cluster
    private let workload: XStreamBound<Workload>

    /// Some calls outlive a restart, some give up early and are on their way still.
    private static let timeouts: [Duration] = [.seconds(5), .seconds(1), .milliseconds(300)]
    static let timeoutMax = Duration.seconds(5)
    /// How much later than that a change may still happen: all clocks are the same.
    private static let lateness = Duration.milliseconds(100)

    /// Connects.
    init(
        _ index: Int, of real: RealCluster, container label: String, shared: SharedValues,
        entropy: Entropy
    ) async throws(Failure) {
        let timeout = Client.timeouts[index % Client.timeouts.count]
        let cluster = try await real.connect(timeout: timeout)
        self.index = index
        self.cluster = cluster
        do throws(DrayError) {
            let container = try await cluster.pool(Harness.pool).container(label)
            let xstream = cluster.xstream
            workload = await cluster.run {
                XStreamBound(
                    Workload(
                        Workload.Setting(
                            name: "c\(index)", client: index, container: container,
                            xstream: xstream, entropy: entropy, shared: shared,
                            clocksDiffer: false, lateness: timeout + Client.lateness)),
                    to: xstream)
            }
        } catch {
            throw Failure("client \(index): \(error)")
        }
    }

    func close() async { await cluster.close() }

    /// What became of something that runs on another thread.
    final class Answer<Value: Sendable>: Sendable {
        private let value = Mutex<Value?>(nil)

        func give(_ value: Value) { self.value.withLock { $0 = value } }

        /// Nil when there is none by `limit`.
        func wait(on xstream: XStream, until limit: Instant) async -> Value? {
            while true {
                if let value = value.withLock({ $0 }) { return value }
                guard xstream.now < limit else { return nil }
                await xstream.sleep(for: .milliseconds(2))
            }
        }
    }

    /// Begins something on the client's thread.
    func begin<Value: Sendable>(
        _ body: @escaping @Sendable (Workload) async -> Value
    ) -> Answer<Value> {
        let answer = Answer<Value>()
        let (xstream, workload) = (cluster.xstream, workload)
        xstream.submit {
            xstream.spawn { answer.give(await body(workload.value)) }
        }
        return answer
    }

    /// Works until it is told to stop. The answers come when all lanes have ended: those that do
    /// everything, and the one that only reads.
    func work() -> [Answer<Bool>] {
        let answers = (Answer<Bool>(), Answer<Bool>())
        let (xstream, workload) = (cluster.xstream, workload)
        xstream.submit {
            workload.value.run(lanes: Workload.laneMax, until: { false }) { answers.0.give(true) }
            workload.value.read(pausing: .milliseconds(2)) { answers.1.give(true) }
        }
        return [answers.0, answers.1]
    }

    /// What a client has done and found so far.
    struct Tally: Sendable {
        var operations = 0
        var acknowledgedWrites = 0
        var commits = 0
        var unknownOutcomes = 0
        var refusals = 0
        var reads = 0
        var violations: [String] = []

        init() {}

        init(_ workload: Workload) {
            operations = workload.operations
            acknowledgedWrites = workload.acknowledgedWrites
            commits = workload.commits
            unknownOutcomes = workload.unknownOutcomes
            refusals = workload.refusals
            reads = workload.answeredReads
            violations = workload.violations.map(\.description)
        }

        /// Operations that came back with a result, without those that only read.
        var answered: Int { operations - unknownOutcomes - refusals - reads }

        static func += (left: inout Tally, right: Tally) {
            left.operations += right.operations
            left.acknowledgedWrites += right.acknowledgedWrites
            left.commits += right.commits
            left.unknownOutcomes += right.unknownOutcomes
            left.refusals += right.refusals
            left.reads += right.reads
            left.violations += right.violations
        }
    }
}
