import Testing
import VOSSimulator

/// Random operations of all kinds against a model; `dray-simulate vos` runs more of them.
@Suite struct StoreSimulationTests {
    @Test(arguments: UInt64(1)...8)
    func storeEqualsModel(seed: UInt64) {
        var options = StoreSimulation.Options()
        options.steps = 500
        let report = StoreSimulation(seed: seed, options: options).run()
        #expect(report.violations == [], "dray-simulate vos --steps 500 --seed \(seed)")
        #expect(report.shortfalls == [])
    }

    /// A pass over everything, again and again, finds nothing and disturbs nobody.
    @Test(arguments: UInt64(101)...106)
    func scrubbedStoreEqualsModel(seed: UInt64) {
        var options = StoreSimulation.Options()
        options.steps = 500
        options.isScrubbed = true
        let report = StoreSimulation(seed: seed, options: options).run()
        #expect(
            report.violations == [], "dray-simulate vos --scrub --steps 500 --seed \(seed)")
        #expect(report.shortfalls == [] && report.scrubs > 2)
    }

    @Test func repeatsExactly() {
        var options = StoreSimulation.Options()
        options.steps = 300
        let hashes = [3, 3, 4].map { StoreSimulation(seed: $0, options: options).run().eventHash }
        #expect(hashes[0] == hashes[1])
        #expect(hashes[0] != hashes[2])
    }
}
