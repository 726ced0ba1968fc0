import BIO
import DrayRuntime
import Testing
import VOSSimulator

@Suite struct CrashExplorerTests {
    /// The short ones; `dray-simulate crashes` runs all.
    @Test(arguments: ["small updates", "conditional updates", "resent transactions", "outcomes"])
    func everyMomentRecovers(name: String) throws {
        let scenario = try #require(CrashScenario.all.first { $0.name == name })
        let report = CrashExplorer(scenario, seed: 1).run()
        #expect(report.violations == [])
        #expect(report.shortfalls == [])
    }

    /// An update that is acknowledged too early is missed after a crash.
    @Test func whatWasLostIsNamed() {
        let scenario = CrashScenario("a lost update", boundaries: 1) { player in
            try await player.put(1, 40, epoch: 100)
            let update = StoreUpdate(
                [.value(2, 40, seed: 1)], epoch: 101, transaction: UniqueID(high: 5, low: 1))
            let number = player.journal.begin(update)
            player.journal.end(number, isApplied: true)
            try await player.put(3, 40, epoch: 102)
        }
        let report = CrashExplorer(scenario, seed: 1).run()
        #expect(!report.violations.isEmpty)
    }

    @Test func aScriptMustHaveAPoint() {
        let report = CrashExplorer(CrashScenario("nothing", boundaries: 1) { _ in }, seed: 1).run()
        #expect(report.violations == [])
        #expect(report.shortfalls == ["0 boundaries, 1 wanted"])
    }
}
