package import BIO
package import DrayChecksums
package import DrayRuntime

/// Something in a store that is not as it should be.
package struct StoreFinding: Hashable, Sendable {
    package enum Part: String, Hashable, Sendable {
        case superblock, log, manifest, table, fences, filter, value, usage, space
        case blockMap = "block map"
    }

    package var part: Part
    package var what: String
    /// The version that it concerns, as far as there is one.
    package var entry: StoreEntry.Name?
    package var table: UInt64?
    /// The number of the first block, in the store.
    package var block: UInt32?
    /// Where that is on which device, in bytes.
    package var device: String?
    package var offset: UInt64?
}

/// One version, or punch, in a store.
package struct StoreEntry: Hashable, Sendable {
    /// What it is a version of, and which.
    package struct Name: Hashable, Sendable {
        package var pool: UniqueID
        package var container: UniqueID
        package var object: ObjectID
        /// Nil for the punch of an object.
        package var dkey: [UInt8]?
        /// Nil for punches of objects and dkeys.
        package var akey: [UInt8]?
        /// The first byte of an extent; nil for all else.
        package var offset: UInt64?
        package var byteCount: Int
        /// How many bytes a record of the array has; nil for all but extents.
        package var recordSize: UInt32?
        package var epoch: UInt64
        package var stamp: UInt64
        package var isPunch: Bool
    }

    package var name: Name
    /// Nil: it is in the log.
    package var table: UInt64?
    /// Empty: its bytes are in the table or in the log.
    package var blocks: [BlockExtent]
    package var checksumType: ChecksumType
    /// The words of the checksums of its chunks.
    package var checksums: [UInt32]
}

/// What a store is, and what is wrong with it.
package struct InspectionReport: Sendable {
    package struct Table: Hashable, Sendable {
        package var id: UInt64
        package var level: Int
        package var byteCount: Int
        package var entries: UInt64
        package var punches: UInt64
        /// What its values weigh, and how much of that was hidden when it was written.
        package var weight: UInt64
        package var hiddenWeight: UInt64
        package var epochMin: UInt64
        package var first: StoreEntry.Name?
        package var last: StoreEntry.Name?
        package var blocks: [BlockExtent]
        /// Where its fences and its filter begin, in blocks from its start.
        package var fencePlace: Int
        package var filterPlace: Int
        /// Where its first block is on its device, in bytes.
        package var offset: UInt64
    }

    package struct Manifest: Hashable, Sendable {
        package var sequence: UInt64
        package var aggregatedEpoch: UInt64
        package var byteCount: UInt64
        package var chunks: Int
        package var transactions: UInt64
        package var snapshots: Int
        /// Destroyed containers and pools, and discarded epochs, that may still have something in
        /// tables.
        package var destroyed: Int
        /// The blocks of each of its copies.
        package var copies: [[BlockExtent]]
        /// The blocks of the copies of each page of the block map.
        package var pageCopies: [[UInt32]]
    }

    package struct Container: Hashable, Sendable {
        package var pool: UniqueID
        package var container: UniqueID
        package var usage: VOSUsage
    }

    /// Blocks by what they have.
    package struct Space: Hashable, Sendable {
        package var total: UInt64 = 0
        package var values: UInt64 = 0
        /// Values that only the log names.
        package var logValues: UInt64 = 0
        package var tables: UInt64 = 0
        package var metadata: UInt64 = 0
        package var free: UInt64 = 0
    }

    package var identity: StoreIdentity
    package var partition: Range<UInt64>
    /// How often the superblock was written.
    package var sequence: UInt64
    package var log: StoreReader.Log
    package var manifest: Manifest?
    package var tables: [Table] = []
    /// What tables have.
    package var containers: [Container] = []
    package var space = Space()
    /// Entries that were looked at, in tables and in the log.
    package var entries: UInt64 = 0
    /// Bytes of values whose checksums were computed.
    package var verifiedBytes: UInt64 = 0
    /// Transactions that are prepared, and undecided.
    package var undecided = 0
    /// What is remarkable, but no damage.
    package var notes: [String] = []
    package var findings: [StoreFinding] = []
}
