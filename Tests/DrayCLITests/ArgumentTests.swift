import DrayPlacement
import DrayRuntime
import Testing

@testable import DrayCLI

@Suite struct ArgumentTests {
    static let sizes: [(String, UInt64)] = [
        ("0", 0), ("1", 1), ("4096", 4096), ("64k", 65_536), ("64K", 65_536), ("64KiB", 65_536),
        ("64kB", 64_000), ("1.5MiB", 1_572_864), ("4GiB", 4 << 30), ("4 GiB", 4 << 30),
        ("4GB", 4_000_000_000), ("2T", 2 << 40), ("15P", 15 << 50), ("0.5k", 512), ("10B", 10),
        ("18446744073709551615", .max), ("1.000000001k", 1024),
    ]

    @Test(arguments: ["0.0", "5.1", "ffffffffffffffff.a", "5000000100000000.ABC"])
    func objectsAreRead(text: String) {
        #expect(ObjectArgument(argument: text)?.id.description == text.lowercased())
    }

    @Test(arguments: [
        "", ".", "5", "5.", ".5", "5.g", "1.2.3", "-1.2", "+1.2", "1.+2", " 1.2", "0x1.2",
        "10000000000000000.1",
    ]) func otherObjectsAreRefused(text: String) {
        #expect(ObjectArgument(argument: text) == nil)
    }

    @Test(arguments: sizes) func sizesAreRead(text: String, bytes: UInt64) {
        #expect(Size(argument: text)?.bytes == bytes)
    }

    @Test(arguments: [
        "", "k", "-1", "1x", "1.k", ".5k", "1..2k", "1KiBB", "18446744073709551616", "16384P",
        "1e3", "1,5M", "١k", "1.0000000001k", "4Gibibyte", "+4",
    ]) func otherSizesAreRefused(text: String) {
        #expect(Size(argument: text) == nil)
    }

    static let shownSizes: [(UInt64, String)] = [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1536, "1.50 KiB"),
        (10_239, "10.0 KiB"), (102_400, "100 KiB"), (1_048_575, "1.00 MiB"),
        (4 << 30, "4.00 GiB"), (.max, "16.0 EiB"),
    ]

    @Test(arguments: shownSizes) func sizesAreShown(bytes: UInt64, text: String) {
        #expect(Size(bytes: bytes).description == text)
    }

    @Test func exactSizesComeBack() {
        var entropy = Entropy(seed: 4)
        for _ in 0..<2000 {
            let bytes = (entropy.next() >> entropy.below(64)) << entropy.below(20)
            let size = Size(bytes: bytes)
            #expect(Size(argument: size.exact) == size)
        }
    }

    static let durations: [(String, Duration)] = [
        ("10s", .seconds(10)), ("10", .seconds(10)), ("500ms", .milliseconds(500)),
        ("1.5s", .milliseconds(1500)), ("250us", .microseconds(250)),
        ("250µs", .microseconds(250)), ("7ns", .nanoseconds(7)), ("2m", .seconds(120)),
        ("2min", .seconds(120)), ("1h", .seconds(3600)), ("1d", .seconds(86_400)), ("0", .zero),
    ]

    @Test(arguments: durations) func durationsAreRead(text: String, duration: Duration) {
        #expect(HumanDuration(argument: text)?.duration == duration)
    }

    @Test(arguments: ["", "s", "-1s", "1y", "1 2s", "1e3s", "99999999999999h", "1..5s"])
    func otherDurationsAreRefused(text: String) {
        #expect(HumanDuration(argument: text) == nil)
    }

    static let shownDurations: [(Duration, String)] = [
        (.zero, "0 s"), (.nanoseconds(500), "0.50 µs"), (.microseconds(12), "12.0 µs"),
        (.milliseconds(123), "123 ms"), (.milliseconds(1500), "1.50 s"),
        (.seconds(125), "2 min 05 s"), (.seconds(7265), "2 h 01 min"),
    ]

    @Test(arguments: shownDurations) func durationsAreShown(duration: Duration, text: String) {
        #expect(HumanDuration(duration).description == text)
    }

    @Test func argumentsKeepEveryByte() {
        var entropy = Entropy(seed: 5)
        for _ in 0..<2000 {
            let bytes = (0..<entropy.below(12)).map { _ in UInt8(1 + entropy.below(255)) }
            #expect(ByteArgument.bytes(of: ByteArgument.escape(bytes)) == bytes)
        }
        // What looks like an escape is not mistaken for one.
        for text in ["\u{10ff00}", "\u{10fffd}x", "é", "e\u{301}", "日本/語", "a\u{10ff41}b"] {
            let bytes = Array(text.utf8)
            #expect(ByteArgument.bytes(of: ByteArgument.escape(bytes)) == bytes)
        }
        #expect(ByteArgument.escape(Array("plain é".utf8)) == "plain é")
    }

    @Test func classesAreReadAndCompleted() {
        for name in ["S1", "SX", "RP_2G1", "RP_3GX", "RP_6G32"] {
            #expect(ClassArgument(argument: name)?.defaultValueDescription == name)
            #expect(ClassArgument(argument: name.lowercased())?.objectClass.description == name)
            #expect(ClassArgument.names.contains(name))
        }
        #expect(ClassArgument(argument: "RP_1G1") == nil)
    }

    @Test func storePathsAreRead() throws {
        let path = try #require(StorePath(argument: "tank/photos:/2026/a:b"))
        #expect(path.container.pool == "tank")
        #expect(path.container.container == "photos")
        #expect(path.bytes == Array("/2026/a:b".utf8))
        #expect(StorePath(argument: "tank/photos:")?.bytes == [])
        let raw: [UInt8] = Array("t/c:/".utf8) + [0xff, 0xfe]
        #expect(StorePath(argument: ByteArgument.escape(raw))?.bytes == [0x2f, 0xff, 0xfe])
    }

    @Test(arguments: ["", "tank", "tank/photos", "tank:/x", "/photos:/x", "tank/:/x", "a/b/c:/x"])
    func otherStorePathsAreRefused(text: String) {
        #expect(StorePath(argument: text) == nil)
    }

    @Test(arguments: ["tank/photos"]) func containersAreRead(text: String) {
        #expect(ContainerPath(argument: text)?.text == text)
    }

    @Test(arguments: ["", "/", "a", "a/", "/a", "a/b/", "a/b:c"])
    func otherContainersAreRefused(text: String) {
        #expect(ContainerPath(argument: text) == nil)
    }
}
