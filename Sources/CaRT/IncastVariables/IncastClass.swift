internal import DrayRuntime

/// A kind of incast variable: its types, and what each member does with a variable of it.
///
/// Every member of the group registers the same classes with its namespace. An instance is
/// confined to the xstream of the namespace's context. Callbacks may wait; what they throw reaches
/// the caller of the operation. A callback that is a plain function serves as well as an
/// asynchronous one.
///
/// Only `number`, `load` and `store` must be given. For values that live as long as their owner,
/// `IncastMemory` does the work of the latter two.
public protocol IncastClass<Key, Value> {
    /// Names a variable. Two keys are the same variable when `==` says so.
    associatedtype Key: Message & Hashable
    /// What a variable is.
    associatedtype Value: Message

    /// Which class of its namespace it is, the same at all members.
    var number: UInt32 { get }

    /// Whether updates of a key go one after another: see `IncastVariables.update`. Otherwise the
    /// newest wins, as by default. (DAOS: UPDATE_IN_ORDER)
    var isOrdered: Bool { get }

    /// Whether every change of the group makes the members forget their copies, not only a change
    /// of the key's owner. By default not. (DAOS: DISCARD_CACHE)
    var discardsCopies: Bool { get }

    /// Keys of which a member keeps a copy or a version; the oldest are forgotten first. By default
    /// 1,024.
    var keysMax: Int { get }

    /// Who owns the key: a function of the key and the members, so that all agree. By default the
    /// winner of rendezvous hashing: when a member leaves, only its own keys move. O(members).
    /// (on_hash)
    func owner(of key: Key, in group: Group) -> UInt32?

    // MARK: - At the owner

    /// The value and its version, as they are at some time after the call began. What it throws
    /// reaches all who wait for the key.
    func load(_ key: Key, at place: IncastPlace) async throws(RPCError) -> IncastVersioned<Value>

    /// Takes an update, and gives what the variable is from now on: the new value, or whatever the
    /// class makes of it, or the old one.
    ///
    /// - Parameters:
    ///   - key: the variable.
    ///   - value: nil for an invalidation: the value stays, or is made anew, and gets a new
    ///     version.
    ///   - version: a good one for the value: greater than those before it, also of earlier
    ///     owners, as far as this process has heard of them.
    ///   - update: which one it is. Each comes once to an owner, and again if it was refused.
    ///   - place: where this is, and for whom.
    func store(
        _ value: Value?, for key: Key, version: UInt64, update: IncastUpdateID,
        at place: IncastPlace
    ) async throws(RPCError) -> IncastVersioned<Value>

    // MARK: - On the way

    /// What a rank that is not the owner does with a fetch. By default `.copy`. (on_fetch)
    func fetch(
        _ key: Key, copy: IncastVersioned<Value>?, at place: IncastPlace
    ) async throws(RPCError) -> IncastFetchStep<Value>

    /// What a rank that is not the owner does with an update. By default it forwards it as it is.
    /// May see an update again when it is tried again. (on_update)
    func update(
        _ key: Key, _ value: Value, update: IncastUpdateID, at place: IncastPlace
    ) async throws(RPCError) -> IncastUpdateStep<Value>

    /// There is news of the variable here. Those of one key come one after another. When it throws
    /// for a value, no copy is kept, and an update counts the rank as missed. (on_refresh)
    func refresh(
        _ key: Key, _ news: IncastNews<Value>, at place: IncastPlace
    ) async throws(RPCError)

    // MARK: - Before and around

    /// Before a fetch is handled, at every rank. (pre_fetch)
    func willFetch(_ key: Key, at place: IncastPlace) async

    /// Before an update or invalidation is handled, at every rank. (pre_update)
    func willUpdate(_ key: Key, at place: IncastPlace) async

    /// Before `refresh`. (pre_refresh)
    func willRefresh(_ key: Key, at place: IncastPlace) async

    /// Before news go to the ranks below; when it throws, those are missed. (pre_sync)
    func willSpread(_ key: Key, version: UInt64, at place: IncastPlace) async throws(RPCError)

    /// Before anything is done with the variable for an operation; may refuse it. Followed by one
    /// `endAccess`, unless it throws. (on_get)
    func beginAccess(
        _ key: Key, _ access: IncastAccess, at place: IncastPlace
    ) async throws(RPCError)

    /// The operation is done with the variable here. (on_put)
    func endAccess(_ key: Key, _ access: IncastAccess, at place: IncastPlace)
}

extension IncastClass {
    public func owner(of key: Key, in group: Group) -> UInt32? {
        RendezvousHash.winner(for: key.encoded(), among: group.members)
    }

    public var isOrdered: Bool { false }
    public var discardsCopies: Bool { false }
    public var keysMax: Int { 1024 }

    public func fetch(
        _ key: Key, copy: IncastVersioned<Value>?, at place: IncastPlace
    ) async throws(RPCError) -> IncastFetchStep<Value> { .copy }

    public func update(
        _ key: Key, _ value: Value, update: IncastUpdateID, at place: IncastPlace
    ) async throws(RPCError) -> IncastUpdateStep<Value> { .forward(value) }

    public func refresh(
        _ key: Key, _ news: IncastNews<Value>, at place: IncastPlace
    ) async throws(RPCError) {}

    public func willFetch(_ key: Key, at place: IncastPlace) async {}
    public func willUpdate(_ key: Key, at place: IncastPlace) async {}
    public func willRefresh(_ key: Key, at place: IncastPlace) async {}

    public func willSpread(
        _ key: Key, version: UInt64, at place: IncastPlace
    ) async throws(RPCError) {}

    public func beginAccess(
        _ key: Key, _ access: IncastAccess, at place: IncastPlace
    ) async throws(RPCError) {}

    public func endAccess(_ key: Key, _ access: IncastAccess, at place: IncastPlace) {}
}

/// Rendezvous hashing (Thaler and Ravishankar 1998): each member draws a number for the key, and
/// the largest wins. When a member leaves, only its own keys move. O(members).
enum RendezvousHash {
    static func winner(for key: [UInt8], among members: [Group.Member]) -> UInt32? {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325  // FNV-1a
        for byte in key { hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01b3 }
        var winner: (draw: UInt64, rank: UInt32)?
        for member in members {
            let draw = mix(hash ^ mix(UInt64(member.rank)))
            if winner.map({ draw > $0.draw }) ?? true { winner = (draw, member.rank) }
        }
        return winner?.rank
    }

    /// One step of SplitMix64.
    private static func mix(_ value: UInt64) -> UInt64 {
        var z = value &+ 0x9e37_79b9_7f4a_7c15
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}
