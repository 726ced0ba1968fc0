import DrayEngine
import DrayProtocol
import DrayRuntime
import Foundation
import Testing

@testable import BIO
@testable import DrayCLI

@Suite struct StorageCommandTests {
    private static let cluster = "7d1f0a52-2c3b-4d8e-9f60-a1b2c3d4e5f6"
    private static let settings = [
        "--cluster-id", cluster, "--engines", "3=ofi+tcp://127.0.0.1:7500*2", "--rank", "3",
    ]

    private func run(_ program: Program, _ arguments: [String]) throws -> Program.Result {
        try program.run((["storage"] + arguments).map { Array($0.utf8) })
    }

    @Test func formatGuardsWhatIsThere() throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        let path = program.directory.text + "/device"
        let made = try run(program, ["format", path, "--size", "256MiB"] + Self.settings)
        #expect(made.status == 0, "\(made.error)")
        let query = try run(program, ["query", path, "--json"])
        #expect(query.status == 0, "\(query.error)")
        let row = try JSONDecoder().decode(DeviceRow.self, from: Data(query.output))
        #expect(row.content == "dray" && row.kind == "file" && row.usedBy == nil)
        // The engine's own, then its targets.
        #expect(row.stores.map(\.target) == [nil, 0, 1])
        #expect(row.stores.allSatisfy { $0.cluster == Self.cluster && $0.engine == 3 })
        #expect(row.stores.allSatisfy { $0.role == "whole" && $0.isIntact && $0.pair == nil })
        let text = try run(program, ["query", path]).text
        #expect(text.hasPrefix("\(path): 256 MiB, engine 3 of cluster \(Self.cluster), 2 targets"))

        let again = try run(program, ["format", path] + Self.settings)
        #expect(again.status == 1)
        #expect(again.error.contains("holds something that is not this engine's"))
        for words in ["yes", "destroy", "destroy " + path + "2"] {
            let refused = try run(program, ["format", path, "--force", words] + Self.settings)
            #expect(refused.status == 64)
            #expect(refused.error.contains("--force 'destroy \(path)'"), "\(refused.error)")
        }
        #expect(try run(program, ["query", path, "--json"]).output == query.output)
        let forced = try run(
            program, ["format", path, "--force", "destroy \(path)"] + Self.settings)
        #expect(forced.status == 0, "\(forced.error)")
        let two = try run(program, ["format", path, "--device", "/x"] + Self.settings)
        #expect(two.status == 64)
    }

    /// The mark is shown, and taken away once.
    @Test func aFaultyDeviceIsReinstated() async throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        let path = program.directory.text + "/device"
        let made = try run(program, ["format", path, "--size", "256MiB"] + Self.settings)
        #expect(made.status == 0, "\(made.error)")
        func reinstate() throws -> [ReinstatedDevice] {
            let result = try run(program, ["reinstate", path, "--json"])
            #expect(result.status == 0, "\(result.error)")
            return try JSONDecoder().decode([ReinstatedDevice].self, from: Data(result.output))
        }
        #expect(try reinstate() == [ReinstatedDevice(path: path, stores: 0)])
        let xstream = World.real().makeXStream(name: "cli-test")
        defer { xstream.stop() }
        try await xstream.run { () async throws(BIOError) in
            let device = try RealDeviceStore().open(path: path, on: xstream)
            let partition = try await BlockStore.labels(on: device)[1].partition
            try await BlockStore.setFaulty(true, device, partition)
            await device.close()
        }
        let query = try run(program, ["query", path])
        #expect(query.status == 1)
        #expect(query.text.contains("declared FAULTY"), "\(query.text)")
        #expect(try run(program, ["scan", path]).text.contains("declared FAULTY"))
        #expect(try reinstate() == [ReinstatedDevice(path: path, stores: 1)])
        #expect(try run(program, ["query", path]).status == 0)
        let none = try run(program, ["reinstate", path, program.directory.text + "/none"])
        #expect(none.status != 0)
        let empty = program.directory.text + "/empty"
        #expect(FileManager.default.createFile(atPath: empty, contents: Data(count: 1 << 20)))
        #expect(try run(program, ["reinstate", empty]).status == 4)
    }

    @Test func twoDevicesAreAPair() throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        let paths = ["device", "metadata"].map { program.directory.text + "/" + $0 }
        for path in paths {
            #expect(FileManager.default.createFile(atPath: path, contents: nil))
            #expect(truncate(path, 256 << 20) == 0)
        }
        let pair = [paths[0], "--metadata-device", paths[1]]
        let made = try run(program, ["format"] + pair + Self.settings)
        #expect(made.status == 0, "\(made.error)")
        let scan = try run(program, ["scan", "--json"] + paths)
        let rows = try JSONDecoder().decode([DeviceRow].self, from: Data(scan.output))
        try #require(rows.count == 2)
        #expect(rows[0].stores.map(\.role) == ["data", "data", "data"])
        #expect(rows[1].stores.map(\.role) == ["metadata", "metadata", "metadata"])
        #expect(rows[0].stores.map(\.pair) == rows[1].stores.map(\.pair))
        #expect(Set(rows[0].stores.map(\.pair)).count == 3)
        let words = "destroy \(paths[0]) and \(paths[1])"
        let refused = try run(program, ["format", "--force", "yes"] + pair + Self.settings)
        #expect(refused.error.contains("'\(words)'"))
        let same = try run(
            program, ["format", paths[0], "--metadata-device", paths[0]] + Self.settings)
        #expect(same.status == 64)
    }

    @Test func scanSaysWhatIsThere() throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        let folder = program.directory.text
        #expect(
            FileManager.default.createFile(
                atPath: folder + "/empty", contents: Data(count: 1 << 20)))
        var bytes = Data(count: 1 << 20)
        bytes.replaceSubrange(0..<4, with: Array("XFSB".utf8))
        #expect(FileManager.default.createFile(atPath: folder + "/xfs", contents: bytes))
        let paths = ["empty", "xfs", "none"].map { folder + "/" + $0 }
        let table = try run(program, ["scan"] + paths)
        #expect(table.status == 0)
        #expect(table.text.hasPrefix("DEVICE"))
        #expect(table.text.contains("XFS file system"))
        #expect(table.text.contains("No such file or directory"))
        let free = try run(program, ["scan", "--free", "--json"] + paths)
        let rows = try JSONDecoder().decode([DeviceRow].self, from: Data(free.output))
        #expect(rows.map(\.path) == [folder + "/empty"])
        #expect(try run(program, ["scan", "--free", folder + "/xfs"]).status == 4)
        let foreign = try run(program, ["query", folder + "/xfs"])
        #expect(foreign.status == 4 && foreign.error.contains("XFS file system"))
        #expect(try run(program, ["query", folder + "/none"]).status == 1)
        // This machine's own; there may be none.
        #expect([0, 4].contains(try run(program, ["scan"]).status))
    }

    /// How full the stores of a closed device are is known with its metadata device alone.
    private func expectUsage(
        _ program: Program, _ path: String, _ metadata: [String]
    ) throws {
        for (more, isKnown) in [([], false), (metadata, true)] {
            let query = try run(program, ["query", path, "--json"] + more)
            #expect(query.status == 0, "\(query.error)")
            let row = try JSONDecoder().decode(DeviceRow.self, from: Data(query.output))
            #expect(row.stores.allSatisfy { ($0.space != nil) == isKnown })
        }
    }

    /// An engine with a metadata device is killed, started again, and refused without it.
    @Test func anEngineOnTwoDevices() throws {
        let rig = try OneEngine(targets: 1, devices: ["device", "metadata"], deviceSize: 512 << 20)
        defer { rig.end() }
        let program = rig.program
        let data = ["--device", rig.paths[0]]
        let metadata = ["--metadata-device", rig.paths[1]]
        let made = try run(program, ["format"] + rig.settings + data + metadata)
        #expect(made.status == 0, "\(made.error)")
        let first = try rig.start(data + metadata)
        try rig.makeContainer(OneEngine.values)
        let query = try rig.ask("storage", "query", "--json")
        #expect(query.status == 0, "\(query.error)")
        let rows = try JSONDecoder().decode([StorageRow].self, from: Data(query.output))
        #expect(rows.map(\.target) == ["system", "system", "0", "0"])
        #expect(rows.map(\.device) == ["data", "metadata", "data", "metadata"])
        #expect(rows.allSatisfy { !$0.isOutOfService && $0.errors == 0 && $0.size > 0 })
        // The large value is on the data device, and every record on the other.
        #expect(rows[2].bytesWritten >= 50_000 && rows[2].durableWrites == nil)
        #expect(rows[3].bytesWritten > 0 && rows[3].durableWrites != nil)
        #expect(try rig.ask("storage", "query").text.contains("in service"))
        let looked = try run(program, ["query", rig.paths[1], "--json"])
        let row = try JSONDecoder().decode(DeviceRow.self, from: Data(looked.output))
        #expect(row.usedBy?.hasPrefix("process ") == true)
        #expect(try first.kill() == GuardedProcess.killed)

        try expectUsage(program, rig.paths[0], metadata)
        let alone = try program.run(rig.startArguments(data))
        #expect(alone.status == 1)
        #expect(alone.error.contains("no metadata device"), "\(alone.error)")
        let second = try rig.start(data + metadata)
        for (key, value) in OneEngine.values {
            let result = try rig.ask("kv", "get", "tank/box", key)
            #expect(result.status == 0, "\(result.error)")
            #expect(result.text.hasPrefix(value))
        }
        #expect(try second.kill() == GuardedProcess.killed)
    }

    @Test func healthIsShown() throws {
        var row = DeviceRow(StorageScan.device(at: "/dev/null"))
        #expect(row.health == nil && !DeviceRow.stores(row).contains("health"))
        var health = DeviceRow.Health(
            warnings: [], temperature: 31, percentageUsed: 2, spare: 100, spareThreshold: 10,
            mediaErrors: 1)
        row.health = health
        let line = "health: 31 °C, 2% of its life used, 100% spare, 1 media error, no warning\n"
        #expect(DeviceRow.stores(row).contains(line))
        health.temperature = nil
        #expect(health.text.hasPrefix("health: temperature unknown, 2% of its life used, "))
        health.warnings = ["temperature", "read-only"]
        #expect(health.text.hasSuffix("WARNING: temperature, read-only"))
    }

    // MARK: - What engines say

    private func family(_ name: String, _ samples: [([String: String], Double)]) -> MetricFamily {
        var family = MetricFamily()
        family.name = name
        family.samples = samples.map { labels, value in
            var sample = MetricSample()
            sample.labels = labels.sorted { $0.key < $1.key }.map {
                MetricLabel(name: $0.key, value: $0.value)
            }
            sample.value = value
            return sample
        }
        return family
    }

    @Test func rowsAreMadeOfMetrics() throws {
        let store = ["rank": "4", "target": "0"]
        let data: [String: String] = store.merging(["device": "data", "path": "/d"]) {
            first, _ in first
        }
        let metadata: [String: String] = store.merging(["device": "metadata", "path": "/m"]) {
            first, _ in first
        }
        var times = family("dray_device_read_time_seconds", [(data, 0)])
        var histogram = LatencyHistogram(precision: 3)
        histogram.record(nanoseconds: 1000)
        times.samples[0].histogram = histogram
        let rows = StorageRow.rows([
            family("dray_device_written_bytes_total", [(data, 4096), (metadata, 8192)]),
            family("dray_device_read_bytes_total", [(data, 12288)]),
            family("dray_device_errors_total", [(metadata, 2)]),
            family("dray_device_unreadable_places", [(data, 3)]),
            family("dray_device_damaged_places", [(metadata, 4)]),
            family("dray_storage_size_bytes", [(store, 1_048_576)]),
            family("dray_storage_out_of_service", [(store, 1)]),
            times,
        ])
        try #require(rows.count == 2)
        #expect(rows[0].device == "data" && rows[0].bytesWritten == 4096)
        #expect(rows[0].bytesRead == 12288 && rows[0].errors == 0)
        #expect(rows[0].reads?.count == 1 && rows[0].reads?.maximum == 1e-6)
        #expect(rows[1].device == "metadata" && rows[1].errors == 2 && rows[1].reads == nil)
        #expect(rows.allSatisfy { $0.size == 1 << 20 && $0.isOutOfService && $0.rank == 4 })
        #expect(rows.map(\.path) == ["/d", "/m"])
        #expect(rows.map(\.unreadablePlaces) == [3, 0] && rows.map(\.damagedPlaces) == [0, 4])
        #expect(StorageRow.table(rows).contains("OUT OF SERVICE"))
        #expect(StorageRow.table([]).isEmpty)
    }

    @Test func devicesAreSumsOverTargets() throws {
        func labels(_ target: String, _ path: String) -> [String: String] {
            ["rank": "4", "target": target, "device": "data", "path": path]
        }
        let all = [labels("system", "/a"), labels("1", "/b"), labels("0", "/a")]
        var times = family("dray_device_read_time_seconds", all.map { label in (label, 0.0) })
        for (index, count) in [1, 5, 2].enumerated() {
            var histogram = LatencyHistogram(precision: 3)
            for _ in 0..<count { histogram.record(nanoseconds: 1000) }
            times.samples[index].histogram = histogram
        }
        let rows = StorageDeviceRow.rows([
            family("dray_device_written_bytes_total", all.map { label in (label, 4096.0) }),
            family("dray_device_size_bytes", all.map { label in (label, 1_048_576.0) }),
            family("dray_device_used_bytes", [(all[0], 4096), (all[2], 8192)]),
            family("dray_device_errors_total", [(all[1], 1)]),
            family("dray_device_unreadable_places", [(all[0], 1), (all[2], 2)]),
            family("dray_device_damaged_places", [(all[1], 5)]),
            family("dray_device_out_of_service", [(all[1], 1)]),
            times,
        ])
        try #require(rows.count == 2)
        #expect(rows.map(\.path) == ["/a", "/b"])
        #expect(rows.map(\.targets) == [["system", "0"], ["1"]])
        #expect(rows.map(\.size) == [2 << 20, 1 << 20])
        #expect(rows.map(\.used) == [12288, 0])
        #expect(rows.map(\.bytesWritten) == [8192, 4096])
        #expect(rows.map(\.errors) == [0, 1])
        #expect(rows.map(\.unreadablePlaces) == [3, 0] && rows.map(\.damagedPlaces) == [0, 5])
        #expect(rows.map(\.isOutOfService) == [false, true])
        #expect(rows.map { $0.reads?.count } == [3, 5])
        #expect(StorageDeviceRow.table(rows).contains("OUT OF SERVICE"))
    }
}
