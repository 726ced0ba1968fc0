/// What one simulated run of the transport did and found.
public struct TransportReport: Sendable {
    public var seed: UInt64
    /// What the processes were like.
    public var processes = ""
    public var calls = 0
    public var replies = 0
    /// Replies for which bytes had to be fetched from their sender's memory.
    public var spills = 0
    /// Replies of handlers that have read or written the caller's memory.
    public var transfers = 0
    /// Requests without reply that were sent, and that arrived.
    public var notesSent = 0
    public var notesReceived = 0
    public var cancelled = 0
    public var handled = 0
    /// Faults of the schedule.
    public var faults = 0
    public var kills = 0
    /// What the fabric has lost, delayed, refused and misdelivered.
    public var injected: UInt64 = 0
    public var virtualSeconds = 0.0
    public var turns: UInt64 = 0
    public var eventHash: UInt64 = 0
    /// Everything that must not be. Empty when the run is good.
    public var violations: [String] = []

    /// A run below any of these has tested too little to count.
    public static let callsMin = 400
    public static let repliesMin = 200
    public static let spillsMin = 20
    public static let transfersMin = 20
    public static let notesMin = 5
    public static let cancelledMin = 3
    public static let faultsMin = 6
    public static let killsMin = 1
    public static let injectedMin = 20

    public init(seed: UInt64) { self.seed = seed }

    /// The floors that the run did not reach.
    public var shortfalls: [String] {
        let floors: [(count: Int, least: Int, name: String)] = [
            (calls, TransportReport.callsMin, "calls"),
            (replies, TransportReport.repliesMin, "replies"),
            (spills, TransportReport.spillsMin, "large messages"),
            (transfers, TransportReport.transfersMin, "transfers"),
            (notesReceived, TransportReport.notesMin, "one-way requests"),
            (cancelled, TransportReport.cancelledMin, "cancelled calls"),
            (faults, TransportReport.faultsMin, "faults"),
            (kills, TransportReport.killsMin, "kills"),
            (Int(injected), TransportReport.injectedMin, "faults of the fabric"),
        ]
        return floors.filter { $0.count < $0.least }.map { "\($0.count) \($0.name)" }
    }

    /// Whether the run is good and has tested enough.
    public var passed: Bool { violations.isEmpty && shortfalls.isEmpty }

    /// One line.
    public var summary: String {
        "seed \(seed): \(processes): \(calls) calls, \(replies) replies (\(spills) large, "
            + "\(transfers) with transfers), \(notesReceived) of \(notesSent) one-way, "
            + "\(cancelled) cancelled, \(handled) handled; \(faults) faults, \(kills) kills, "
            + "\(injected) faults of the fabric; "
            + "\((virtualSeconds * 10).rounded() / 10) s virtual, \(turns) turns, "
            + "hash \(String(eventHash, radix: 16))"
    }
}
