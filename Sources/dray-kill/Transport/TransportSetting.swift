/// What a run of the transport's processes is made with.
struct TransportSetting: Sendable {
    var processes: Int
    /// Of each process.
    var contexts: Int
    /// Calls that each context has under way to each process.
    var lanes: Int
    var seed: UInt64
    /// Where logs go meanwhile.
    var directory: String
    var isVerbose: Bool

    /// All calls have ended so long after the last fault.
    static let endMax: Duration = .seconds(40)
    /// Nothing is held so long after that: large replies that nobody fetched go last.
    static let completionMax: Duration = .seconds(65)
}
