import CaRT
import DrayProtocol
import DrayRuntime
import Testing

@testable import DrayEngine

@Suite struct ConfigurationTests {
    @Test func addressesFollowTheBase() {
        #expect(
            EngineConfiguration.addresses(base: "ofi+tcp://127.0.0.1:31416", targetCount: 2)
                == [
                    "ofi+tcp://127.0.0.1:31416", "ofi+tcp://127.0.0.1:31417",
                    "ofi+tcp://127.0.0.1:31418", "ofi+tcp://127.0.0.1:31419",
                ])
        #expect(
            EngineConfiguration.addresses(base: "ofi+shm://engine", targetCount: 1)
                == ["ofi+shm://engine", "ofi+shm://engine-1", "ofi+shm://engine-2"])
        #expect(
            EngineConfiguration.addresses(base: "sim://e", targetCount: 1) == [
                "sim://e", "sim://e-1", "sim://e-2",
            ])
    }

    @Test(arguments: [1, 2, 3, 7])
    func partitionsAreDisjointAndInside(targetCount: Int) throws {
        let size: UInt64 = 3 << 30
        let partitions = try #require(
            DevicePartitions(deviceSize: size, targetCount: targetCount))
        var end = partitions.systemPartition.upperBound
        for partition in partitions.targets {
            #expect(partition.lowerBound >= end)
            #expect(UInt64(partition.count) >= DevicePartitions.targetMin)
            #expect(partition.lowerBound % DevicePartitions.alignment == 0)
            #expect(DevicePartitions.logSize(of: partition) * 2 < UInt64(partition.count))
            end = partition.upperBound
        }
        #expect(end <= size)
        #expect(DevicePartitions(deviceSize: 100 << 20, targetCount: targetCount) == nil)
    }

    @Test func problemsAreNamed() {
        let engine = EngineRecord(rank: 0, addresses: ["a", "b", "c"])
        func problem(_ rank: UInt32, _ engines: [EngineRecord]) -> String? {
            EngineConfiguration(
                cluster: .zero, rank: rank, engines: engines, devicePaths: ["x"]
            ).problem
        }
        #expect(problem(0, [engine]) == nil)
        #expect(problem(1, [engine]) != nil)
        #expect(problem(0, [engine, engine]) != nil)
        #expect(problem(0, [EngineRecord(rank: 0, addresses: ["a", "b"])]) != nil)
        #expect(problem(0, [engine, EngineRecord(rank: 1, addresses: ["c", "d", "e"])]) != nil)
        var configuration = EngineConfiguration(
            cluster: .zero, rank: 0, engines: [engine], devicePaths: ["x"])
        configuration.swim.pingTimeout = configuration.swim.period
        #expect(configuration.problem != nil)
    }
}
