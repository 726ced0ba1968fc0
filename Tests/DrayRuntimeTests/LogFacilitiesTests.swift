import DrayRuntime
import Logging
import Synchronization
import Testing

@Suite struct LogFacilitiesTests {
    /// Lines that were logged.
    final class Lines: Sendable {
        private let lines = Mutex<[String]>([])
        func add(_ line: String) { lines.withLock { $0.append(line) } }
        var all: [String] { lines.withLock { $0 } }
    }

    static func make(mask: String? = nil) throws -> (LogFacilities, Lines) {
        let lines = Lines()
        let log = LogFacilities(sink: { lines.add($0) })
        if let mask { try log.set(mask: mask) }
        return (log, lines)
    }

    @Test(arguments: [
        ("debug", LogFacility.cart, Logger.Level.debug, true),
        ("debug", .cart, .trace, false),
        ("warning,cart=debug", .cart, .debug, true),
        ("warning,cart=debug", .bio, .info, false),
        ("cart=debug,warning", .cart, .debug, false),
        ("FileSystem=TRACE", .fileSystem, .trace, true),
        ("filesystem=trace", .cart, .trace, false),
        ("", .cart, .warning, true),
        ("", .cart, .info, false),
    ])
    func masks(
        mask: String, facility: LogFacility, level: Logger.Level, isLogged: Bool
    ) throws {
        let (log, lines) = try Self.make(mask: mask)
        log.logger(facility).log(level: level, "message")
        #expect(lines.all.isEmpty == !isLogged)
    }

    @Test(arguments: ["loud", "cart=", "=debug", "cart=loud", "cat=debug", "info,cart=debug=x"])
    func aMaskThatCannotBeReadChangesNothing(mask: String) throws {
        let (log, lines) = try Self.make()
        let error = #expect(throws: LogMaskError.self) { try log.set(mask: "trace," + mask) }
        let description = try #require(error).description
        // The message names the offending part and what was expected.
        #expect(description.contains("'\(mask.split(separator: ",").last!)'"))
        #expect(description.contains("cart"))
        #expect(description.contains("trace"))
        log.logger(.cart).info("message")
        #expect(lines.all.isEmpty)
    }

    @Test func aMaskChangesLoggersThatExist() throws {
        let (log, lines) = try Self.make()
        let logger = log.logger(.vos)
        logger.debug("before")
        try log.set(mask: "vos=debug")
        logger.debug("after", metadata: ["b": "2", "a": "1"])
        #expect(lines.all == ["debug vos: after a=1 b=2"])
    }
}
