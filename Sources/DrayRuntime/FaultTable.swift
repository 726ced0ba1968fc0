internal import Synchronization

/// When a fault point strikes.
public struct FaultRule: Hashable, Sendable {
    public var point: FaultPoint

    /// How likely each strike is, out of `probabilityUnit`.
    public var probability: UInt32 = FaultRule.probabilityUnit

    /// Only every so many times that the point is passed; at least 1.
    public var interval: UInt64 = 1

    /// So many strikes, then no more.
    public var countMax: UInt64 = .max

    /// What the point answers with: one of its `errors`; nil for the first of them.
    public var error: FaultError?

    /// Waits this long instead of failing, where the point can wait.
    public var delay: Duration?

    /// Certainty.
    public static let probabilityUnit: UInt32 = 1_000_000

    public init(_ point: FaultPoint) {
        self.point = point
    }

    var strikesWith: FaultError { error ?? point.errors[0] }
}

/// A rule, and what it has done.
public struct FaultCount: Hashable, Sendable {
    public var rule: FaultRule
    /// Times that the point was passed.
    public var passed: UInt64 = 0
    /// Times that it struck.
    public var struck: UInt64 = 0
}

/// What a strike asks of the code that it hits.
public enum FaultStrike: Hashable, Sendable {
    case fail(FaultError)
    case wait(Duration)
}

/// The faults that are injected into a process, for tests of what stands above.
///
/// A point costs one load of an atomic flag as long as there are no rules at all. Rules can be
/// changed at any time, from any thread.
public final class FaultTable: Sendable {
    private struct State {
        var counts: [FaultPoint: FaultCount] = [:]
        var entropy: Entropy
    }

    private let state: Mutex<State>
    // Ordering: a hint; the mutex orders the rules themselves. A point that sees the flag late
    // misses some passes.
    private let isArmedFlag = Atomic<Bool>(false)

    public init(entropy: Entropy) {
        state = Mutex(State(entropy: entropy))
    }

    /// Whether there is any rule.
    @inline(__always) public var isArmed: Bool { isArmedFlag.load(ordering: .relaxed) }

    /// Replaces all rules; each point has at most one, the last given. None: no more faults.
    public func set(_ rules: [FaultRule]) {
        for rule in rules {
            precondition(
                rule.point.errors.contains(rule.strikesWith),
                "a fault point has errors of its own")
        }
        state.withLock { state in
            state.counts = [:]
            for rule in rules { state.counts[rule.point] = FaultCount(rule: rule) }
        }
        isArmedFlag.store(!rules.isEmpty, ordering: .relaxed)
    }

    /// The rules and what they have done, by the order of points.
    public var counts: [FaultCount] {
        state.withLock { state in FaultPoint.allCases.compactMap { state.counts[$0] } }
    }

    /// Passes a point: what it asks for, if it strikes.
    @inline(__always) public func strike(_ point: FaultPoint) -> FaultStrike? {
        isArmed ? draw(point) : nil
    }

    /// Passes a point that can only fail.
    @inline(__always) public func fails(_ point: FaultPoint) -> Bool {
        isArmed && draw(point) != nil
    }

    private func draw(_ point: FaultPoint) -> FaultStrike? {
        state.withLock { state -> FaultStrike? in
            guard var count = state.counts[point] else { return nil }
            count.passed += 1
            var strikes = count.passed % count.rule.interval == 0
            strikes = strikes && count.struck < count.rule.countMax
            if strikes, count.rule.probability < FaultRule.probabilityUnit {
                strikes = state.entropy.chance(
                    UInt64(count.rule.probability), in: UInt64(FaultRule.probabilityUnit))
            }
            if strikes { count.struck += 1 }
            state.counts[point] = count
            guard strikes else { return nil }
            return count.rule.delay.map { .wait($0) } ?? .fail(count.rule.strikesWith)
        }
    }
}

// MARK: - As text

extension FaultRule {
    /// Reads `POINT[,probability=P][,interval=N][,count=N][,error=NAME]`, or instead of the error
    /// `delay=MICROSECONDSus|…ms|…s`.
    ///
    /// - Throws: what is wrong with the text.
    public init(parsing text: String) throws(FaultRuleError) {
        let parts = text.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        guard let point = FaultPoint(rawValue: parts[0]) else { throw .unknownPoint(parts[0]) }
        self.init(point)
        for part in parts.dropFirst() {
            let pair = part.split(
                separator: "=", maxSplits: 1, omittingEmptySubsequences: false
            ).map(String.init)
            guard pair.count == 2 else { throw .badPart(part) }
            switch pair[0] {
            case "probability":
                guard let value = Double(pair[1]), value >= 0, value <= 1 else {
                    throw .badPart(part)
                }
                probability = UInt32((value * Double(FaultRule.probabilityUnit)).rounded())
            case "interval":
                guard let value = UInt64(pair[1]), value > 0 else { throw .badPart(part) }
                interval = value
            case "count":
                guard let value = UInt64(pair[1]) else { throw .badPart(part) }
                countMax = value
            case "error":
                guard let value = FaultError(rawValue: pair[1]), point.errors.contains(value)
                else { throw .noSuchError(point, pair[1]) }
                error = value
            case "delay":
                guard let value = FaultRule.duration(pair[1]) else { throw .badPart(part) }
                delay = value
            default:
                throw .badPart(part)
            }
        }
        guard error == nil || delay == nil else { throw .lateError }
    }

    /// No fault lasts longer.
    public static let delayMax = Duration.seconds(3600)

    private static func duration(_ text: String) -> Duration? {
        for (unit, nanoseconds) in [("us", 1e3), ("ms", 1e6), ("s", 1e9)]
        where text.hasSuffix(unit) {
            guard let value = Double(text.dropLast(unit.utf8.count)), value >= 0,
                value * nanoseconds <= Double(delayMax.nanosecondsClamped)
            else { continue }
            return .nanoseconds(Int64(value * nanoseconds))
        }
        return nil
    }

    /// The text that `init(parsing:)` reads back.
    public var text: String {
        var parts = [point.rawValue]
        if probability < FaultRule.probabilityUnit {
            parts.append(
                "probability=\(Double(probability) / Double(FaultRule.probabilityUnit))")
        }
        if interval > 1 { parts.append("interval=\(interval)") }
        if countMax < .max { parts.append("count=\(countMax)") }
        if let error { parts.append("error=\(error.rawValue)") }
        if let delay {
            parts.append("delay=\(Double(delay.nanosecondsClamped) / 1e3)us")
        }
        return parts.joined(separator: ",")
    }
}

/// Why a rule cannot be understood.
public enum FaultRuleError: Error, Hashable, Sendable {
    case unknownPoint(String)
    case badPart(String)
    case noSuchError(FaultPoint, String)
    case lateError
}

extension FaultRuleError: CustomStringConvertible {
    /// What was wrong, and what can stand there, in words for people.
    public var description: String {
        switch self {
        case .unknownPoint(let name):
            "there is no fault point '\(name)', only "
                + FaultPoint.allCases.map(\.rawValue).joined(separator: ", ")
        case .badPart(let part):
            "cannot read '\(part)'; expected probability=0…1, interval=N, count=N, error=NAME or "
                + "delay=N with us, ms or s (at most an hour)"
        case .noSuchError(let point, let name):
            "\(point.rawValue) cannot fail with '\(name)', only with "
                + point.errors.map(\.rawValue).joined(separator: ", ")
        case .lateError: "a fault is an error or a delay, not both"
        }
    }
}
