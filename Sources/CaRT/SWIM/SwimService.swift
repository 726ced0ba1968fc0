internal import DrayFabric
internal import DrayRuntime
internal import Logging

/// Watches the other members of a context's group, and answers them.
///
/// The context should be its own and on an xstream of its own, so that a member whose requests are
/// stalled is not taken for dead. Every member runs the service at the same tag. Confined to the
/// context's xstream.
///
/// ```swift
/// let swim = SwimService(context: context, options: SwimOptions(), incarnation: clock.now())
/// swim.observe { event in … }
/// swim.start()
/// ```
public final class SwimService {
    /// What observers are told.
    public enum Event: Sendable, Hashable {
        /// A member is in another state.
        case changed(SwimMember)
        /// Others took us for dead, or have a group without us.
        case excluded(SwimExclusion)
    }

    /// How much the clock of a peer may be ahead of ours when it makes its incarnation.
    public static let incarnationLead: Duration = .seconds(3600)

    private let context: Context
    private let tag: UInt32
    private var machine: SwimMachine
    private let log: Logger
    private var observers: [(Event) -> Void] = []
    private var observation: Group.Observation?
    private var timer: Timer?
    private var timerAt: UInt64 = .max
    private var isRunning = false
    /// Longer than anybody waits for an answer, however wrong the clocks are.
    private let callTimeout: Duration

    /// Who waits for an answer: by rank and number of what was asked. Looked up, never iterated,
    /// but for the oldest.
    private var replies: [Question: DeferredReply<SwimMessage>] = [:]
    private var questions: [Question] = []
    private var probes: [Probe] = []
    private var isProbing = false
    private var probePause = SwimService.probePauseMin

    private struct Question: Hashable {
        let rank: UInt32
        let sequence: UInt32
    }

    /// A question to a kernel that has not been answered.
    private struct Probe {
        let rank: UInt32
        let incarnation: UInt64
        let address: FabricAddress
        let end: UInt64
    }

    /// Questions that wait for an answer at a time; the oldest is dropped.
    private static let questionsMax = 256
    /// Until kernels are asked again; longer and longer while none answers.
    private static let probePauseMin: Duration = .milliseconds(2)
    private static let probePauseMax: Duration = .milliseconds(100)

    /// A service that has not started yet.
    ///
    /// - Parameters:
    ///   - context: has a rank; must outlive the service.
    ///   - options: the same for all members; `SwimOptions.problem` must be nil.
    ///   - incarnation: larger than in every earlier life of this rank: a stamp of the clock.
    public init(context: Context, options: SwimOptions, incarnation: UInt64) {
        guard let rank = context.rank else {
            preconditionFailure("only members of a group can watch it")
        }
        self.context = context
        tag = context.options.tag
        log = context.world.log.logger(.cart)
        callTimeout = max(.seconds(10), options.suspicionTimeout * 2)
        machine = SwimMachine(
            rank: rank, incarnation: incarnation, options: options,
            entropy: context.world.entropy.fork("swim \(rank) \(context.instance)"),
            now: context.xstream.now.nanoseconds)
    }

    /// Our own incarnation.
    public var incarnation: UInt64 { machine.incarnation }

    /// The others, ascending by rank.
    public var members: [SwimMember] { machine.members }

    /// How much longer than usual we wait for others, because we doubt ourselves: 0 to 8.
    public var doubt: Int { Int(machine.doubt) }

    /// Calls `body` at every change, on the xstream. It may not wait for anything.
    public func observe(_ body: @escaping (Event) -> Void) {
        observers.append(body)
    }

    /// Answers the others, and watches them, until `stop`. Once.
    public func start() {
        precondition(observation == nil, "a SWIM service starts once")
        isRunning = true
        context.registerDeferred(SwimProtocol.exchange) { [weak self] message, reply in
            self?.received(message, reply)
        }
        observation = context.group.observe { [weak self] _ in self?.takeGroup() }
        takeGroup()
    }

    /// Ends it. Others find out that we are gone.
    public func stop() {
        guard isRunning else { return }
        isRunning = false
        if let observation { context.group.remove(observation) }
        timer?.cancel()
        timer = nil
        probes = []
        replies = [:]
        questions = []
    }

    private func takeGroup() {
        guard context.group.version > 0 else { return }
        handle(
            .group(
                version: context.group.version,
                members: context.group.members.map {
                    SwimMember(rank: $0.rank, incarnation: $0.incarnation)
                }))
    }

    // MARK: - The machine

    private func handle(_ event: SwimMachine.Event) {
        guard isRunning else { return }
        for action in machine.on(event, at: context.xstream.now.nanoseconds) {
            switch action {
            case .send(let message, let receiver): send(message, to: receiver)
            case .probe(let rank, let incarnation): probe(rank, incarnation)
            case .changed(let member): tell(.changed(member))
            case .excluded(let exclusion): tell(.excluded(exclusion))
            }
        }
        if doubt > context.counts.swim.doubt { context.counts.swim.doubts += 1 }
        context.counts.swim.doubt = doubt
        arm()
    }

    private func arm() {
        let next = machine.nextDeadline
        guard isRunning, next != timerAt || timer == nil else { return }
        timer?.cancel()
        timer = nil
        timerAt = next
        guard next != .max else { return }
        timer = context.xstream.schedule(at: Instant(nanoseconds: next)) { [weak self] in
            self?.timer = nil
            self?.handle(.time)
        }
    }

    private func tell(_ event: Event) {
        switch event {
        case .changed(let member):
            log.info("member \(member.rank) is \(member.verdict)")
            switch member.state {
            case .alive: context.counts.swim.recoveries += 1
            case .suspect: context.counts.swim.suspicions += 1
            case .dead: context.counts.swim.deaths += 1
            }
            if member.state == .dead { context.evict(rank: member.rank) }
        case .excluded(let exclusion):
            log.warning("we are excluded: \(exclusion)")
            context.counts.swim.exclusions += 1
        }
        for observer in observers { observer(event) }
    }

    // MARK: - Messages

    private func send(_ message: SwimMessage, to receiver: UInt32) {
        switch message.kind {
        case .ack, .nack, .stranger:
            let question = Question(rank: receiver, sequence: message.sequence)
            // Without one, it was dropped, or has been answered.
            guard let reply = replies.removeValue(forKey: question) else {
                context.counts.swim.messagesDropped += 1
                return
            }
            questions.removeAll { $0 == question }
            context.counts.swim.messagesSent += 1
            reply.reply(message)
        case .ping, .request, .news:
            if message.kind == .ping { context.counts.swim.pingsSent += 1 }
            if message.kind == .request { context.counts.swim.helpRequestsSent += 1 }
            context.xstream.spawn { [self] in await exchange(message, with: receiver) }
        }
    }

    private func exchange(_ message: SwimMessage, with receiver: UInt32) async {
        guard !context.faults.fails(.swimSend) else {
            context.counts.swim.messagesDropped += 1
            return
        }
        context.counts.swim.messagesSent += 1
        let begun = context.xstream.now
        let end = begun + callTimeout
        do throws(RPCError) {
            let answer = try await context.call(
                SwimProtocol.exchange, message, to: .rank(receiver, tag: tag),
                deadline: .after(callTimeout), options: CallOptions(priority: .high))
            if message.kind == .ping {
                context.times.ping.record(context.xstream.now.since(begun))
            }
            take(answer, from: receiver)
        } catch {
            context.counts.swim.messagesUnanswered += 1
            switch error {
            case .clockSkew, .unknownProcedure, .protocolVersion, .badMessage:
                // Only one that is alive refuses.
                handle(.answered(rank: receiver))
            case .timedOut:
                // One whose clock is ahead takes our deadline for past.
                if context.xstream.now < end { handle(.answered(rank: receiver)) }
            case .unreachable, .cancelled, .overloaded, .noReply, .wrongRank, .wrongTag,
                .staleGroup, .groupVersion, .peerRestarted, .application, .fabric, .closed,
                .messageTooLong:
                // Says nothing of the member, or nothing that is certain: time decides.
                break
            }
        }
    }

    /// Somebody asks, or has something to tell.
    private func received(_ message: SwimMessage, _ reply: DeferredReply<SwimMessage>) {
        guard isRunning, let sender = reply.request.sourceRank else { return }
        switch message.kind {
        case .ping, .request:
            let question = Question(rank: sender, sequence: message.sequence)
            if replies.updateValue(reply, forKey: question) == nil { questions.append(question) }
            if questions.count > SwimService.questionsMax {
                replies[questions.removeFirst()] = nil
                context.counts.swim.messagesDropped += 1
            }
        case .news, .ack, .nack, .stranger:
            // Nobody waits for what we say.
            context.counts.swim.messagesSent += 1
            reply.reply(SwimMessage())
        }
        take(message, from: sender)
    }

    /// Hands a message to the machine, without what cannot be.
    private func take(_ message: SwimMessage, from sender: UInt32) {
        context.counts.swim.messagesReceived += 1
        if message.kind == .ack { context.counts.swim.acksReceived += 1 }
        let latest =
            context.world.clock.wallNanoseconds
            &+ SwimService.incarnationLead.nanosecondsClamped
        guard message.incarnation <= latest else {
            handle(.answered(rank: sender))
            return
        }
        var message = message
        message.updates.removeAll { $0.incarnation > latest }
        handle(.received(message, from: sender))
    }

    // MARK: - Ports

    private func probe(_ rank: UInt32, _ incarnation: UInt64) {
        guard let address = context.group.address(rank: rank, tag: tag),
            !probes.contains(where: { $0.rank == rank })
        else { return }
        // A machine that is gone does not answer at all.
        let end = context.xstream.now + callTimeout
        probes.append(
            Probe(rank: rank, incarnation: incarnation, address: address, end: end.nanoseconds))
        probePause = SwimService.probePauseMin
        if !isProbing { look() }
    }

    /// Asks for the answers of kernels, again and again while some are missing.
    private func look() {
        isProbing = true
        let now = context.xstream.now
        var open: [Probe] = []
        var answers: [SwimMachine.Event] = []
        for probe in probes {
            switch context.endpoint.listening(at: probe.address) {
            case .accepted: answers.append(.accepted(rank: probe.rank))
            case .refused:
                answers.append(.refused(rank: probe.rank, incarnation: probe.incarnation))
            case .unknown: if now.nanoseconds < probe.end { open.append(probe) }
            }
        }
        probes = open
        // What comes of them may ask for more.
        for answer in answers { handle(answer) }
        guard !probes.isEmpty, isRunning else {
            isProbing = false
            return
        }
        probePause = min(probePause * 2, SwimService.probePauseMax)
        context.xstream.schedule(at: now + probePause) { [weak self] in
            guard let self, self.isRunning else { return }
            self.look()
        }
    }
}
