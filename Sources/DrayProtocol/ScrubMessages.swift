public import CaRT
public import DrayRuntime

/// Begins or ends the scrubbing of an engine's stores, or only asks how it goes.
public struct ScrubRequest: Message, Hashable {
    /// What is wanted.
    public enum Action: UInt8, Sendable {
        case query = 0
        /// Begin a pass where none is under way.
        case start = 1
        /// End the passes that are under way.
        case stop = 2
    }

    public var action = Action.query
    /// For `start`: the most bytes that each store reads in a second; 0: as the engine is set.
    public var rate: UInt64 = 0

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&action)
        try coder.code(&rate)
    }
}

/// How the scrubbing of an engine's stores goes, after the request.
public struct ScrubReply: Message, Hashable {
    /// The engine's own, then those of the targets.
    public var stores: [StoreScrub] = []

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&stores, max: EngineRecord.addressesMax)
    }
}

/// How the scrubbing of one store goes.
public struct StoreScrub: Message, Hashable {
    /// The number of the target; nil for the engine's own store.
    public var target: UInt32?
    /// The pass under way.
    public var current: ScrubProgress?
    /// The one before.
    public var last: ScrubProgress?
    /// Passes that came to the end, what they read, and what they found, since the engine started.
    public var passes: UInt64 = 0
    public var bytes: UInt64 = 0
    public var errors: UInt64 = 0
    /// What is known to be damaged.
    public var findings: [ScrubFinding] = []

    /// Those of two passes.
    public static let findingsMax = 128

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&target)
        try coder.code(&current)
        try coder.code(&last)
        try coder.code(&passes)
        try coder.code(&bytes)
        try coder.code(&errors)
        try coder.code(&findings, max: StoreScrub.findingsMax)
    }
}

/// What one pass over a store has come to.
public struct ScrubProgress: Message, Hashable {
    /// By the engine's wall clock, in nanoseconds; `ended` is nil while the pass is under way.
    public var started: UInt64 = 0
    public var ended: UInt64?
    public var isComplete = false
    /// Bytes that were verified, and about how many there were when it began.
    public var bytes: UInt64 = 0
    public var bytesTotal: UInt64 = 0
    public var tables: UInt64 = 0
    public var values: UInt64 = 0
    public var errors: UInt64 = 0

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&started)
        try coder.code(&ended)
        try coder.code(&isComplete)
        try coder.code(&bytes)
        try coder.code(&bytesTotal)
        try coder.code(&tables)
        try coder.code(&values)
        try coder.code(&errors)
    }
}

/// Something in a store that is not as it was written.
public struct ScrubFinding: Message, Hashable {
    /// "value", "table", "fences", "filter", "manifest" or "block map".
    public var part = ""
    public var what = ""
    /// The version that it concerns, if it is a value.
    public var value: ScrubbedValue?
    /// The table of the index that it is in, or is named by.
    public var table: UInt64?
    /// The block of the store, and where that is on which device.
    public var block: UInt32?
    public var device = ""
    public var offset: UInt64?

    public static let partMax = 32
    public static let textMax = 4096

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&part, max: ScrubFinding.partMax)
        try coder.code(&what, max: ScrubFinding.textMax)
        try coder.code(&value)
        try coder.code(&table)
        try coder.code(&block)
        try coder.code(&device, max: ScrubFinding.textMax)
        try coder.code(&offset)
    }
}

/// The name of a version of a value.
public struct ScrubbedValue: Message, Hashable {
    public var pool = UniqueID.zero
    public var container = UniqueID.zero
    public var object = ObjectID(high: 0, low: 0)
    public var dkey: [UInt8] = []
    public var akey: [UInt8] = []
    /// The first byte of an extent of an array; nil for a single value.
    public var offset: UInt64?
    public var length: UInt64 = 0
    public var epoch: UInt64 = 0

    /// What is longer is cut off.
    public static let keyMax = 1024

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&pool)
        try coder.code(&container)
        try coder.code(&object)
        try coder.code(&dkey, max: ScrubbedValue.keyMax)
        try coder.code(&akey, max: ScrubbedValue.keyMax)
        try coder.code(&offset)
        try coder.code(&length)
        try coder.code(&epoch)
    }
}
