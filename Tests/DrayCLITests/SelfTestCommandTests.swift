import Foundation
import Glibc
import Testing

@testable import DrayCLI

@Suite(.serialized) struct SelfTestCommandTests {
    private func rows(_ result: Program.Result) throws -> [SelfTestRow] {
        try #require(result.status == 0, "\(result.error)")
        return try JSONDecoder().decode([SelfTestRow].self, from: Data(result.output))
    }

    @Test func allCombinationsInOneRun() throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        let file = program.directory.appending(Array("plot.svg".utf8))
        let arguments = [
            "self-test", "--all", "--size", "100,5k", "--in-flight", "1",
            "--in-flight", "3", "--repetitions", "30", "--verify", "--align", "5", "--contexts",
            "2", "--json", "--plot",
        ]
        let found = try rows(program.run(arguments.map { Array($0.utf8) } + [file.bytes]))
        // Nothing both ways has no sizes.
        #expect(found.count == (1 + 8 * 2) * 2)
        #expect(Set(found.map { [$0.shape.request, $0.shape.reply] }).count == 9)
        for row in found {
            #expect(row.calls == 60)
            #expect(row.shape.sources == 2 && row.shape.targets == 1)
            #expect(row.minimum > 0 && row.minimum <= row.median && row.median <= row.maximum)
            #expect(row.callsPerSecond > 0)
            #expect((row.shape.request == .empty) == (row.requestBytesPerSecond == 0))
            #expect((row.shape.reply == .empty) == (row.replyBytesPerSecond == 0))
            #expect(row.endpoints.map(\.calls) == [30, 30])
        }
        let plot = String(decoding: try LocalFiles.read(file), as: UTF8.self)
        #expect(ElementCounter.count(plot)?.counts["polyline"] ?? 0 >= found.count)
    }

    @Test func severalProvidersAndTheTable() throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        let result = try program.run(
            "self-test", "--provider", "ofi+tcp", "--provider", "ofi+shm", "--repetitions", "20",
            "--in-flight", "2", "--request", "bulk", "--reply", "empty", "--reply", "inline",
            "--per-endpoint")
        #expect(result.status == 0, "\(result.error)")
        let lines = result.text.split(separator: "\n")
        #expect(lines.count == 1 + 4 + 1 + 4)
        #expect(lines[0].hasPrefix("PROVIDER"))
        #expect(lines[1].hasPrefix("ofi+tcp") && lines[4].hasPrefix("ofi+shm"))
        #expect(lines[5].contains("FROM"))
    }

    @Test(arguments: [
        ["--in-flight", "0"], ["--in-flight", "1,5000"], ["--size", "33MiB"], ["--align", "4096"],
        ["--align=-1"], ["--repetitions", "0"], ["--contexts", "0"], ["--contexts", "65"],
        ["--request", "nonsense"], ["--all", "--bulk"], ["--all", "--request", "bulk"],
        ["--rank", "0"], ["--server", "ofi+tcp://127.0.0.1:1", "--engines"],
        ["--size", "32MiB", "--in-flight", "2000"], ["--server", "nonsense"],
        ["--pause", "1s", "--contexts", "2"],
    ])
    func badArgumentsAreRefused(arguments: [String]) throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        let result = try program.run((["self-test"] + arguments).map { Array($0.utf8) })
        #expect(result.status == 64, "\(result.error)")
        #expect(!result.error.isEmpty)
    }

    @Test func aServerThatIsNotThere() throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        let result = try program.run("self-test", "--server", "ofi+tcp://127.0.0.1:1")
        #expect(result.status == 5)
        #expect(result.error.hasPrefix("dray: ofi+tcp://127.0.0.1:1: "))
    }

    /// The engines of a cluster as servers, and measuring each other.
    @Test func measuresEngines() throws {
        let program = try Program()
        defer { try? program.end() }
        let started = try program.dray(
            "cluster", "start", "--engines", "2", "--targets", "1", "--device-size", "256MiB")
        try #require(started.status == 0, "\(started.error)")
        let all = try rows(
            program.dray(
                "self-test", "--engines", "--repetitions", "40", "--in-flight", "4", "--json",
                "--reply", "bulk", "--verify"))
        #expect(all.count == 1)
        #expect(all[0].shape.targets == 4 && all[0].endpoints.map(\.calls) == [10, 10, 10, 10])
        let one = try rows(
            program.dray(
                "self-test", "--engines", "--rank", "1", "--tag", "1", "--repetitions", "10",
                "--in-flight", "1", "--json"))
        #expect(one[0].shape.targets == 1)
        let among = try rows(
            program.dray(
                "self-test", "--among", "--repetitions", "30", "--in-flight", "1", "--json",
                "--request", "bulk", "--size", "3000"))
        #expect(among[0].shape.from == "engines")
        #expect(among[0].shape.sources == 4 && among[0].calls == 120)
        #expect(among[0].endpoints.count == 8)
        #expect(among[0].endpoints.allSatisfy { $0.calls == 15 && $0.from != $0.to })
        #expect(
            Set(among[0].endpoints.filter { $0.from == "rank 0 tag 1" }.map(\.to))
                == ["rank 1 tag 0", "rank 1 tag 1"])
        let missing = try program.dray("self-test", "--engines", "--rank", "9")
        #expect(missing.status == 4)
        #expect(try program.dray("self-test", "--engines", "--tag", "7").status == 4)
    }
}
