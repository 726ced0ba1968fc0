/// The limits of a versioned object store.
public enum VOSLimits {
    /// The longest distribution or attribute key, in bytes.
    public static let keyLengthMax = 65_536
    /// The longest single value and the longest array extent, in bytes.
    public static let valueLengthMax = 1 << 20
    /// A checksum covers this many bytes of a value, counted from the value's first byte.
    public static let checksumChunk = 32_768
    /// The most operations in one update.
    public static let operationsMax = 1024
    /// The stamps of the changes of one log record are so far from those of the next.
    static let stampsPerRecord: UInt64 = 1 << 16
    /// The longest log record that an update may make, in bytes: keys and inline values.
    public static let recordLengthMax = 512 << 10
    /// The most keys that a transaction may hold, those of objects included.
    public static let locksMax = 65_535
    /// The longest list of the members of a transaction, in bytes.
    public static let membersLengthMax = 65_536
    /// The longest range that one array fetch may read, in bytes.
    public static let fetchLengthMax = 64 << 20
    /// The largest `VOSOptions.inlineThreshold`, in bytes.
    public static let inlineThresholdMax = 65_536
}

/// The settings of a versioned object store.
public struct VOSOptions: Sendable {
    /// Values shorter than this many bytes live in the log and the index ("SCM" in DAOS's words);
    /// longer ones go straight to blocks. DAOS: `data_thresh`.
    public var inlineThreshold: Int = 4096

    /// Memory for values of up to 64 KiB that are read again and again; 0 for none.
    public var cacheBytes: Int = 32 << 20

    /// Memory for the index: half for what was logged lately, half for blocks of its tables. At
    /// least 256 KiB. A sixteenth more is for what fetches found lately.
    public var indexBytes: Int = 64 << 20

    /// The size of a table, in bytes; nil: by the size of the store, 256 KiB to 16 MiB. For tests.
    package var tableBytes: Int?

    /// How much is kept in memory before it goes into tables; nil: a quarter of `indexBytes`. For
    /// tests.
    package var memtableBytes: Int?

    /// How long, in nanoseconds, replaying the log may take after a crash, on a machine that is not
    /// fast (`ReplayCost`): checkpoints begin when it is half of that, and updates wait for them
    /// when it is more.
    public var replayTimeMax: UInt64 = 1_000_000_000

    /// How long, in nanoseconds of epochs, superseded versions can be read.
    public var retention: UInt64 = 20_000_000_000

    /// How many committed transactions are remembered, for resends.
    public var transactionsMax: Int = 1 << 18

    /// How long, in nanoseconds of epochs, a committed transaction is remembered.
    public var transactionAge: UInt64 = 60_000_000_000

    /// How much of what is stored the background reads and verifies, in bytes a second, as soon as
    /// `scrubInterval` has gone by; 0: nothing. DAOS: the pool property `scrub`.
    public var scrubRate: UInt64 = 0

    /// How long after the beginning of one scrub the next begins; the first begins after an hour,
    /// or after this time if that is shorter. DAOS: the pool property `scrub_freq`.
    public var scrubInterval = Duration.seconds(7 * 86_400)

    /// How often the background loop looks for work, in milliseconds.
    public var backgroundPeriod: UInt64 = 250

    public init() {}
}
