import DrayEngine
import Foundation
import Testing

@testable import DrayCLI

@Suite struct ScrubTests {
    @Test func settings() throws {
        func configuration(_ flags: [EngineSettings.Key: String]) throws -> EngineConfiguration {
            var flags = flags
            flags[.clusterID] = OneEngine.cluster
            flags[.device] = "/d"
            flags[.engines] = "0=ofi+tcp://127.0.0.1:4000*1"
            return try EngineSettings(flags: flags, environment: { _ in nil }, file: [:])
                .configuration()
        }
        let usual = try configuration([:])
        #expect(usual.scrubRate == 4 << 20 && usual.scrubInterval == .seconds(7 * 86_400))
        let off = try configuration([.scrubRate: "0", .scrubInterval: "1h"])
        #expect(off.scrubRate == 0 && off.scrubInterval == .seconds(3600))
    }

    /// Changes a byte of the large value; returns where on the device that is.
    private func damage(_ path: String) throws -> Int {
        let device = try Data(contentsOf: URL(fileURLWithPath: path))
        // A value begins with a block.
        let place = try #require(
            stride(from: 0, to: device.count, by: 4096).first {
                device[$0] == UInt8(ascii: "m")
                    && device[$0..<$0 + 15].elementsEqual("many many many ".utf8)
            })
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
        try file.seek(toOffset: UInt64(place))
        try file.write(contentsOf: Data("M".utf8))
        try file.synchronize()
        try file.close()
        return place
    }

    /// A running engine whose device rots: the value is named, and where it is.
    @Test func aDamagedValue() throws {
        let rig = try OneEngine(targets: 2)
        defer { rig.end() }
        let path = rig.paths[0]
        func scrub(_ arguments: String..., status: Int32) throws -> [ScrubRow] {
            let run = try rig.ask(["storage", "scrub", "--json"] + arguments)
            #expect(run.status == status, "\(run.error)")
            return try JSONDecoder().decode([ScrubRow].self, from: Data(run.output))
        }
        let engine = try rig.formatAndStart()
        try rig.makeContainer(
            options: ["--checksum", "sha256", "--no-server-verify"], OneEngine.values)
        let never = try scrub(status: 0)
        #expect(never.map(\.target) == ["system", "0", "1"])
        #expect(never.allSatisfy { $0.current == nil && $0.last == nil && $0.passes == 0 })

        let sound = try scrub("--start", "--wait", status: 0)
        #expect(sound.allSatisfy { $0.passes == 1 && $0.last?.isComplete == true })
        #expect(sound[1...].reduce(0) { $0 + ($1.last?.values ?? 0) } == 2)
        #expect(sound.allSatisfy { $0.errors == 0 && $0.findings == [] })

        let place = try damage(path)
        let damaged = try scrub("--start", "--wait", "--rate", "100MiB", status: 1)
        let findings = damaged.flatMap(\.findings)
        let finding = try #require(findings.first)
        #expect(findings.count == 1 && finding.part == "value")
        #expect(finding.entry?.dkey == "large" && finding.entry?.length == 5 * 9999)
        #expect(finding.device == path && finding.offset == UInt64(place))
        let owner = try #require(damaged.first { $0.errors == 1 })
        #expect(finding.store == "engine 0, target \(owner.target)")
        // It is still so when nobody scrubs.
        #expect(try scrub(status: 1).flatMap(\.findings) == [finding])
        let read = try rig.ask("kv", "get", "tank/box", "large", "--timeout", "1s")
        #expect(read.status == 1 && read.output == [] && read.error.contains("damaged"))
        let text = try rig.ask("storage", "scrub")
        #expect(text.status == 1 && text.text.contains("dkey large"), "\(text.text)")
        #expect(try String(contentsOfFile: rig.log.text, encoding: .utf8).contains("dkey 'large'"))
        let metrics = try rig.ask("metrics")
        let errors = metrics.text.split(separator: "\n")
            .filter { $0.hasPrefix("dray_storage_scrub_errors_total{") }
            .compactMap { $0.split(separator: " ").last.flatMap { Double($0) } }
        #expect(errors.reduce(0, +) > 0, "\(metrics.text)")
        let bad = try rig.ask("storage", "scrub", "--start", "--stop")
        #expect(bad.status == 64)
        #expect(try engine.kill() == GuardedProcess.killed)
    }
}
