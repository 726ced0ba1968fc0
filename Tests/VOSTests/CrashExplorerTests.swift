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

    /// What stands on two devices, or is discarded.
    @Test(arguments: [
        ("format", SimulatedStore.Devices.pair), ("closing and opening", .pair),
        ("checkpoints under load", .pair), ("destruction", .discarding),
    ])
    func everyMomentRecovers(name: String, devices: SimulatedStore.Devices) throws {
        var scenario = try #require(CrashScenario.all.first { $0.name == name })
        scenario.shape.devices = devices
        let report = CrashExplorer(scenario, seed: 1).run()
        #expect(report.violations == [])
        #expect(report.shortfalls == [])
        #expect(devices == .pair || report.discards > 0)
    }

    /// One device may have kept what another has lost.
    @Test func twoDevicesFailEachInItsWay() {
        var shape = SimulatedStore.Shape()
        shape.devices = .pair
        let process = SimulatedStore(seed: 1, shape: shape)
        final class Moments { var outcomes: [Int] = [] }
        let moments = Moments()
        let context = SimulationConfined((moments, process), to: process.simulation)
        process.devices.onBoundary { _, _ in
            let (moments, process) = context.value
            let image = process.image
            moments.outcomes.append(image.outcomes.count)
            for outcome in image.outcomes { #expect(image.crashed(outcome, seed: 1).isClean) }
        }
        let player = StorePlayer(process, seed: 1)
        let isEnded = process.run {
            try await process.format()
            try await player.openStore()
            try await player.put(1, 9000, epoch: 100)
            await player.together([
                { try await player.put(2, 9000, epoch: 101) },
                { try await player.checkpoint() },
            ])
            await player.closeStore()
        }
        process.devices.onBoundary(nil)
        #expect(isEnded && process.failures == [] && player.violations == [])
        #expect(Set(moments.outcomes) == [1, 4, 6])
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
