internal import DrayRuntime

/// One rank's part in a collective, or the initiator's: does what its `CollectiveMachine` decides.
///
/// Confined to the context's xstream. Lives as long as its tasks do.
@safe final class CollectivePart<Request: Message, Reply: Message>: CollectiveParticipant {
    private let context: Context
    private let procedure: CollectiveProcedure<Request, Reply>
    private let message: Request
    private let request: CollectiveRequest
    private let tag: UInt32
    /// Nil for the initiator.
    private let handlers: CollectiveHandlers<Request, Reply>?
    private let relay: ChunkRelay?
    private let information: CollectiveContext
    /// The version of the group that all must have; 0 when we know of no group, or it does not
    /// matter.
    private let groupVersion: UInt32
    /// When those that wait for us give up: monotonic nanoseconds.
    private let deadline: UInt64

    private var machine: CollectiveMachine
    /// What is aggregated so far.
    private var reply: Reply?
    private var own: Reply?
    private var childReplies: [Int: Reply] = [:]
    private var handlerTask: Task<Void, Never>?
    /// The calls to children, by position.
    private var calls: [Int: Task<Void, Never>] = [:]
    private var timer: Timer?
    /// The parents to answer.
    private var parents: [DeferredReply<CollectiveAnswer>] = []
    /// Parents that have not given up.
    private var interested = 0
    private var answer: CollectiveAnswer?
    /// Runs once when it is all over: for the initiator.
    var onEnd: (() -> Void)?

    /// - Parameter times: when those above give up, and when we must answer.
    init(
        _ procedure: CollectiveProcedure<Request, Reply>, _ message: Request,
        _ request: CollectiveRequest, _ times: CollectiveTimes, context: Context, tag: UInt32,
        trace: UInt64, handlers: CollectiveHandlers<Request, Reply>?, relay: ChunkRelay?
    ) {
        self.context = context
        self.procedure = procedure
        self.message = message
        self.request = request
        self.tag = tag
        self.handlers = handlers
        self.relay = relay
        groupVersion = request.isForAnyVersion ? 0 : context.group.version
        deadline = times.deadline
        information = CollectiveContext(
            request, context: context, deadline: times.answerAtWall, trace: trace,
            bulk: handlers == nil ? nil : relay?.buffer)
        machine = CollectiveMachine(
            tree: request.tree, count: request.ranks.count, root: Int(request.root),
            position: handlers == nil ? nil : Int(request.position),
            isFailFast: request.isFailFast)
        timer = context.xstream.schedule(at: Instant(nanoseconds: times.answerAt)) { [weak self] in
            self?.on(.outOfTime)
        }
    }

    deinit {
        timer?.cancel()
    }

    func begin() { perform(machine.begin()) }

    /// What became of it, once it is over.
    var outcome: (reply: Reply?, succeeded: Int, failures: CollectiveFailures) {
        (reply, machine.succeeded, machine.failures)
    }

    var isAnswered: Bool { machine.phase == .answered }

    private(set) var wasCancelled = false

    /// Nobody waits for the initiator's result any more.
    func cancel() {
        guard !isAnswered else { return }
        wasCancelled = true
        on(.cancelled)
    }

    // MARK: - Parents

    func join(_ parent: DeferredReply<CollectiveAnswer>, bulk: CollectiveBulk?) {
        if let answer {
            parent.reply(answer)
            return
        }
        parents.append(parent)
        interested += 1
        // The source that we had may be what was lost.
        if parents.count > 1, let bulk { relay?.change(to: bulk) }
        parent.request.onCancel { [weak self] in
            guard let self else { return }
            interested -= 1
            if interested == 0 { on(.cancelled) }
        }
    }

    // MARK: - The machine

    private func on(_ event: CollectiveMachine.Event) { perform(machine.on(event)) }

    private func perform(_ actions: [CollectiveMachine.Action]) {
        for action in actions {
            switch action {
            case .prepare: prepare()
            case .handle: handle()
            case .forward(let position): forward(to: position)
            case .takeOwn: take(own)
            case .aggregate(let position): take(childReplies.removeValue(forKey: position))
            case .cancelHandler:
                information.cancel()
                handlerTask?.cancel()
            case .cancelChild(let position): calls[position]?.cancel()
            case .answer: finish()
            }
        }
    }

    private func take(_ part: Reply?) {
        guard let part else { preconditionFailure("a reply that is not there") }
        if reply == nil { reply = part } else { procedure.aggregate(&reply!, part) }
    }

    private func prepare() {
        guard let hook = handlers?.preForward else {
            accept()
            return
        }
        handlerTask = context.xstream.spawnCancellable { [self] in
            do throws(RPCError) {
                try await hook(message, information)
                accept()
            } catch {
                on(.refused(error))
            }
        }
    }

    private func accept() {
        if machine.phase == .prepared { relay?.start() }
        on(.accepted)
    }

    private func handle() {
        guard let handlers else { preconditionFailure("the initiator has no handler") }
        handlerTask = context.xstream.spawnCancellable { [self] in
            do throws(RPCError) {
                try await relay?.whole()
                own = try await handlers.handle(message, information)
                information.finish()
                if !isAnswered { on(.handled) }
            } catch {
                information.finish()
                if !isAnswered { on(.handlerFailed(error)) }
            }
        }
    }

    // MARK: - Children

    private func forward(to position: Int) {
        var request = request
        request.position = UInt32(position)
        request.bulk = relay?.offer
        let child = request
        calls[position] = context.xstream.spawnCancellable { [self] in
            let result = await ask(child)
            calls[position] = nil
            if !isAnswered {
                switch result {
                case .success(let answer):
                    on(
                        .childAnswered(
                            position, succeeded: Int(answer.succeeded), failures: answer.failures))
                case .failure(let error): on(.childFailed(position, error))
                }
            }
            end()
        }
    }

    /// Calls a child. When it has succeeded anywhere, its reply is there.
    private func ask(_ child: CollectiveRequest) async -> Result<CollectiveAnswer, RPCError> {
        do throws(RPCError) {
            guard !context.isClosing else { throw .cancelled }
            context.counts.collectives.forwarded += 1
            let answer = try await context.call(
                procedure.procedure, child,
                to: .rank(child.ranks.rank(at: Int(child.position)), tag: tag),
                exposing: relay.map { [$0.handle] } ?? [],
                deadline: .at(information.deadline), trace: information.trace,
                options: CallOptions(groupVersion: groupVersion))
            if let bytes = answer.reply {
                do throws(DecodingFailure) {
                    childReplies[Int(child.position)] = try Reply(decoding: bytes)
                } catch {
                    throw .badMessage
                }
            }
            return .success(answer)
        } catch {
            return .failure(error)
        }
    }

    // MARK: - The end

    private func finish() {
        timer?.cancel()
        timer = nil
        guard let relay else {
            sendAnswer()
            return
        }
        // Nothing is read from a parent that has our answer.
        relay.stop { [self] in sendAnswer() }
    }

    private func sendAnswer() {
        defer { end() }
        guard let handlers else { return }
        let answer = CollectiveAnswer(
            succeeded: UInt32(machine.succeeded), failures: machine.failures,
            reply: machine.succeeded > 0 ? reply?.encoded() : nil)
        self.answer = answer
        context.collectives.end(
            request.id, answer, deadline: deadline, now: context.xstream.now.nanoseconds)
        for parent in parents { parent.reply(answer) }
        parents = []
        handlers.postReply?(message, information)
    }

    /// Tells the initiator when no child uses anything of it any more.
    private func end() {
        guard isAnswered, calls.isEmpty, handlers == nil else { return }
        relay?.close()
        let body = onEnd
        onEnd = nil
        body?()
    }
}

/// What a rank does with a collective procedure.
struct CollectiveHandlers<Request: Message, Reply: Message> {
    var preForward: ((Request, CollectiveContext) async throws(RPCError) -> Void)?
    var handle: (Request, CollectiveContext) async throws(RPCError) -> Reply
    var postReply: ((Request, CollectiveContext) -> Void)?
}

/// When a part of a collective has to be over.
struct CollectiveTimes {
    /// Those above give up: monotonic nanoseconds.
    var deadline: UInt64
    /// We answer by then, with what there is.
    var answerAt: UInt64
    /// The same by the wall clock.
    var answerAtWall: UInt64

    /// The most, in nanoseconds, that a rank answers before its parent gives up.
    static let marginMax: UInt64 = 100_000_000

    /// Each rank answers a little before its parent gives up, so that one silent rank does not
    /// cost the replies of all others: together, the ranks from root to leaf take an eighth of the
    /// time at most.
    init(deadline: UInt64, now: UInt64, wallOffset: UInt64, depth: Int) {
        let time = deadline > now ? deadline - now : 0
        let margin = min(CollectiveTimes.marginMax, time / (8 * UInt64(depth + 1)))
        self.init(deadline: deadline, answerAt: deadline - margin, wallOffset: wallOffset)
    }

    init(deadline: UInt64, answerAt: UInt64, wallOffset: UInt64) {
        self.deadline = deadline
        self.answerAt = answerAt
        answerAtWall = answerAt &+ wallOffset
    }
}
