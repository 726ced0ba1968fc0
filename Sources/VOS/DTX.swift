internal import BIO
public import DrayRuntime

/// One target's part of a distributed transaction: changes that become visible here when they do
/// on all targets that take part, or nowhere. DAOS: a DTX entry.
///
/// `begin` locks its keys and gives it an epoch; `prepare` makes it durable; then it waits, over
/// restarts too, until `commit` or `abort` says what became of it. Confined to its xstream.
public final class DTX {
    /// How far it is.
    public enum Phase: Sendable {
        /// Its keys are locked; nothing is stored.
        case begun
        /// Its record is on its way to the log.
        case preparing
        /// Durable and undecided.
        case prepared
        /// Visible.
        case committed
        /// Gone, or about to go.
        case aborted
    }

    /// Chosen by the client; every target knows it by this.
    public let id: UniqueID
    /// Who takes part, in the words of the layer above.
    public let members: [UInt8]
    /// Whether this target decides: it remembers the outcome until the others have it.
    public let isLeader: Bool
    /// The version that its changes belong to.
    @safe @exclusivity(unchecked) public internal(set) var epoch: UInt64 = 0
    @safe @exclusivity(unchecked) public internal(set) var phase = Phase.begun

    /// The abort of what was prepared is on its way to the log.
    @safe @exclusivity(unchecked) var isAborting = false

    @safe @exclusivity(unchecked) var locks: [KeyLocks.Request] = []
    /// Its changes, placed.
    @safe @exclusivity(unchecked) var operations: [PreparedOperation] = []
    /// The log record that holds it; 0 before there is one.
    @safe @exclusivity(unchecked) var sequence: UInt64 = 0
    /// That record's bytes, for the next checkpoint.
    @safe @exclusivity(unchecked) var record: [UInt8] = []

    init(id: UniqueID, members: [UInt8], isLeader: Bool) {
        self.id = id
        self.members = members
        self.isLeader = isLeader
    }

    /// The blocks of its values.
    var blocks: [BlockExtent] { operations.flatMap(\.record.blocks) }
}

/// What is asked of a target for a distributed transaction.
public struct DTXRequest {
    /// Changes of one object. This target checks conditions and conflicts of those it `leads`; of
    /// others another replica has.
    public struct Part {
        /// Its epoch and transaction are not looked at.
        public var update: Update
        public var leads: Bool

        public init(_ update: Update, leads: Bool) {
            self.update = update
            self.leads = leads
        }
    }

    /// What the transaction has read: a distribution key or, without one, the list of keys of an
    /// object. Must not have changed since.
    public struct Read: Hashable, Sendable {
        public var pool: UniqueID
        public var container: UniqueID
        public var object: ObjectID
        public var dkey: [UInt8]?

        public init(
            pool: UniqueID, container: UniqueID, object: ObjectID, dkey: [UInt8]?
        ) {
            self.pool = pool
            self.container = container
            self.object = object
            self.dkey = dkey
        }
    }

    public var id: UniqueID
    public var members: [UInt8]
    public var isLeader: Bool
    public var parts: [Part] = []
    public var reads: [Read] = []
    /// The epoch at which the reads were done.
    public var snapshot: UInt64 = 0
    /// How long to wait for keys that others hold. Nil: not at all, for who holds keys elsewhere
    /// already must not wait.
    public var patience: Instant?

    public init(id: UniqueID, members: [UInt8], isLeader: Bool) {
        self.id = id
        self.members = members
        self.isLeader = isLeader
    }
}

/// What became of a transaction, as the log tells it.
public struct DTXOutcome: Hashable, Sendable {
    enum Kind: UInt8 {
        case committed = 1
        case aborted = 2
        /// All who take part know that it was committed; nobody will ask again.
        case completed = 3
    }

    let kind: Kind
    let id: UniqueID
    let epoch: UInt64
}

/// What a target knows of a transaction.
public enum DTXState {
    /// Nothing: it was never here, or is forgotten.
    case unknown
    /// It is under way here.
    case active(DTX)
    /// Committed at this epoch.
    case committed(epoch: UInt64)
    case aborted
}
