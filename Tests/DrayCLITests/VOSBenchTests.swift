import DrayRuntime
import Foundation
import Glibc
import Testing

@testable import DrayCLI

@Suite(.serialized) struct VOSBenchTests {
    /// A small benchmark of everything, short of speed.
    private static let small = [
        "bench", "vos", "--time", "100ms", "--keys", "3000", "--cache", "256KiB", "--working-set",
        "512KiB", "--overwrite", "128KiB", "--overwrite-time", "1s", "--retention", "100ms",
        "--rounds", "2", "--device-size", "200MiB", "--index-memory", "1MiB",
    ]

    private func run(_ program: Program, _ path: LocalPath?, _ more: String...) throws
        -> Program.Result
    {
        try program.run(
            Self.small.map { Array($0.utf8) } + (path.map { [$0.bytes] } ?? [])
                + more.map { Array($0.utf8) })
    }

    private func report(_ result: Program.Result) throws -> VOSBenchReport {
        try #require(result.status == 0, "\(result.error)")
        return try JSONDecoder().decode(VOSBenchReport.self, from: Data(result.output))
    }

    private func files(in program: Program) throws -> Set<String> {
        Set(try LocalFiles.names(in: program.directory).map { String(decoding: $0, as: UTF8.self) })
            .subtracting(["output", "error"])
    }

    @Test func everythingInOneRun() throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        let file = program.directory.appending(Array("device".utf8))
        let found = try report(
            run(program, file, "--no-fio", "--json", "--size", "64,4KiB", "--depth", "1,5"))
        #expect(found.deviceSize == 200 << 20 && found.logSize == 12 << 20)
        #expect(found.keySize == 32 && found.cache == 256 << 10)
        #expect(found.indexMemory == 1 << 20)
        let rows = found.rates.map { "\($0.what.rawValue) \($0.size) \($0.depth)" }
        var wanted: [String] = []
        for size in [64, 4096] {
            for what in ["update", "fetch", "fetch, cached"] {
                for depth in [1, 5] { wanted.append("\(what) \(size) \(depth)") }
            }
        }
        #expect(rows == wanted + ["enumerate 32 1"])
        for rate in found.rates {
            #expect(rate.operations > 0 && rate.perSecond > 0 && rate.bytesPerSecond > 0)
            #expect(rate.latency.median > 0 && rate.latency.median <= rate.latency.percentile99)
            #expect(rate.latency.percentile99 <= rate.latency.maximum)
            #expect(rate.fio == nil && rate.ratio == nil)
        }
        let opening = try #require(found.opening)
        #expect(opening.keys == 3000 && opening.opened.map(\.keys) == [3000, 3000])
        #expect(opening.opened.allSatisfy { $0.storeSeconds > 0 && $0.resident > 1 << 20 })
        #expect(opening.residentFilled <= opening.residentFillPeak)
        #expect(opening.openSeconds > 0)
        #expect(opening.fillWritten > 3000 * 64)
        #expect(opening.readsPerSecond > 0 && opening.opened.allSatisfy { $0.reads > 0 })
        let recovered = found.recoveries.map { [$0.size, $0.depth] }
        #expect(recovered == [[64, 1], [64, 64], [4096, 1], [4096, 64]])
        for row in found.recoveries {
            // The log is there, within its bounds.
            #expect(row.logged.records > 0 && row.logged.logBytes >= 4096)
            #expect(row.logged.logBytes <= 12 << 20 && row.logged.entries >= row.logged.records)
            #expect(row.openSeconds > 0 && row.opened.count == 2)
            #expect(row.opened.allSatisfy { $0.reads > 0 && $0.keys >= row.values })
        }
        #expect(found.background.map(\.isOn) == [true, false, true, false])
        #expect(found.background.map(\.size) == [64, 64, 4096, 4096])
        #expect(found.background.allSatisfy { $0.perSecond > 0 && $0.latency.maximum > 0 })
        #expect(found.overwrites.map(\.size) == [64, 4096, 1 << 20])
        for row in found.overwrites {
            // Each byte reaches the device at least once.
            #expect(row.updates * UInt64(row.size) >= 128 << 10)
            #expect(row.updatedBytes == row.updates * UInt64(row.size + 32 + 4))
            #expect(row.writeAmplification > 1)
            #expect(row.writeAmplificationOfValues >= row.writeAmplification)
            #expect(row.spaceAmplificationOfValues >= row.spaceAmplification)
            #expect(row.flushes > 0 && row.flushes <= row.updates + 100)
            #expect(row.usedMost >= row.usedAtRest)
        }
        // A block of its own for each value, and what aggregation has left behind is gone.
        #expect(found.overwrites[1].spaceAmplification > 0.9)
        #expect(found.overwrites[1].spaceAmplification < 2)
        #expect(try files(in: program) == ["device"])
    }

    @Test func takesItsOwnFileAgainAndShowsTables() throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        let file = program.directory.appending(Array("device".utf8))
        for _ in 0..<2 {
            let result = try run(
                program, file, "--no-fio", "--only", "update,overwrite", "--only", "background",
                "--size", "100", "--depth", "3", "--background", "off", "--key-size", "9",
                "--log-size", "1MiB")
            try #require(result.status == 0, "\(result.error)")
            let lines = result.text.split(separator: "\n").map(String.init)
            #expect(lines.count == 2 + 3 + 4)
            #expect(lines[0].hasPrefix("WHAT") && lines[0].hasSuffix("RATIO"))
            #expect(lines[1].hasPrefix("update   100      3"), "\(lines[1])")
            #expect(lines[2].hasPrefix("BACKGROUND") && lines[3].hasPrefix("off"))
            #expect(lines[5].contains("WRITE AMPL."))
            #expect(try LocalFiles.status(file).size == 200 << 20)
        }
    }

    @Test(.enabled(if: Fio.find() != nil)) func comparesWithFio() throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        let file = program.directory.appending(Array("de:vice".utf8))
        let found = try report(
            run(
                program, file, "--json", "--only", "update,fetch", "--size", "4KiB", "--depth",
                "2"))
        #expect(found.rates.map(\.what) == [.update, .fetch, .fetchCached])
        for rate in found.rates.prefix(2) {
            let fio = try #require(rate.fio)
            #expect(fio.perSecond > 0 && fio.bytesPerSecond > 0 && fio.median > 0)
            #expect(rate.ratio ?? 0 > 0)
        }
        #expect(found.rates[2].fio == nil)
        #expect(try files(in: program) == ["de:vice", "de:vice.fio"])
    }

    /// Without a path it works on a file in the current directory, which goes again.
    @Test func temporaryFilesGo() throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        let arguments = Self.small + ["--only", "enumerate", "--json"]
        let place = String(decoding: program.directory.bytes, as: UTF8.self)
        let found = try report(
            program.run(arguments.map { Array($0.utf8) }, through: ["--chdir=\(place)"]))
        #expect(found.device.hasPrefix("dray-bench-"))
        #expect(found.rates.count == 1 && found.rates[0].values >= 64)
        #expect(try files(in: program) == [])
        // The same when it is interrupted.
        let pid = try ChildProcess.spawn(
            LocalPath("/usr/bin/env"),
            (["--chdir=\(place)"] + [String(decoding: try Program.path().bytes, as: UTF8.self)]
                + Self.small + ["--time", "60s", "--only", "enumerate"]).map { Array($0.utf8) },
            input: .null, output: .null, error: .null, detached: false)
        for _ in 0..<1000 where try files(in: program) == [] { usleep(5_000) }
        #expect(try files(in: program).count == 1)
        usleep(200_000)
        kill(pid, SIGINT)
        var status: Int32?
        for _ in 0..<1000 where status == nil {
            usleep(5_000)
            status = ChildProcess.reap(pid)
        }
        #expect(status.map { $0 & 0x7f } == SIGINT)
        #expect(try files(in: program) == [])
    }

    @Test func nothingElseIsOverwritten() throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        let file = program.directory.appending(Array("mine".utf8))
        for length in [1, 100 << 20] {
            try? LocalFiles.remove(file)
            try LocalFiles.replace(file, Array("precious".utf8))
            try #require(truncate(String(decoding: file.bytes, as: UTF8.self), off_t(length)) == 0)
            let before = try LocalFiles.read(file, max: 101 << 20)
            let result = try run(program, file, "--no-fio")
            #expect(result.status != 0)
            #expect(result.error.hasPrefix("dray: \(file.text): "), "\(result.error)")
            #expect(result.error.split(separator: "\n").count == 1)
            #expect(try LocalFiles.read(file, max: 101 << 20) == before)
        }
        // Neither is what stands where fio's file would be.
        let device = program.directory.appending(Array("device".utf8))
        let other = program.directory.appending(Array("device.fio".utf8))
        try LocalFiles.replace(other, [UInt8](repeating: 7, count: 70 << 20))
        if Fio.find() != nil {
            let result = try run(program, device, "--only", "update")
            #expect(result.status == 6, "\(result.error)")
            #expect(try LocalFiles.read(other, max: 71 << 20).allSatisfy { $0 == 7 })
        }
        let directory = try run(program, program.directory, "--no-fio")
        #expect(directory.status == 6)
        #expect(directory.error.contains("neither a file nor a block device"))
    }

    @Test(arguments: [
        ["--size", "0"], ["--size", "64,"], ["--size", "2MiB"], ["--size", "64;128"],
        ["--depth", "0"], ["--depth", "1,2000"], ["--only", "nonsense"], ["--only", ""],
        ["--rounds", "0"], ["--keys", "0"], ["--key-size", "7"], ["--key-size", "1025"],
        ["--device-size", "1MiB"], ["--log-size", "1KiB"], ["--log-size", "65537"],
        ["--background", "maybe"], ["--time", "0"], ["--overwrite-time", "0"], ["a", "b"],
        ["--log-size", "150MiB"], ["--log", "loud"], ["--index-memory", "255KiB"],
    ])
    func badArgumentsAreRefused(arguments: [String]) throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        let file = program.directory.appending(Array("device".utf8))
        let result = try program.run(
            (Self.small + ["--no-fio"] + arguments).map { Array($0.utf8) } + [file.bytes])
        #expect(result.status == 64, "\(result.error)")
        #expect(!result.error.isEmpty)
    }

    @Test func aDeviceThatIsTooSmallForTheValues() throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        let file = program.directory.appending(Array("device".utf8))
        let result = try run(
            program, file, "--no-fio", "--only", "update", "--size", "1MiB", "--cache", "30MiB")
        #expect(result.status == 7, "\(result.error)")
        #expect(result.error.contains("the store is full"))
    }

    // MARK: - Parts

    @Test func whatFioSays() throws {
        let text = """
            fio: a remark
            {"jobs": [{"read": {"iops": 0, "bw_bytes": 0, "clat_ns": {}},
            "write": {"iops": 1500.5, "bw_bytes": 6146048,
            "clat_ns": {"percentile": {"50.000000": 20000, "99.000000": 90000}}}}]}
            """
        let writes = try #require(try Fio.figures(Array(text.utf8), writing: true))
        #expect(writes.perSecond == 1500.5 && writes.bytesPerSecond == 6_146_048)
        #expect(writes.median == 20e-6 && writes.percentile99 == 90e-6)
        let reads = try #require(try Fio.figures(Array(text.utf8), writing: false))
        #expect(reads.perSecond == 0 && reads.median == 0)
        #expect(try Fio.figures(Array("fio: refused".utf8), writing: true) == nil)
        #expect(throws: CommandFailure.self) {
            try Fio.figures(Array("{\"jobs\": 3}".utf8), writing: true)
        }
    }

    @Test func whatTheKernelSays() throws {
        let fields = ProcessFigures.parse(
            "Name:\tdray\nVmHWM:\t  1234 kB\nVmRSS:\t 1000 kB\nThreads: 7\nOdd: line: 3\n:")
        #expect(fields == ["VmHWM": 1234, "VmRSS": 1000, "Threads": 7])
        let figures = try ProcessFigures.current()
        #expect(figures.resident > 1 << 20 && figures.residentPeak >= figures.resident)
    }

    @Test func lists() {
        #expect(CommaList<Size>(argument: "64,4KiB")?.elements.map(\.bytes) == [64, 4096])
        #expect(CommaList<Int>(argument: "7")?.elements == [7])
        for text in ["", ",", "1,", ",1", "1,,2", "1;2"] {
            #expect(CommaList<Int>(argument: text) == nil)
        }
        #expect(
            CommaList([Size(bytes: 64), Size(bytes: 4096)]).defaultValueDescription == "64,4KiB")
    }

    @Test func ratiosAreOfOneRound() {
        func round(_ operations: UInt64, _ fio: Double) -> VOSBenchRate.Round {
            VOSBenchRate.Round(
                latencies: .init(), operations: operations, seconds: 2, waits: 1,
                limit: Fio.Figures(
                    perSecond: fio, bytesPerSecond: fio, median: fio, percentile99: fio))
        }
        let rate = VOSBenchRate(
            .update, size: 10, depth: 1, values: 5,
            [round(200, 100), round(800, 500), round(400, 100)])
        #expect(rate.perSecond == 200 && rate.bytesPerSecond == 2000 && rate.operations == 1400)
        #expect(rate.fio?.perSecond == 100 && rate.waits == 3)
        #expect(rate.ratio == 1)
        #expect(Median.of([]) == 0 && Median.of([3]) == 3 && Median.of([4, 1, 2, 9]) == 3)
    }

    /// Every value has a key and contents of its own.
    @Test func valuesDiffer() {
        for size in [3, 64, 5000] {
            let values = BenchValues(
                pool: .init(high: 1, low: 1), container: .init(high: 1, low: 2), size: size,
                keySize: 12, count: 2000)
            var keys: Set<[UInt8]> = []
            let buffer = IOBuffer(count: 8192)
            for number in 0..<values.count {
                let key = values.dkey(number)
                #expect(key.count == 12)
                #expect(keys.insert(key).inserted)
                values.stamp(number, in: buffer)
                #expect(values.isStamped(number, buffer))
                #expect(!values.isStamped(number + 1, buffer))
            }
            #expect(Set((0..<values.count).map(values.object)).count == 16)
        }
    }
}
