internal import Glibc
public import Logging
internal import Synchronization

/// The parts of Dray that log under a name and a mask of their own.
public enum LogFacility: String, CaseIterable, Sendable {
    case runtime, fabric, cart, bio, vos, placement, transactions, engine, client, fileSystem, cli
}

/// The loggers of a process, one per facility, with levels that can be changed while it runs.
///
/// A mask is a list such as `warning,cart=debug,vos=info`: a level for all, then exceptions. No
/// process-wide bootstrap: whoever builds the `World` decides where lines go.
public final class LogFacilities: Sendable {
    private let sink: @Sendable (String) -> Void
    private let levels: Mutex<[LogFacility: Logger.Level]>

    /// Lines go to standard error unless `sink` says otherwise.
    public init(
        level: Logger.Level = .warning,
        sink: @escaping @Sendable (String) -> Void = LogFacilities.standardError
    ) {
        self.sink = sink
        levels = Mutex(
            Dictionary(uniqueKeysWithValues: LogFacility.allCases.map { ($0, level) }))
    }

    /// Writes one line to standard error in a single system call.
    public static let standardError: @Sendable (String) -> Void = { line in
        let bytes = Array((line + "\n").utf8)
        _ = unsafe bytes.withUnsafeBytes { unsafe write(2, $0.baseAddress, $0.count) }
    }

    /// A logger of `facility`. Making one costs an allocation: keep it.
    public func logger(_ facility: LogFacility) -> Logger {
        Logger(label: facility.rawValue) { _ in FacilityHandler(facility: facility, owner: self) }
    }

    /// Changes the masks. Throws, and changes nothing, when `mask` cannot be understood.
    public func set(mask: String) throws(LogMaskError) {
        var changed = levels.withLock { $0 }
        for part in mask.split(separator: ",") {
            let pair = part.split(
                separator: "=", maxSplits: 1, omittingEmptySubsequences: false
            ).map(String.init)
            guard let name = pair.last, let level = Logger.Level(rawValue: name.lowercased())
            else { throw LogMaskError(part: String(part)) }
            if pair.count == 1 {
                for facility in LogFacility.allCases { changed[facility] = level }
            } else if let facility = LogFacility.allCases.first(where: {
                $0.rawValue.lowercased() == pair[0].lowercased()
            }) {
                changed[facility] = level
            } else {
                throw LogMaskError(part: String(part))
            }
        }
        levels.withLock { $0 = changed }
    }

    /// The masks as `set(mask:)` reads them: the level that most facilities have, then exceptions.
    public var mask: String {
        let levels = levels.withLock { $0 }
        let facilities = LogFacility.allCases
        let common =
            Logger.Level.allCases.max { left, right in
                facilities.count { levels[$0] == left } < facilities.count { levels[$0] == right }
            } ?? .warning
        let exceptions = facilities.filter { levels[$0] != common }.map { facility in
            ",\(facility.rawValue)=\(levels[facility] ?? common)"
        }
        return "\(common)" + exceptions.joined()
    }

    func level(of facility: LogFacility) -> Logger.Level {
        levels.withLock { $0[facility] ?? .warning }
    }

    func emit(_ line: String) { sink(line) }
}

/// A part of a log mask that names no level or no facility.
public struct LogMaskError: Error, CustomStringConvertible {
    public let part: String

    public var description: String {
        let facilities = LogFacility.allCases.map(\.rawValue).joined(separator: ", ")
        let levels = Logger.Level.allCases.map(\.rawValue).joined(separator: ", ")
        return "log mask: cannot read '\(part)'; expected LEVEL or FACILITY=LEVEL, "
            + "with a level of \(levels) and a facility of \(facilities)"
    }
}

private struct FacilityHandler: LogHandler {
    let facility: LogFacility
    let owner: LogFacilities
    var metadata: Logger.Metadata = [:]

    var logLevel: Logger.Level {
        get { owner.level(of: facility) }
        set {}
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        let values = metadata.merging(event.metadata ?? [:]) { $1 }
            .sorted { $0.key < $1.key }.map { " \($0.key)=\($0.value)" }.joined()
        owner.emit("\(event.level) \(facility.rawValue): \(event.message)\(values)")
    }
}
