import DrayRuntime
import Testing

@testable import CaRT

/// Names a variable; the hint is no part of the name.
struct NoteKey: Message, Hashable {
    var number: UInt32 = 0
    var hint: UInt32 = 0

    static func == (left: NoteKey, right: NoteKey) -> Bool { left.number == right.number }
    func hash(into hasher: inout Hasher) { hasher.combine(number) }

    init() {}
    init(_ number: UInt32, hint: UInt32 = 0) {
        self.number = number
        self.hint = hint
    }

    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&number)
        try coder.code(&hint)
    }
}

/// A class that writes down what it is asked, and does what a test wants.
final class Notes: IncastClass {
    typealias Key = NoteKey
    typealias Value = Blob

    var number: UInt32 = 7
    var isOrdered = false
    var discardsCopies = false
    var keysMax = 1024
    var fixedOwner: UInt32?
    let xstream: XStream

    var memory = IncastMemory<UInt32, Blob>()
    /// One word for each callback, in order, with what it was about.
    var log: [String] = []
    /// The numbers of the values that were stored, and of updates.
    var stored: [UInt64] = []
    var storedUpdates: [IncastUpdateID] = []
    var loads = 0
    /// Values that `refresh` got, by number; 0 for a notice.
    var refreshed: [UInt64] = []
    var open = 0

    var delay: Duration?
    var loadDelay: Duration?
    var onFetch: (IncastVersioned<Blob>?, IncastPlace) -> IncastFetchStep<Blob> = { _, _ in .copy }
    var onUpdate: (Blob, IncastPlace) -> IncastUpdateStep<Blob> = { blob, _ in .forward(blob) }
    /// Callbacks that fail, by their word.
    var failures: [String: RPCError] = [:]

    init(_ xstream: XStream) {
        self.xstream = xstream
    }

    private func did(_ word: String, _ detail: String = "") throws(RPCError) {
        log.append(detail.isEmpty ? word : "\(word) \(detail)")
        if let error = failures[word] { throw error }
    }

    private func wait() async {
        if let delay { await xstream.sleep(for: delay) }
    }

    func owner(of key: NoteKey, in group: Group) -> UInt32? {
        if let fixedOwner { return fixedOwner }
        return group.members.isEmpty
            ? nil : group.members[Int(key.number) % group.members.count].rank
    }

    func load(
        _ key: NoteKey, at place: IncastPlace
    ) async throws(RPCError) -> IncastVersioned<Blob> {
        loads += 1
        try did("load")
        await wait()
        if let loadDelay { await xstream.sleep(for: loadDelay) }
        guard let value = memory[key.number] else {
            throw .application(code: 404, message: "no such note")
        }
        return value
    }

    func store(
        _ value: Blob?, for key: NoteKey, version: UInt64, update: IncastUpdateID,
        at place: IncastPlace
    ) async throws(RPCError) -> IncastVersioned<Blob> {
        try did("store", value.map { "\($0.number)" } ?? "nothing")
        await wait()
        storedUpdates.append(update)
        if let value { stored.append(value.number) }
        guard let stored = memory.store(value, for: key.number, version: version) else {
            throw .application(code: 404, message: "no such note")
        }
        return stored
    }

    func fetch(
        _ key: NoteKey, copy: IncastVersioned<Blob>?, at place: IncastPlace
    ) async throws(RPCError) -> IncastFetchStep<Blob> {
        try did("fetch")
        await wait()
        return onFetch(copy, place)
    }

    func update(
        _ key: NoteKey, _ value: Blob, update: IncastUpdateID, at place: IncastPlace
    ) async throws(RPCError) -> IncastUpdateStep<Blob> {
        try did("update", "\(value.number)")
        await wait()
        return onUpdate(value, place)
    }

    func refresh(
        _ key: NoteKey, _ news: IncastNews<Blob>, at place: IncastPlace
    ) async throws(RPCError) {
        switch news {
        case .value(let value):
            try did("refresh", "\(value.value.number)")
            await wait()
            refreshed.append(value.value.number)
        case .stale:
            try did("refresh", "stale")
            await wait()
            refreshed.append(0)
        case .failed: try did("refresh", "failed")
        }
    }

    func willFetch(_ key: NoteKey, at place: IncastPlace) async { log.append("willFetch") }
    func willUpdate(_ key: NoteKey, at place: IncastPlace) async { log.append("willUpdate") }
    func willRefresh(_ key: NoteKey, at place: IncastPlace) async { log.append("willRefresh") }

    func willSpread(
        _ key: NoteKey, version: UInt64, at place: IncastPlace
    ) async throws(RPCError) { try did("willSpread") }

    func beginAccess(
        _ key: NoteKey, _ access: IncastAccess, at place: IncastPlace
    ) async throws(RPCError) {
        try did("begin", "\(access)")
        open += 1
    }

    func endAccess(_ key: NoteKey, _ access: IncastAccess, at place: IncastPlace) {
        log.append("end \(access)")
        open -= 1
    }
}

/// Members of a group with a namespace each.
final class IncastCluster {
    let rig: Rig
    let tree: TreeTopology
    private(set) var contexts: [Context] = []
    private(set) var namespaces: [IncastNamespace] = []
    private(set) var notes: [Notes] = []
    private(set) var variables: [IncastVariables<Notes>] = []
    private(set) var version: UInt32 = 0

    init(
        _ rig: Rig, _ count: Int, tree: TreeTopology = .kAry(3), owner: UInt32? = 0,
        _ change: (Notes) -> Void = { _ in }
    ) throws {
        self.rig = rig
        self.tree = tree
        for _ in 0..<count { try add(owner: owner, change) }
        try regroup()
    }

    func add(owner: UInt32?, _ change: (Notes) -> Void = { _ in }) throws {
        let context = try rig.makeContext { $0.rank = UInt32(contexts.count) }
        let namespace = IncastNamespace(on: context, number: 3, tree: tree)
        let kind = Notes(rig.xstream)
        kind.fixedOwner = owner
        change(kind)
        contexts.append(context)
        namespaces.append(namespace)
        notes.append(kind)
        variables.append(namespace.register(kind))
    }

    /// Tells `told`, or all, that these ranks, or all, are the members.
    func regroup(_ ranks: [Int]? = nil, told: [Int]? = nil) throws {
        version += 1
        let members = (ranks ?? Array(contexts.indices)).map {
            Group.Member(
                rank: UInt32($0), incarnation: incarnations[$0] ?? 0,
                addresses: [contexts[$0].address])
        }
        for index in told ?? Array(contexts.indices) {
            try contexts[index].group.apply(.replace(members), version: version)
        }
    }

    var incarnations: [Int: UInt64] = [:]

    /// What a rank keeps, by the number of the value.
    func copy(_ rank: Int, _ key: NoteKey = NoteKey()) -> UInt64? {
        variables[rank].copy(of: key)?.value.number
    }

    /// Waits until nothing is under way anywhere, and checks that nothing is left.
    func settle() async throws {
        try await rig.wait("quiet") {
            self.namespaces.allSatisfy(\.isIdle) && self.contexts.allSatisfy(\.usage.isIdle)
        }
        for kind in notes { #expect(kind.open == 0) }
    }

    /// What all have done.
    func sum(_ path: KeyPath<IncastCounters, Int>) -> Int {
        namespaces.reduce(0) { $0 + $1.counters[keyPath: path] }
    }

    func clearLogs() {
        for kind in notes { kind.log = [] }
    }
}

/// The error that `body` throws; nil when it does not.
func incastFailure<Value>(
    _ body: () async throws(IncastError) -> Value
) async -> IncastError? {
    do throws(IncastError) {
        _ = try await body()
        return nil
    } catch {
        return error
    }
}
