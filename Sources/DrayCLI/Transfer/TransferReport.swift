internal import DrayRuntime

/// What a transfer did: printed by `fs put`, `fs get` and `fs compare`.
struct TransferReport: Codable, Hashable, Sendable {
    var files: UInt64 = 0
    var directories: UInt64 = 0
    var symbolicLinks: UInt64 = 0
    var bytes: UInt64 = 0
    var skipped: UInt64 = 0
    /// Entries that differ, for comparisons.
    var differences: UInt64 = 0
    var seconds: Double = 0

    /// Entries of every type.
    var entries: UInt64 { files + directories + symbolicLinks }

    /// One line for people.
    func summary(_ verb: String) -> String {
        let rate = seconds > 0 ? Double(bytes) / seconds : 0
        let perSecond = seconds > 0 ? Double(entries) / seconds : 0
        var text = "\(verb) \(files) files, \(directories) directories, \(symbolicLinks) links, "
        text += "\(Size(bytes: bytes)) in "
        text += "\(HumanDuration(.nanoseconds(Int64(min(seconds, 1e9) * 1e9))))"
        text += " (\(Size(bytes: UInt64(rate)))/s, \(Decimal.text(perSecond, digits: 0)) entries/s)"
        if skipped > 0 { text += ", \(skipped) skipped" }
        if differences > 0 { text += ", \(differences) differ" }
        return text
    }
}

/// What uploads, downloads and comparisons share: the buffers, the tally, the first failure.
///
/// Confined to the client's xstream.
class Transfer {
    let xstream: XStream
    let buffers: BufferPool
    let progress: ProgressBar
    private let start: Instant
    var report = TransferReport()
    var filesTotal: UInt64?
    var bytesTotal: UInt64?
    private(set) var failure: CommandFailure?

    /// Files that are under way at a time.
    static let workersMax = 32
    /// Chunks of all files that are under way at a time: memory of so many MiB.
    static let buffersMax = 32
    /// Entries that wait for a worker.
    static let queueMax = 256

    init(title: String, xstream: XStream, quiet: Bool) {
        self.xstream = xstream
        buffers = BufferPool(count: Transfer.buffersMax, bufferSize: 1 << 20)
        start = xstream.now
        progress = ProgressBar(title, now: start, quiet: quiet)
    }

    /// Remembers the first failure; what follows from it is not reported.
    func fail(_ error: CommandFailure) {
        if failure == nil { failure = error }
    }

    var failed: Bool { failure != nil }

    /// Says on standard error why something was left out.
    func skip(_ what: String, _ why: String) {
        report.skipped += 1
        progress.clear()
        Terminal.note("dray: \(what): skipped: \(why)")
    }

    func showProgress() {
        progress.update(
            ProgressBar.Figures(
                files: report.entries, bytes: report.bytes, filesTotal: filesTotal,
                bytesTotal: bytesTotal), now: xstream.now)
    }

    /// The report, or the failure if there was one.
    func finish() throws(CommandFailure) -> TransferReport {
        progress.clear()
        report.seconds = HumanDuration(xstream.now.since(start)).seconds
        if var failure {
            if report.entries > 0 {
                failure.advice =
                    (failure.advice.isEmpty ? "" : failure.advice + "; ")
                    + "done before: \(report.entries) entries"
            }
            throw failure
        }
        return report
    }
}
