import DrayEngine
import DrayRuntime
import Foundation
import Testing

@testable import DrayCLI

/// Log masks and injected faults of running engines.
@Suite(.serialized) struct TuneTests {
    @Test func engineSettingsTakeFaults() throws {
        func faults(_ text: String?) throws -> [FaultRule]? {
            var flags: [EngineSettings.Key: String] = [
                .clusterID: "00000000-0000-0000-0000-000000000001", .device: "/d",
                .engines: "0=ofi+tcp://127.0.0.1:4000*1",
            ]
            flags[.faults] = text
            return try EngineSettings(flags: flags, environment: { _ in nil }, file: [:])
                .configuration().faults
        }
        #expect(try faults(nil) == nil)
        #expect(try faults("off") == nil)
        #expect(try faults("on") == [])
        let rules = try faults("bio.read,interval=2; cart.send,probability=0.5")
        #expect(rules?.map(\.point) == [.bioRead, .cartSend])
        #expect(throws: CommandFailure.self) { try faults("everything") }
    }

    @Test func masksAndFaultsOfRunningEngines() throws {
        let program = try Program()
        defer { try? program.end() }
        let started = try program.dray(
            "cluster", "start", "--engines", "2", "--targets", "1", "--device-size", "256MiB")
        try #require(started.status == 0, "\(started.error)")
        func rows(_ arguments: String...) throws -> [TuneRow] {
            let run = try program.dray(
                (["engine"] + arguments + ["--json"]).map { Array($0.utf8) })
            try #require(run.status == 0, "\(run.error)")
            return try JSONDecoder().decode([TuneRow].self, from: Data(run.text.utf8))
        }
        #expect(try rows("log").map(\.logMask) == ["warning", "warning"])
        #expect(
            try rows("log", "info,cart=debug", "--rank", "1").map(\.logMask) == ["info,cart=debug"])
        #expect(try rows("log").map(\.logMask) == ["warning", "info,cart=debug"])
        let bad = try program.dray("engine", "log", "loud")
        #expect(bad.status != 0 && bad.error.contains("cannot read 'loud'"), "\(bad.error)")
        let missing = try program.dray("engine", "log", "--rank", "7")
        #expect(missing.status != 0 && missing.error.contains("rank 7"), "\(missing.error)")
        // Nobody injects faults into an engine that was not started for it.
        let refused = try program.dray("engine", "faults", "vos.space")
        #expect(refused.status != 0 && refused.error.contains("faults are off"), "\(refused.error)")
        #expect(try program.dray("engine", "faults", "vos.spaces").status == 64)
        #expect(try rows("faults", "--clear").allSatisfy { $0.faults.isEmpty })
    }

    @Test func faultsReachTheUser() throws {
        let program = try Program()
        defer { try? program.end() }
        let started = try program.dray(
            "cluster", "start", "--engines", "1", "--targets", "1", "--device-size", "256MiB",
            "--faults", "on")
        try #require(started.status == 0, "\(started.error)")
        try #require(try program.dray("pool", "create", "tank", "--size", "128MiB").status == 0)
        try #require(try program.dray("container", "create", "tank/c").status == 0)
        try #require(try program.dray("engine", "faults", "vos.space,count=1").status == 0)
        let full = try program.dray("kv", "put", "tank/c", "key", "value")
        #expect(full.status != 0 && full.error.contains("is full"), "\(full.error)")
        #expect(try program.dray("kv", "put", "tank/c", "key", "value").status == 0)
        // Each layer above fails in its own words.
        try #require(
            try program.dray(
                "engine", "faults", "engine.object,error=io", "metadata.store"
            ).status == 0)
        let broken = try program.dray("kv", "put", "tank/c", "key", "value")
        #expect(broken.status != 0 && broken.error.contains("(injected)"), "\(broken.error)")
        let refused = try program.dray("container", "create", "tank/d")
        #expect(refused.status != 0 && refused.error.contains("(injected)"), "\(refused.error)")
        let unknown = try program.dray("engine", "faults", "vos.space,error=io")
        #expect(unknown.status == 64 && unknown.error.contains("no-space"), "\(unknown.error)")
        try #require(try program.dray("engine", "faults", "vos.space,count=1").status == 0)
        let table = try program.dray("engine", "faults")
        #expect(table.text.contains("vos.space,count=1"))
        // A loaded engine: the client tries again until it gets through.
        try #require(
            try program.dray("engine", "faults", "cart.handler,interval=2,count=5").status == 0)
        #expect(try program.dray("kv", "get", "tank/c", "key").status == 0)
        try #require(try program.dray("engine", "faults", "--clear").status == 0)
        #expect(try program.dray("engine", "faults").text.contains("vos") == false)
        #expect(try program.dray("container", "create", "tank/d").status == 0)
    }
}
