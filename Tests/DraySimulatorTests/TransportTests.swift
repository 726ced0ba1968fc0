import DraySimulator
import Testing

/// The simulation of the transport finds what it is there for, and the transport passes.
@Suite struct TransportTests {
    @Test(arguments: UInt64(1)...3)
    func passesUnderFaults(seed: UInt64) {
        let report = TransportSimulation(seed: seed).run()
        #expect(report.violations == [])
        #expect(report.shortfalls == [])
    }

    @Test func repeatsExactly() {
        let runs = (0..<2).map { _ in TransportSimulation(seed: 4).run() }
        #expect(runs[0].eventHash == runs[1].eventHash)
        #expect(runs[0].calls == runs[1].calls)
        #expect(runs[0].eventHash != TransportSimulation(seed: 5).run().eventHash)
    }

    /// Floors are what they say: without faults a run has tested too little.
    @Test func aRunWithoutFaultsDoesNotCount() {
        var options = TransportSimulation.Options()
        options.faults = []
        options.duration = .milliseconds(100)
        let report = TransportSimulation(seed: 1, options: options).run()
        #expect(report.violations == [])
        #expect(report.shortfalls.contains("0 faults"))
        #expect(!report.passed)
    }
}
