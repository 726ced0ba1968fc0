import DrayRuntime
import Testing

@testable import BIO

@Suite struct DeviceStatisticsTests {
    private static func work(_ device: BlockDevice) async throws(BIOError) {
        let buffer = IOBuffer(count: 8192)
        let bytes = UnsafeRawBufferPointer(buffer.bytes)
        try await device.write(bytes, at: 0, durable: false)
        try await device.write(bytes, at: 8192, durable: true)
        try await device.flush()
        for _ in 0..<3 { try await device.read(into: buffer.bytes, at: 4096) }
    }

    private static func check(_ statistics: DeviceStatistics) {
        #expect(statistics.reads.count == 3 && statistics.bytesRead == 3 * 8192)
        #expect(statistics.writes.count == 1 && statistics.durableWrites.count == 1)
        #expect(statistics.bytesWritten == 16384)
        #expect(statistics.flushes.count == 1 && statistics.flushCount == 2)
        #expect(statistics.errors == 0 && statistics.lastError == nil)
        for kind in [
            statistics.reads, statistics.writes, statistics.durableWrites, statistics.flushes,
        ] {
            #expect(kind.latency.count == kind.count)
            #expect(kind.latency.maximum > 0)
        }
    }

    @Test(arguments: [RealDeviceStore.Mode.ring, .threads])
    func aRealDeviceCounts(mode: RealDeviceStore.Mode) async throws {
        let folder = TemporaryFolder()
        let path = folder.path + "/disk"
        let store = RealDeviceStore(mode: mode)
        try store.create(path: path, size: 1 << 20)
        let xstream = World.real().makeXStream(name: "bio-test")
        defer { xstream.stop() }
        let (first, second) = try await xstream.run { () async throws(BIOError) in
            let device = try store.open(path: path, on: xstream)
            try await Self.work(device)
            let first = device.statistics
            let buffer = IOBuffer(count: 4096)
            try await device.writeAndFlush(UnsafeRawBufferPointer(buffer.bytes), at: 0)
            let second = device.statistics.since(first)
            await device.close()
            return (first, second)
        }
        Self.check(first)
        #expect(second.bytesWritten == 4096 && second.reads.count == 0)
        #expect(second.flushCount == 1)
    }

    @Test func aSimulatedDeviceCountsItsErrors() {
        let node = SimulatedNode(seed: 1)
        node.run {
            let device = try node.openDevice()
            try await Self.work(device)
            Self.check(device.statistics)
            var faults = DeviceFaults()
            faults.readErrorChance = 1_000_000
            faults.flushErrorChance = 1_000_000
            node.store.setFaults(faults)
            let before = device.statistics
            let buffer = IOBuffer(count: 4096)
            await #expect(throws: BIOError.self) {
                try await device.read(into: buffer.bytes, at: 4096)
            }
            await #expect(throws: BIOError.self) {
                try await device.writeAndFlush(UnsafeRawBufferPointer(buffer.bytes), at: 0)
            }
            // Beyond its end: no error of the device.
            await #expect(throws: BIOError.self) {
                try await device.read(into: buffer.bytes, at: device.size)
            }
            let change = device.statistics.since(before)
            #expect(change.reads.errors == 1 && change.flushes.errors == 1 && change.errors == 2)
            #expect(change.reads.count == 0 && change.writes.count == 1)
            guard case .failed(SimulatedNode.path, 0, 5, _) = change.lastError else {
                Issue.record("\(String(describing: change.lastError))")
                return
            }
            var sum = before
            sum.add(change)
            #expect(sum == device.statistics)
        }
    }
}
