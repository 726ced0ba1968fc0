internal import DrayRuntime

/// How a member looks after the others. The defaults suit a local network.
public struct SwimOptions: Hashable, Sendable {
    /// How often a member pings another one. At least `periodMin`.
    public var period: Duration = .milliseconds(200)

    /// How long the answer to a ping may take before others are asked to ping, too, and the port of
    /// the silent member is tried. Less than the period.
    public var pingTimeout: Duration = .milliseconds(100)

    /// How long a suspect has to say that it is alive. A member that is stopped or cut off for less
    /// is not declared dead. At least three periods, at most an hour.
    public var suspicionTimeout: Duration = .seconds(5)

    /// How many others are asked to ping a silent member: 0 to 16.
    public var helperCount = 3

    /// How many others each member tells at once that somebody has died, or is back: 1 to 16.
    public var newsCount = 8

    /// The defaults.
    public init() {}

    /// The shortest period.
    public static let periodMin: Duration = .milliseconds(10)

    /// Why the options cannot work; nil when they can.
    public var problem: String? {
        if period < SwimOptions.periodMin {
            return "the SWIM period must be at least 10 ms"
        }
        if pingTimeout <= .zero || pingTimeout >= period {
            return "the SWIM ping time-out must be positive and below the period"
        }
        if suspicionTimeout < period * 3 {
            return "the SWIM suspicion time-out must be at least three periods"
        }
        if suspicionTimeout > SwimOptions.suspicionTimeoutMax {
            return "the SWIM suspicion time-out must be at most an hour"
        }
        if !(0...SwimOptions.peersMax).contains(helperCount)
            || !(1...SwimOptions.peersMax).contains(newsCount)
        {
            return "SWIM asks 0 to 16 helpers, and tells news to 1 to 16 others"
        }
        return nil
    }

    private static let peersMax = 16
    /// Times are multiplied with the doubt, and added to the clock.
    private static let suspicionTimeoutMax: Duration = .seconds(3600)
}

/// The options as the machine counts: in nanoseconds.
struct SwimTimes: Sendable {
    let period: UInt64
    let pingTimeout: UInt64
    let suspicionTimeout: UInt64
    /// How long a helper waits for an answer: it must be able to say "no" within the period.
    let relayTimeout: UInt64
    /// An event that is later than this was not late by chance.
    let stallMin: UInt64
    /// Between two rounds of news, whatever happens.
    let newsPause: UInt64

    init(_ options: SwimOptions) {
        period = options.period.nanosecondsClamped
        pingTimeout = options.pingTimeout.nanosecondsClamped
        suspicionTimeout = options.suspicionTimeout.nanosecondsClamped
        relayTimeout = min(pingTimeout, (period - pingTimeout) * 3 / 4)
        stallMin = pingTimeout
        newsPause = period / 20
    }
}
