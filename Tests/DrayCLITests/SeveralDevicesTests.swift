import DrayRuntime
import Foundation
import Testing

@testable import DrayCLI

/// Engines with two data devices.
@Suite struct SeveralDevicesTests {
    private static let anySettings = [
        "--cluster-id", OneEngine.cluster, "--engines", "0=ofi+tcp://127.0.0.1:7500*2",
    ]

    private static func storage(
        _ program: Program, _ arguments: [String]
    ) throws -> Program.Result {
        try program.run((["storage"] + arguments).map { Array($0.utf8) })
    }

    /// An engine of four targets on two files, and a container over all of them.
    private struct Rig {
        let engine: OneEngine
        var paths: [String] { engine.paths }
        static let keys = 0..<16
        static let value = String(repeating: "many ", count: 2000)

        init() throws {
            engine = try OneEngine(targets: 4, devices: ["one", "two"], deviceSize: 512 << 20)
        }

        func dray(_ arguments: String...) throws -> Program.Result { try engine.ask(arguments) }

        func put(_ key: Int, _ suffix: String) throws -> Program.Result {
            try dray("kv", "put", "tank/box", "\(key)", Rig.value + suffix)
        }

        func rows() throws -> [StorageRow] {
            let query = try dray("storage", "query", "--json")
            return try JSONDecoder().decode([StorageRow].self, from: Data(query.output))
        }

        func devices() throws -> [StorageDeviceRow] {
            let query = try dray("storage", "query", "--devices", "--json")
            return try JSONDecoder().decode([StorageDeviceRow].self, from: Data(query.output))
        }

        func looked(_ path: String) throws -> DeviceRow {
            let query = try SeveralDevicesTests.storage(engine.program, ["query", path, "--json"])
            #expect(query.status == 0, "\(query.error)")
            return try JSONDecoder().decode(DeviceRow.self, from: Data(query.output))
        }

        /// Targets are dealt out in turn, and what is told of devices are sums.
        func expectLayout() throws {
            let (rows, whole) = (try rows(), try devices())
            #expect(rows.map(\.target) == ["system", "0", "1", "2", "3"])
            #expect(rows.map(\.path) == [0, 0, 1, 0, 1].map { paths[$0] })
            #expect(whole.map(\.path) == paths)
            #expect(whole.map(\.targets) == [["system", "0", "2"], ["1", "3"]])
            #expect(whole.allSatisfy { $0.size > 256 << 20 && $0.used > 0 && $0.errors == 0 })
            #expect(whole.allSatisfy { !$0.isOutOfService && $0.durableWrites != nil })
            for device in whole {
                let its = rows.filter { $0.path == device.path }
                #expect(its.reduce(0) { $0 + $1.size } == device.size)
                #expect(its.reduce(0) { $0 + $1.used } <= device.used)
            }
        }

        /// Lets the first write of data that comes fail. Returns the keys that could not be
        /// changed.
        func failOneDevice() throws -> Set<Int> {
            #expect(try dray("engine", "faults", "bio.write,count=1").status == 0)
            var failed: Set<Int> = []
            for key in Rig.keys {
                let result = try put(key, "new")
                guard result.status != 0 else { continue }
                failed.insert(key)
                #expect(
                    result.error.contains("Input/output error")
                        || result.error.contains("out of service"), "\(result.error)")
            }
            let half = try devices()
            #expect(half.count { $0.isOutOfService } == 1)
            let state = try dray("storage", "query")
            let lost = half.first { $0.isOutOfService }?.targets.count
            #expect(state.status == 1)
            #expect(
                state.text.split(separator: "\n").count { $0.contains("OUT OF SERVICE") } == lost)
            #expect(try dray("storage", "query", "--devices").text.contains("in service"))
            return failed
        }

        /// Started without its second file, the engine has the targets of the first.
        func expectLoss() throws {
            let (path, away) = (paths[1], paths[1] + ".away")
            #expect(rename(path, away) == 0)
            defer { _ = rename(away, path) }
            let process = try engine.start(engine.devices)
            #expect(try rows().map(\.isOutOfService) == [false, false, true, false, true])
            #expect(try devices().map(\.isOutOfService) == [false, true])
            #expect(try devices().map(\.path) == paths)
            #expect(try dray("storage", "query").status == 1)
            let results = try Rig.keys.map { try dray("kv", "get", "tank/box", "\($0)") }
            let lost = results.filter { $0.status != 0 }
            #expect(!lost.isEmpty && lost.count < results.count)
            for result in lost {
                #expect(result.error.contains("device \(path) does not exist"), "\(result.error)")
            }
            #expect(try process.kill() == GuardedProcess.killed)
        }

        /// A closed store shows how full it is, and nothing changes.
        func expectUsage() throws {
            for (index, path) in paths.enumerated() {
                let before = try Data(contentsOf: URL(fileURLWithPath: path))
                let row = try looked(path)
                #expect(row.stores.map(\.target) == [[nil, 0, 2], [1, 3]][index])
                for store in row.stores where store.target != nil {
                    let space = try #require(store.space)
                    #expect(space.total == store.dataSize && space.log == store.logSize)
                    #expect(space.logValues > 0 && space.logUsed > 0)
                    #expect(space.free < space.total)
                }
                let text = try SeveralDevicesTests.storage(engine.program, ["query", path]).text
                #expect(text.contains("LOG USED"))
                #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == before)
            }
        }
    }

    /// Two data devices: their order does not matter, one alone is refused, and when one fails the
    /// targets of the other go on.
    @Test func anEngineWithTwoDataDevices() throws {
        let rig = try Rig()
        let engine = rig.engine
        defer { engine.end() }
        let format = ["format"] + rig.paths + engine.settings
        let refused = try Self.storage(
            engine.program, format + ["--force", "destroy \(rig.paths[0])"])
        #expect(refused.error.contains("'destroy \(rig.paths[0]) and \(rig.paths[1])'"))
        let made = try Self.storage(engine.program, format)
        #expect(made.status == 0, "\(made.error)")
        let alone = try engine.program.run(
            engine.startArguments(["--device", rig.paths[1]]))
        #expect(alone.status == 1)
        #expect(
            alone.error.contains("device \(rig.paths[1]) belongs elsewhere"), "\(alone.error)")

        let swapped = rig.paths.reversed().flatMap { ["--device", $0] }
        let first = try engine.start(swapped + ["--faults", "on"])
        try engine.makeContainer(poolSize: "256MiB", options: ["--class", "SX"])
        for key in Rig.keys {
            let result = try rig.put(key, "\(key)")
            #expect(result.status == 0, "\(result.error)")
        }
        try rig.expectLayout()
        let failed = try rig.failOneDevice()
        #expect(failed.contains(0) && failed.count < Rig.keys.count)
        #expect(try rig.looked(rig.paths[1]).stores.allSatisfy { $0.space == nil })
        #expect(try first.kill() == GuardedProcess.killed)
        try rig.expectUsage()
        try rig.expectLoss()

        let second = try engine.start(engine.devices)
        for key in Rig.keys {
            let result = try rig.dray("kv", "get", "tank/box", "\(key)")
            let isNew = result.text.hasPrefix(Rig.value + "new")
            let isOld = result.text.hasPrefix(Rig.value + "\(key)")
            #expect(failed.contains(key) ? isNew || isOld : isNew)
        }
        #expect(try second.kill() == GuardedProcess.killed)
    }

    @Test func aDevelopmentClusterWithTwoDevices() throws {
        let program = try Program()
        defer { try? program.end() }
        let start = ["cluster", "start", "--targets", "3", "--device-size", "256MiB"]
        func dray(_ arguments: [String]) throws -> Program.Result {
            try program.dray(arguments.map { Array($0.utf8) })
        }
        for count in ["0", "4"] {
            #expect(try dray(start + ["--devices", count]).status == 64)
        }
        let started = try dray(start + ["--devices", "2"])
        try #require(started.status == 0, "\(started.error)")
        let home = EngineDirectory(cluster: program.cluster, rank: 0)
        for index in 0..<2 { _ = try LocalFiles.status(home.devicePath(index)) }
        #expect(home.devicePath(1).text.hasSuffix("/device-1"))
        let query = try dray(["storage", "query", "--devices", "--json"])
        let rows = try JSONDecoder().decode([StorageDeviceRow].self, from: Data(query.output))
        #expect(rows.map(\.path) == [home.devicePath(0).text, home.devicePath(1).text])
        #expect(rows.map(\.targets) == [["system", "0", "2"], ["1"]])
        let other = try dray(start + ["--devices", "1"])
        #expect(other.status == 6 && other.error.contains("2 devices of each engine"))
        #expect(try dray(["cluster", "stop"]).status == 0)
        let away = home.path.appending(Array("away".utf8))
        #expect(rename(home.devicePath(1).text, away.text) == 0)
        let missing = try dray(["cluster", "start"])
        #expect(missing.status == 4, "\(missing.error)")
        #expect(missing.error.contains(home.devicePath(1).text), "\(missing.error)")
        #expect(rename(away.text, home.devicePath(1).text) == 0)
        #expect(try dray(["cluster", "start"]).status == 0)
    }

    /// Two names of one file are found out.
    @Test func oneDeviceByTwoPathsIsRefused() throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        let paths = OneEngine.makeFiles(program, ["one"], size: 512 << 20)
        let link = program.directory.text + "/link"
        #expect(symlink(paths[0], link) == 0)
        for pair in [[paths[0], link], [link, "--metadata-device", paths[0]]] {
            let result = try Self.storage(program, ["format"] + pair + Self.anySettings)
            #expect(result.status == 1)
            let last = pair[pair.count - 1]
            #expect(
                result.error.contains("\(last) belongs elsewhere: expected another device"),
                "\(result.error)")
        }
        #expect(try Self.storage(program, ["scan", "--free"] + paths).status == 0)
    }
}
