internal import ArgumentParser

/// What a benchmark of a store measures, and with what.
struct VOSBenchPlan: Sendable {
    /// What can be measured by itself.
    enum Part: String, CaseIterable, ExpressibleByArgument, Codable, Sendable {
        /// Many keys: filling, memory, opening, reading.
        case open
        /// Opening after a kill, with as much in the log as there ever is.
        case recover
        /// Durable updates.
        case update
        /// Reads, of more than the cache holds and of less.
        case fetch
        /// The keys of objects.
        case enumerate
        /// Updates beside aggregation and checkpoints, and without.
        case background
        /// What overwriting costs in bytes written and in space.
        case overwrite
    }

    var parts: Set<Part>
    /// Bytes of each value.
    var sizes: [Int]
    var depths: [Int]
    /// Memory that the store may use for values, in bytes.
    var cache: Int
    /// Memory that the store may use for its index, in bytes.
    var indexMemory: Int
    var logSize: UInt64
    /// Of each measurement.
    var time: Duration
    /// How often each measurement is repeated, in turn with fio.
    var rounds: Int
    /// How many the store has when it is opened.
    var keys: UInt64
    /// Bytes of each distribution key.
    var keySize: Int
    /// Bytes of the values that are overwritten.
    var workingSet: UInt64
    /// Bytes of values that overwrite them, and the longest time that this may take.
    var overwrite: UInt64
    var overwriteTime: Duration
    var retention: Duration
    /// Whether work in the background runs, in turn.
    var background: [Bool]
    var seed: UInt64

    /// A working set ten times as large as the cache.
    static let cacheFactor = 10
    /// Values of the part `open`, in bytes.
    static let filledSize = 64
    /// The sizes that `background` and `recover` measure: one that lives in the index, and one that
    /// has a block of its own.
    static let backgroundSizes = [64, 4096]
    /// Those that `overwrite` measures: large values as well.
    static let overwriteSizes = backgroundSizes + [1 << 20]
    /// Updates in flight of `overwrite` and `background`.
    static let overwriteDepth = 16
    /// Those of `recover`: records that have a block of the log each, and as many as there can be
    /// in one.
    static let recoverDepths = [1, 64]
    /// Reads in flight after opening.
    static let openedDepth = 16

    /// How many values of `size` take `bytes`, with what the store has to know of each.
    func count(of size: Int, in bytes: UInt64) -> UInt64 {
        max(UInt64(depths.max() ?? 1), bytes / UInt64(size + keySize + 64))
    }
}
