import DrayRuntime
import Testing

@testable import DrayCLI
@testable import DrayFileSystem

@Suite struct OutputTests {
    @Test func failuresAreOneLine() {
        let failure = CommandFailure(
            .notFound, "pool tank", "does not\nexist", advice: "create it")
        #expect(failure.line == "dray: pool tank: does not exist; create it")
        #expect(CommandFailure("a", "b").line == "dray: a: b")
        #expect(CommandFailure("a", "b").status == .failure)
    }

    @Test func failuresSayNothingTwiceAndNoNovels() {
        let failure = CommandFailure(.exists, "pool tank", "pool tank: exists already")
        #expect(failure.line == "dray: pool tank: exists already")
        let long = CommandFailure("key " + String(repeating: "k", count: 4096), "is not there")
        #expect(long.line.count < CommandFailure.whatMax)
        #expect(long.line.hasPrefix("dray: key kkk") && long.line.hasSuffix("kk…: is not there"))
    }

    @Test func zeroesAreFound() {
        var bytes = [UInt8](repeating: 0, count: 100)
        #expect(OpenFile.isZero(IOBuffer(copying: bytes), count: 100))
        for index in [0, 1, 50, 99] {
            bytes[index] = 1
            let buffer = IOBuffer(copying: bytes)
            #expect(!OpenFile.isZero(buffer, count: 100))
            #expect(OpenFile.isZero(buffer, count: index))
            bytes[index] = 0
        }
        #expect(!OpenFile.isZero(IOBuffer(copying: [7, 7, 7]), count: 3))
    }

    @Test func jsonHasStableKeys() throws {
        var report = TransferReport()
        report.files = 3
        report.bytes = 1 << 40
        let text = try JSON.text(report)
        let keys = text.split(separator: "\"").enumerated().filter { $0.offset % 2 == 1 }
            .map { String($0.element) }
        #expect(
            keys == [
                "bytes", "differences", "directories", "files", "seconds", "skipped",
                "symbolicLinks",
            ])
        #expect(text.contains("1099511627776"))
    }

    @Test func namesThatAreNoTextAreInBase64() throws {
        let inode = OutputTests.link(target: [0xff])
        let text = try JSON.text(EntryDescription(name: Array("a\"b".utf8), inode))
        #expect(text.contains(#""name" : "a\"b""#))
        #expect(text.contains(#""target_base64" : "/w==""#))
        #expect(!text.contains("\"name_base64\""))
        #expect(text.contains(#""type" : "link""#))
    }

    static func link(target: [UInt8]) -> Inode {
        let time = Timestamp(seconds: 0, nanoseconds: 1)
        return Inode(
            type: .symbolicLink,
            attributes: FileAttributes(mode: 0o777, accessed: time, modified: time),
            changed: time, size: UInt64(target.count), objectID: ObjectID(high: 0, low: 0),
            target: target)
    }

    static let modes: [(UInt16, String)] = [
        (0o777, "lrwxrwxrwx"), (0o640, "lrw-r-----"), (0o4755, "lrwsr-xr-x"),
        (0o2644, "lrw-r-Sr--"), (0o1777, "lrwxrwxrwt"), (0o1000, "l--------T"),
    ]

    @Test(arguments: modes) func modesAreShown(mode: UInt16, text: String) {
        var inode = OutputTests.link(target: [0x61])
        inode.attributes.mode = mode
        #expect(EntryDescription.letters(inode) == text)
    }

    static let times: [(Int64, String)] = [
        (0, "1970-01-01T00:00:00"), (-1, "1969-12-31T23:59:59"),
        (951_782_400, "2000-02-29T00:00:00"), (1_767_225_600, "2026-01-01T00:00:00"),
        (4_107_542_399, "2100-02-28T23:59:59"), (-62_135_596_800, "0001-01-01T00:00:00"),
    ]

    @Test(arguments: times) func timesAreShown(seconds: Int64, text: String) {
        let time = Timestamp(seconds: seconds, nanoseconds: 7)
        #expect(CalendarTime.text(time) == text + ".000000007Z")
    }

    @Test func tablesAreAligned() {
        var table = Table([("NAME", .left), ("SIZE", .right)])
        table.add(["a", "1"])
        table.add(["longer", "12345"])
        #expect(table.text == "NAME     SIZE\na           1\nlonger  12345")
    }

    @Test func progressFitsTheLine() {
        let figures = ProgressBar.Figures(
            files: 10, bytes: 5 << 20, filesTotal: 20, bytesTotal: 10 << 20)
        let line = ProgressBar.line("put", figures, elapsed: 2, width: 120)
        #expect(line.contains("50%") && line.contains("10/20 files"))
        #expect(line.contains("2.50 MiB/s") && line.contains("ETA 2.00 s"))
        for width in [0, 10, 20, 40, 80] {
            let line = ProgressBar.line("put", figures, elapsed: 2, width: width)
            #expect(line.count <= max(10, width - 1))
        }
        let unknown = ProgressBar.Figures(files: 1, bytes: 0)
        #expect(!ProgressBar.line("put", unknown, elapsed: 0, width: 80).contains("%"))
    }

    @Test func percentilesAreWithinThreePercent() {
        var histogram = LatencyHistogram()
        for value in 1...100_000 { histogram.record(.nanoseconds(value * 10)) }
        for (share, wanted) in [(0.5, 500_000.0), (0.99, 990_000), (0.999, 999_000)] {
            let found = Double(histogram.percentile(share))
            #expect(abs(found - wanted) <= wanted * 0.035)
        }
        #expect(histogram.minimum == 10)
        #expect(histogram.maximum == 1_000_000)
        #expect(histogram.percentile(1) == 1_000_000)
        #expect(histogram.count == 100_000)
    }

    @Test func extremeLatenciesHaveTheirBucket() {
        var histogram = LatencyHistogram()
        histogram.record(.zero)
        histogram.record(.nanoseconds(Int64.max))
        #expect(histogram.percentile(0.5) == 0)
        #expect(histogram.percentile(1) == UInt64(Int64.max))
    }

    @Test func processLinesWithOddNamesAreRead() {
        let fields = (4...52).map { $0 == 22 ? "987654" : "\($0)" }.joined(separator: " ")
        let status = ProcessStatus(parsing: "12 (a) (b c) S " + fields)
        #expect(status?.startTicks == 987_654)
        #expect(status?.isZombie == false)
        #expect(ProcessStatus(parsing: "12 (x) Z " + fields)?.isZombie == true)
        for bad in ["", "12", "12 (x", "12 (x) S 1 2 3"] {
            #expect(ProcessStatus(parsing: bad) == nil)
        }
    }

    @Test func thisProcessIsAliveAndAnImpostorIsNot() throws {
        let own = try EngineProcess.current()
        #expect(own.isAlive)
        var impostor = own
        impostor.startTicks += 1
        #expect(!impostor.isAlive)
    }
}
