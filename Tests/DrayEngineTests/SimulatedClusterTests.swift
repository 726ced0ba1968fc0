import DraySimulator
import Testing

@Suite struct SimulatedClusterTests {
    @Test(arguments: [1, 2, 3] as [UInt64])
    func aClusterSurvivesFaults(seed: UInt64) {
        let report = ClusterSimulation(seed: seed).run()
        #expect(report.violations == [])
        #expect(report.shortfalls == [])
    }

    /// Seeds that found something, each with what it found.
    @Test(
        arguments: [
            (5, "a call to a restarted engine waited for its deadline before it was asked again"),
            (16, "a transfer that failed reached the client as an invalid argument"),
        ] as [(UInt64, String)])
    func seedsThatFoundSomething(seed: UInt64, finding: String) {
        let report = ClusterSimulation(seed: seed).run()
        #expect(report.passed, "again: \(finding): \(report.violations)")
    }

    @Test func theSameSeedGivesTheSameRun() {
        let first = ClusterSimulation(seed: 4).run()
        let second = ClusterSimulation(seed: 4).run()
        #expect(first.eventHash == second.eventHash)
        #expect(first.turns == second.turns)
    }
}
