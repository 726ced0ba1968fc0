import DraySimulator
import Testing

@Suite struct SimulatedClusterTests {
    @Test(arguments: [1, 2, 3] as [UInt64])
    func aClusterSurvivesFaults(seed: UInt64) {
        let report = ClusterSimulation(seed: seed).run()
        #expect(report.violations == [])
        #expect(report.shortfalls == [])
    }

    @Test func theSameSeedGivesTheSameRun() {
        let first = ClusterSimulation(seed: 4).run()
        let second = ClusterSimulation(seed: 4).run()
        #expect(first.eventHash == second.eventHash)
        #expect(first.turns == second.turns)
    }
}
