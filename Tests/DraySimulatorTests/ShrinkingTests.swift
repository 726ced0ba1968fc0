import DraySimulator
import Testing

/// Shrinking ends at the least that still fails in the same way. Runs are made up here.
@Suite struct ShrinkingTests {
    /// What was run, and what was said.
    private final class Log {
        var runs: [ClusterSimulation.Options] = []
        var lines: [String] = []
    }

    private static let seed: UInt64 = 7

    private static func options(_ objectClass: String) -> ClusterSimulation.Options {
        var options = ClusterSimulation.Options()
        options.objectClass = objectClass
        options.engineCount = 6
        options.targetCount = 2
        options.deviceCount = 2
        options.clientCount = 4
        return options
    }

    private func smallest(
        _ options: ClusterSimulation.Options, failing failure: RunFailure, _ log: Log,
        run: @escaping (ClusterSimulation.Options) -> [Finding]
    ) throws -> ClusterSimulation.Options {
        try Shrinking(Self.seed, failure) {
            log.lines.append($0)
        } run: {
            log.runs.append($0)
            return run($0)
        }.smallest(options)
    }

    private static let failures: [RunFailure] = [
        .violation(.leak), .violation(.serialisability), .trap("signal"), .hang,
    ]

    /// Everything that the failure does not need goes, and it is another one that shows when more
    /// goes.
    @Test(arguments: failures)
    func endsAtTheLeastThatFailsInTheSameWay(failure: RunFailure) throws {
        let log = Log()
        let smallest = try smallest(Self.options("RP_3G1"), failing: failure, log) { options in
            let isEnough =
                options.faults.contains(.pause) && options.clientCount ?? 0 >= 2
                && options.engineCount ?? 0 >= 4 && options.duration >= .milliseconds(300)
            return [isEnough ? Finding(failure, "planted") : Finding(.violation(.value), "another")]
        }
        #expect(
            smallest.command(seed: Self.seed)
                == "scripts/simulate --seed 7 --engines 4 --targets 1 --clients 2 "
                + "--class RP_3G1 --lanes 1 --milliseconds 375 --faults pause")
        let last = try #require(log.lines.last)
        #expect(last.contains(smallest.command(seed: Self.seed)))
        #expect(last.hasSuffix("\(failure): planted"))
    }

    /// A cluster that has fewer engines than replicas cannot hold the container.
    @Test(arguments: [("S1", 1), ("RP_2G1", 2), ("RP_3GX", 3)])
    func enginesStayEnoughForTheReplicas(objectClass: String, replicas: Int) throws {
        let log = Log()
        let smallest = try smallest(
            Self.options(objectClass), failing: .violation(.value), log
        ) { _ in [Finding(.violation(.value), "planted")] }
        #expect(smallest.engineCount == replicas)
        #expect(log.runs.allSatisfy { $0.engineCount ?? 0 >= replicas })
    }

    /// What the seed draws is made smaller, too.
    @Test func whatTheSeedDrawsIsMadeSmaller() throws {
        let smallest = try smallest(
            ClusterSimulation.Options(), failing: .hang, Log()
        ) { _ in [Finding(.hang, "planted")] }
        #expect(smallest.clientCount == 1)
        #expect(smallest.faults.isEmpty)
    }

    @Test func aFailureToSetUpIsNotMadeSmaller() throws {
        let log = Log()
        let options = Self.options("RP_3G1")
        let smallest = try smallest(options, failing: .violation(.setUp), log) { _ in
            [Finding(.violation(.setUp), "planted")]
        }
        #expect(smallest.command(seed: 1) == options.command(seed: 1))
        #expect(log.runs.isEmpty)
    }

    /// A run that shows several things counts when the failure is among them.
    @Test func theFailureMayBeOneOfSeveral() throws {
        let findings = [Finding(.violation(.error), "first"), Finding(.violation(.leak), "second")]
        let smallest = try smallest(
            Self.options("S1"), failing: .violation(.leak), Log()
        ) { _ in findings }
        #expect(smallest.engineCount == 1)
    }

    @Test(arguments: Violation.Kind.allCases)
    func violationsAreReadAsTheyWereWritten(kind: Violation.Kind) {
        let violation = Violation(kind, "client 1: key 2: read nothing, expected: something")
        #expect(Violation(violation.description) == violation)
    }

    @Test(arguments: ["", "leak", "leak:", "leak:something", "nothing: of this kind"])
    func otherTextsAreNoViolations(text: String) {
        #expect(Violation(text) == nil)
    }
}
