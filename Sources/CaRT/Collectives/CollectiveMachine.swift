/// The positions at which a collective failed: some of them with their errors, and how many in all.
struct CollectiveFailures: Hashable {
    /// Why one position failed.
    struct Failure: Hashable {
        var position: Int
        var error: RPCError
    }

    /// Failures that are listed; more are only counted.
    static let listedMax = 64

    private(set) var listed: [Failure] = []
    private(set) var total = 0

    init() {}

    init(listed: [Failure], total: Int) {
        self.listed = listed
        self.total = total
    }

    mutating func add(_ position: Int, _ error: RPCError) {
        add(position..<position + 1, error)
    }

    /// Every position of the range failed with the same error.
    mutating func add(_ positions: Range<Int>, _ error: RPCError) {
        for position in positions.prefix(CollectiveFailures.listedMax - listed.count) {
            listed.append(Failure(position: position, error: error))
        }
        total += positions.count
    }

    mutating func add(_ others: CollectiveFailures) {
        listed += others.listed.prefix(CollectiveFailures.listedMax - listed.count)
        total += others.total
    }
}

/// One position's part in a collective: asked by its parent, it runs the handler, asks its
/// children, and answers when all of that is over.
///
/// A state machine: events in, actions out. It counts every position below it exactly once, as
/// succeeded or as failed.
///
/// **A child that takes no part** (gone, restarted, overloaded, of another group version) fails by
/// itself only: its own children are adopted, that is asked by us. They may have been asked before
/// by the child; whoever gets a collective for the second time joins what is under way, or repeats
/// its answer. A child that did not answer in time leaves no time to ask anybody else: all below it
/// fail.
struct CollectiveMachine {
    enum Phase: Equatable, CaseIterable {
        /// The pre-forward hook decides whether we take part.
        case prepared
        /// The handler runs and the children were asked.
        case forwarded
        /// It is over.
        case answered
    }

    enum Event: Equatable {
        case accepted
        /// The pre-forward hook will have none of it: neither we nor those below us take part.
        case refused(RPCError)
        /// The handler ended with a reply.
        case handled
        case handlerFailed(RPCError)
        case childAnswered(Int, succeeded: Int, failures: CollectiveFailures)
        /// A child did not answer, or with an error instead of what became of it and those below.
        case childFailed(Int, RPCError)
        /// The parent must have its answer now.
        case outOfTime
        /// Nobody waits for the answer any more.
        case cancelled
    }

    enum Action: Equatable {
        /// Ask the pre-forward hook.
        case prepare
        /// Run the handler.
        case handle
        /// Ask this position.
        case forward(Int)
        /// Our own reply, or that of a child, belongs to the answer.
        case takeOwn
        case aggregate(Int)
        case cancelHandler
        case cancelChild(Int)
        /// Answer with `succeeded`, `failures` and what was aggregated.
        case answer
    }

    enum Handler: Equatable {
        /// The initiator's own part: it only asks the root.
        case none
        case running
        case ended
    }

    let tree: TreeTopology
    let count: Int
    let root: Int
    /// Nil for the initiator.
    let position: Int?
    let isFailFast: Bool

    private(set) var phase = Phase.prepared
    private(set) var handler: Handler
    /// Positions whose handlers replied, among us and those below.
    private(set) var succeeded = 0
    private(set) var failures = CollectiveFailures()
    /// Who was asked, in that order, and who of them has not answered.
    private var asked: [Int] = []
    private var pending: Set<Int> = []
    /// Children whose replies came before our own.
    private var parked: [Int] = []

    /// - Parameter position: nil for the initiator, which is the parent of the root.
    init(tree: TreeTopology, count: Int, root: Int, position: Int?, isFailFast: Bool) {
        self.tree = tree
        self.count = count
        self.root = root
        self.position = position
        self.isFailFast = isFailFast
        handler = position == nil ? .none : .running
    }

    /// Positions that the answer accounts for.
    var size: Int { position.map { size(of: $0) } ?? count }

    /// Positions that were asked and have not answered.
    var pendingCount: Int { pending.count }

    // MARK: - Events

    mutating func begin() -> [Action] {
        guard position == nil else { return [.prepare] }
        phase = .forwarded
        return [ask(root)]
    }

    mutating func on(_ event: Event) -> [Action] {
        switch phase {
        case .prepared: onPrepared(event)
        case .forwarded: onForwarded(event)
        case .answered: []
        }
    }

    private mutating func onPrepared(_ event: Event) -> [Action] {
        switch event {
        case .accepted:
            phase = .forwarded
            guard let position else { preconditionFailure("the initiator does not prepare") }
            // Those below us are the longer way: they are asked first.
            return tree.children(of: position, count: count, root: root).map { ask($0) } + [.handle]
        case .refused(let error): return endAll(error)
        case .outOfTime: return endAll(.timedOut)
        case .cancelled: return endAll(.cancelled)
        case .handled, .handlerFailed, .childAnswered, .childFailed:
            preconditionFailure("an event of a part that has not begun")
        }
    }

    private mutating func onForwarded(_ event: Event) -> [Action] {
        switch event {
        case .accepted, .refused: preconditionFailure("the hook decides once")
        case .handled:
            precondition(handler == .running)
            handler = .ended
            succeeded += 1
            return [.takeOwn] + unpark() + answerIfOver()
        case .handlerFailed(let error):
            precondition(handler == .running)
            guard let position else { preconditionFailure("the initiator has no handler") }
            handler = .ended
            failures.add(position, error)
            return failFast() ?? unpark() + answerIfOver()
        case .childAnswered(let child, let succeeded, let failures):
            return childAnswered(child, succeeded, failures)
        case .childFailed(let child, let error): return childFailed(child, error)
        case .outOfTime: return end(.timedOut)
        case .cancelled: return end(.cancelled)
        }
    }

    private mutating func childAnswered(
        _ child: Int, _ succeeded: Int, _ failures: CollectiveFailures
    ) -> [Action] {
        take(child)
        guard isCredible(child, succeeded, failures) else {
            fail(below: child, .badMessage)
            return failFast() ?? answerIfOver()
        }
        self.succeeded += succeeded
        self.failures.add(failures)
        if let end = failFast() { return end }
        guard succeeded > 0 else { return answerIfOver() }
        guard handler != .running else {
            parked.append(child)
            return []
        }
        return [.aggregate(child)] + answerIfOver()
    }

    private mutating func childFailed(_ child: Int, _ error: RPCError) -> [Action] {
        take(child)
        guard error != .timedOut, error != .cancelled, error != .badMessage else {
            fail(below: child, error)
            return failFast() ?? answerIfOver()
        }
        failures.add(child, error)
        if let end = failFast() { return end }
        let adopted = tree.children(of: child, count: count, root: root).map { ask($0) }
        return adopted + answerIfOver()
    }

    // MARK: - Parts

    private mutating func ask(_ child: Int) -> Action {
        asked.append(child)
        let isNew = pending.insert(child).inserted
        precondition(isNew, "a position was asked twice")
        return .forward(child)
    }

    private mutating func take(_ child: Int) {
        guard pending.remove(child) != nil else {
            preconditionFailure("an answer of a position that was not asked")
        }
    }

    private mutating func unpark() -> [Action] {
        defer { parked = [] }
        return parked.map { .aggregate($0) }
    }

    private mutating func answerIfOver() -> [Action] {
        guard pending.isEmpty, handler != .running else { return [] }
        phase = .answered
        return [.answer]
    }

    /// The end, when there is a failure and one is enough.
    private mutating func failFast() -> [Action]? {
        guard isFailFast, failures.total > 0 else { return nil }
        let actions = cancelAll()
        // What became of the others does not matter any more: all count as failed.
        succeeded = 0
        failures = CollectiveFailures(listed: Array(failures.listed.prefix(1)), total: size)
        return actions
    }

    /// Ends with an error of everything that is not over.
    private mutating func end(_ error: RPCError) -> [Action] {
        let unanswered = asked.filter { pending.contains($0) }
        let isRunning = handler == .running
        let parts = isRunning ? unpark() : []
        let actions = cancelAll()
        if isRunning, let position { failures.add(position, error) }
        for child in unanswered { fail(below: child, error) }
        if isFailFast {
            succeeded = 0
            failures = CollectiveFailures(listed: Array(failures.listed.prefix(1)), total: size)
        }
        return parts + actions
    }

    /// Ends before anything was done.
    private mutating func endAll(_ error: RPCError) -> [Action] {
        guard let position else { preconditionFailure("the initiator does not prepare") }
        fail(below: position, error)
        handler = .ended
        phase = .answered
        return [.answer]
    }

    private mutating func cancelAll() -> [Action] {
        var actions: [Action] = []
        if handler == .running {
            handler = .ended
            actions.append(.cancelHandler)
        }
        for child in asked where pending.contains(child) { actions.append(.cancelChild(child)) }
        pending = []
        parked = []
        phase = .answered
        return actions + [.answer]
    }

    /// Neither a position nor any below it is heard of again.
    private mutating func fail(below position: Int, _ error: RPCError) {
        for range in tree.subtree(of: position, count: count, root: root) {
            failures.add(range, error)
        }
    }

    private func size(of position: Int) -> Int {
        tree.subtree(of: position, count: count, root: root).reduce(0) { $0 + $1.count }
    }

    /// Whether a child accounts for itself and those below it, and for no others.
    private func isCredible(
        _ child: Int, _ succeeded: Int, _ failures: CollectiveFailures
    ) -> Bool {
        let ranges = tree.subtree(of: child, count: count, root: root)
        let size = ranges.reduce(0) { $0 + $1.count }
        guard (0...size).contains(succeeded), failures.total == size - succeeded,
            failures.listed.count <= min(failures.total, CollectiveFailures.listedMax),
            failures.total == 0 || !failures.listed.isEmpty
        else { return false }
        return failures.listed.allSatisfy { failure in
            ranges.contains { $0.contains(failure.position) }
        }
    }

    /// Checks that every position is counted once.
    func checkInvariants() {
        var rest = handler == .running ? 1 : 0
        for child in pending { rest += size(of: child) }
        if phase == .prepared { rest = size }
        precondition(succeeded + failures.total + rest == size)
        precondition(failures.listed.count <= CollectiveFailures.listedMax)
        precondition(phase != .answered || rest == 0)
        precondition(phase != .prepared || pending.isEmpty)
    }
}
