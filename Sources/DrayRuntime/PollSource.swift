/// Something an xstream makes progress on between its jobs: a fabric endpoint, an io_uring.
///
/// All methods are called on the xstream that the source was added to.
public protocol PollSource: AnyObject {
    /// Handles what has happened, up to a bounded number of events, and returns how many there
    /// were. Must not block.
    func poll() -> Int

    /// Called when the xstream is about to block, after `poll()` returned 0.
    func prepareToBlock() -> BlockReadiness
}

/// What a poll source needs before its xstream may block.
public enum BlockReadiness: Sendable {
    /// There is something to do now: do not block.
    case busy
    /// Wake the xstream when this descriptor becomes readable.
    case descriptor(Int32)
    /// There is nothing to wait on: poll again after a pause that grows while nothing happens.
    case pause
    /// Nothing is outstanding; no need to look until a job starts something.
    case idle
}
