internal import DrayRuntime

/// What a simulated device does wrong, and how slow it is. Chances are in a million.
public struct DeviceFaults: Sendable {
    /// A read, write or flush takes from `latencyMin` to `latencyMax`.
    public var latencyMin: Duration = .microseconds(20)
    public var latencyMax: Duration = .microseconds(200)
    /// A transfer takes `stall` longer.
    public var stallChance: UInt64 = 0
    public var stall: Duration = .seconds(1)
    /// A read fails with EIO.
    public var readErrorChance: UInt64 = 0
    /// A write fails with EIO, after some of it may have been stored.
    public var writeErrorChance: UInt64 = 0
    /// A flush fails with EIO and makes nothing durable.
    public var flushErrorChance: UInt64 = 0
    /// A flush succeeds and makes nothing durable.
    public var lyingFlushChance: UInt64 = 0
    /// A write goes to another place, and is reported as done.
    public var misdirectedWriteChance: UInt64 = 0
    /// After a write one of its sectors cannot be read until it is written again.
    public var latentErrorChance: UInt64 = 0
    /// After a write one of its bits changes.
    public var bitRotChance: UInt64 = 0
    /// What a crash does to writes that were not flushed.
    public var crashOutcome: CrashOutcome = .random

    /// No faults.
    public init() {}
}

/// What becomes, at a crash, of writes that were in flight or not flushed.
public enum CrashOutcome: String, CaseIterable, Sendable {
    /// All are lost.
    case lose
    /// All are there, those in flight included.
    case keep
    /// Each block holds one of the versions it could have, chosen independently.
    case reorder
    /// Each sector of 512 bytes does.
    case tear
    /// One of the above.
    case random
}

/// The faults that a simulated device has committed so far.
public struct DeviceFaultCounts: Hashable, Sendable {
    public var readErrors = 0
    public var writeErrors = 0
    public var flushErrors = 0
    public var lyingFlushes = 0
    public var misdirectedWrites = 0
    public var latentErrors = 0
    public var rottenBits = 0
    public var stalls = 0
    /// Crashes that found writes not flushed.
    public var lossyCrashes = 0
    /// Blocks whose newest version a crash did not keep.
    public var blocksLost = 0

    public init() {}

    /// All of them together.
    public var total: Int {
        readErrors + writeErrors + flushErrors + lyingFlushes + misdirectedWrites + latentErrors
            + rottenBits + stalls + lossyCrashes
    }
}

/// A moment at which a test can crash a process.
public enum DeviceBoundary: String, Sendable {
    /// A write was asked for: any of it may be stored when there is a crash now.
    case writeBegins
    /// A write is stored; its caller does not know yet.
    case writeEnds
    /// A flush was asked for.
    case flushBegins
    /// A flush has made things durable; its caller does not know yet.
    case flushEnds
}
