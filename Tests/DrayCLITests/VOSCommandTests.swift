import Foundation
import Testing

@testable import DrayCLI

@Suite struct VOSCommandTests {
    private func change(_ path: String, at offset: UInt64) throws {
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
        try file.seek(toOffset: offset)
        let byte = try #require(try file.read(upToCount: 1)?.first)
        try file.seek(toOffset: offset)
        try file.write(contentsOf: Data([byte ^ 1]))
        try file.close()
    }

    /// The device of an engine that was killed: refused while it runs, sound afterwards, then
    /// damaged in a superblock and in a value.
    @Test func theDeviceOfAnEngine() throws {
        let rig = try OneEngine(targets: 2)
        defer { rig.end() }
        let path = rig.paths[0]
        let made = try rig.dray(["storage", "format"] + rig.devices + rig.settings)
        #expect(made.status == 0, "\(made.error)")
        let empty = try rig.dray(["vos", "check", path])
        #expect(empty.status == 0, "\(empty.error) \(empty.text)")
        let engine = try rig.start(rig.devices)
        try rig.makeContainer(OneEngine.values)
        for command in ["inspect", "check"] {
            let busy = try rig.dray(["vos", command, path])
            #expect(busy.status == 1 && busy.error.contains("in use by another process"))
        }
        #expect(try engine.kill() == GuardedProcess.killed)

        let before = try Data(contentsOf: URL(fileURLWithPath: path))
        let sound = try rig.dray(["vos", "check", path])
        #expect(sound.status == 0, "\(sound.error) \(sound.text)")
        #expect(sound.text.contains("target 1: sound"))
        let listed = try rig.dray(["vos", "inspect", path, "--objects", "--entries", "--json"])
        #expect(listed.status == 0, "\(listed.error)")
        let rows = try JSONDecoder().decode([StoreRow].self, from: Data(listed.output))
        #expect(rows.map(\.target) == [nil, 0, 1])
        let shown = try rig.dray(["vos", "inspect", path, "--target", "1"])
        #expect(shown.status == 0 && shown.text.hasPrefix("target 1: engine 0 of"))
        #expect(try rig.dray(["vos", "inspect", path, "--target", "7"]).status == 4)
        #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == before)

        // The large value, wherever it is; not in the last group of the log's checks, which
        // recovery takes for a write that was not durable.
        let bytes = Array("many many many ".utf8)
        let place = try #require(before.firstRange(of: Data(bytes)))
        try change(path, at: UInt64(place.lowerBound))
        let target = try #require(rows.last)
        try change(path, at: target.start + 4096 + 200)
        let damaged = try rig.dray(["vos", "check", path, "--json"])
        #expect(damaged.status == 1)
        let found = try JSONDecoder().decode([StoreRow].self, from: Data(damaged.output))
            .flatMap(\.findings)
        #expect(found.contains { $0.part == "superblock" && $0.offset == target.start + 4096 })
        #expect(found.contains { $0.store == "target 1" && $0.part == "superblock" })
        #expect(found.allSatisfy { $0.part == "superblock" || $0.part == "value" }, "\(found)")
        let text = try rig.dray(["vos", "check", path])
        #expect(text.status == 1 && text.text.contains("copy 1 of the superblock is damaged"))
    }
}
