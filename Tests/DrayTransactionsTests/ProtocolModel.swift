import DrayTransactions

/// One transaction: a leader (process 0) and its members run the machines against each other.
///
/// A step is whatever can happen next: a message arrives, a write ends, somebody gives up waiting,
/// a process dies and starts again. Messages arrive in any order; one that is not delivered is
/// lost. What is on stable storage survives a process, nothing else does. The shell around the
/// machines does what `TransactionService` and `VOS` do.
struct ProtocolModel: Sendable {
    let rules: Rules
    var leader: Leader
    /// Member 1 first.
    var members: [Member]
    /// Messages under way, a bit each: `Message`.
    var network: UInt64 = 0
    /// Answers to queries under way.
    var answers: UInt64 = 0
    var client = Client.waiting
    var crashesLeft: Int
    /// Somebody has made it visible.
    var isCommittedSomewhere = false
    /// Somebody is bound never to.
    var isAbortedSomewhere = false
    /// A member was told the opposite of what it knows.
    var isContradicted = false
    /// The attempts that somebody has made visible, a bit each.
    var committedAttempts: UInt8 = 0

    init(_ rules: Rules) {
        self.rules = rules
        leader = Leader(count: rules.count)
        members = Array(repeating: Member(), count: rules.count - 1)
        crashesLeft = rules.crashes
        for member in 1..<rules.count { send(.prepare, member) }
    }

    var count: Int { rules.count }

    // MARK: - Messages

    mutating func send(_ kind: Message, _ member: Int) {
        network |= ProtocolModel.bit(kind, member)
    }

    static func bit(_ kind: Message, _ member: Int, about: Int = 0) -> UInt64 {
        1 << UInt64(Int(kind.rawValue) * 4 + about * 4 + member)
    }

    /// The bits of a query, and of the first of its answers, by who asks and who is asked.
    static func query(_ from: Int, _ to: Int) -> UInt64 { bit(.query, to, about: from) }

    static func answer(_ from: Int, _ to: Int, _ answer: ResolutionMachine.Answer) -> UInt64 {
        1 << UInt64((to * 4 + from) * 4 + Int(answer.rawValue) - 1)
    }

    /// All answers to `process`.
    static func answers(to process: Int) -> UInt64 { 0xffff << UInt64(process * 16) }

    // MARK: - What is known

    /// What a process says when it is asked.
    var leaderKnows: ResolutionMachine.Answer {
        if leader.pending == .abort { return .undecided }
        if rules.tellsWhenDurable, leader.pending == .commit, leader.durable == .prepared {
            return .undecided
        }
        if let machine = leader.machine {
            switch machine.state {
            case .preparing, .failing, .aborting: return .undecided
            case .aborted: return .aborted
            case .committed: return .committed
            case .completed: return leader.hasForgotten ? .aborted : .committed
            }
        }
        switch leader.durable {
        case .prepared: return .undecided
        case .committed, .completed: return leader.hasForgotten ? .aborted : .committed
        case .nothing, .aborted: return .aborted
        }
    }

    /// Nobody may ever see both.
    var isSafe: Bool {
        if isContradicted || isCommittedSomewhere && isAbortedSomewhere { return false }
        // Attempts have epochs of their own: replicas that take different ones differ.
        if committedAttempts.nonzeroBitCount > 1 { return false }
        switch client {
        case .waiting, .unknown: return true
        case .committed: return !isAbortedSomewhere
        case .aborted: return !isCommittedSomewhere
        }
    }

    /// Everybody knows, or has nothing of it, and nothing is left to be done.
    var isOver: Bool {
        guard network == 0, answers == 0, leader.pending == .nothing else { return false }
        if let machine = leader.machine {
            guard machine.state == .aborted || machine.state == .completed else { return false }
        } else if leader.durable == .prepared {
            return false
        }
        return members.allSatisfy { member in
            guard member.pending == .nothing else { return false }
            switch member.machine.state {
            case .preparing, .doomed, .prepared: return false
            case .unknown, .committed, .aborted: return true
            }
        }
    }
}

extension ProtocolModel {
    /// How many there are, how much may go wrong, and which rules they break.
    struct Rules: Sendable {
        var count = 3
        var crashes = 1
        /// Members may forget what was decided long ago, and then know nothing of anything so old.
        var forgets = false
        /// The leader tells members of a commit only when it has it on stable storage itself. Then
        /// a restarted leader that asks has told nobody, and who has forgotten can deny.
        var tellsWhenDurable = false
        /// The client, whom a leader that was restarted did not answer, sends the transaction
        /// again; the leader has nothing of it, and begins it at another epoch, or has prepared it,
        /// and forwards it. That it asks without a promise before is to nobody's harm: who has
        /// nothing might as well be silent.
        var resends = false
        var flaws: Set<Flaw> = []

        func has(_ flaw: Flaw) -> Bool { flaws.contains(flaw) }
    }

    /// What somebody might get wrong.
    enum Flaw: CaseIterable, Sendable {
        /// The leader commits when it has prepared itself.
        case commitsBeforeAllArePrepared
        /// Who has nothing of a transaction says so, and may prepare it later all the same.
        case unknownDoesNotRefuse
        /// A restarted leader takes who is about to prepare for prepared.
        case undecidedCountsAsPrepared
        /// A member aborts when the leader is silent and all others are prepared.
        case silenceMeansAbort
        /// The leader forgets a commit when the first member knows of it.
        case forgetsBeforeAllKnow
        /// The client hears of an abort that is not on stable storage.
        case repliesBeforeAbortIsDurable
        /// A member acknowledges a commit that is not on stable storage.
        case acknowledgesBeforeCommitIsDurable
        /// The second who asks hears of a refusal that is not on stable storage.
        case answersBeforeRefusalIsDurable
        /// Who has forgotten a transaction says that it was aborted.
        case forgottenMeansAborted
        /// A leader whose device fails tells that it is aborted, and may find it prepared later.
        case tellsBeforeItsFailureIsDurable
        /// Who has prepared another attempt of a transaction says that it is prepared.
        case takesOneAttemptForAnother
        /// A leader that forwards a transaction aborts it when a member does not answer, as it may
        /// the first time.
        case silenceMeansRefusal
    }

    enum Message: UInt8, CaseIterable {
        // By member.
        case prepare = 0
        case prepareSucceeded = 1
        case prepareFailed = 2
        case commit = 3
        case abort = 4
        case acknowledge = 5
        // By who asks and who is asked: four rows.
        case query = 6
        // By member.
        case forward = 10
    }

    enum Client: UInt8 {
        case waiting
        case committed
        case aborted
        /// The leader's device failed: told that the next start will tell.
        case unknown
    }

    /// What is on stable storage.
    enum Durable: UInt8 {
        case nothing
        case prepared
        case aborted
        case committed
        case completed
    }

    /// What is on its way there.
    enum Pending: UInt8 {
        case nothing
        case commit
        case abort
        /// The abort of what never was prepared.
        case refusal
    }

    struct Leader: Sendable {
        /// Nil after a restart, unless it found a commit.
        var machine: LeaderMachine?
        var resolution: ResolutionMachine?
        var durable = Durable.nothing
        var pending = Pending.nothing
        var isPreparing = true
        /// Its device has failed: nothing gets to stable storage before the next start.
        var isBroken = false
        var hasForgotten = false
        /// 2 after a resend.
        var attempt: UInt8 = 1
        /// Its question to the others is the transaction itself.
        var isForwarding = false
        var hasForwarded = false

        init(count: Int) {
            machine = LeaderMachine(count: count)
        }

        var needsResolution: Bool {
            machine == nil && durable == .prepared && pending == .nothing
        }
    }

    struct Member: Sendable {
        var machine = ParticipantMachine()
        var resolution: ResolutionMachine?
        var durable = Durable.nothing
        var pending = Pending.nothing
        var owesAcknowledgement = false
        /// Who waits for the word that it is refused, a bit each.
        var owesAnswers: UInt8 = 0
        var isBroken = false
        var hasForgotten = false
        /// The attempt that it prepares, or has prepared.
        var attempt: UInt8 = 0
        /// What it prepares was forwarded: the leader wants to know what became of it.
        var isForwarded = false
    }
}

// MARK: - Steps

extension ProtocolModel {
    enum Step: Hashable, Sendable {
        case deliver(Message, Int)
        case ask(from: Int, to: Int)
        case answer(from: Int, to: Int, ResolutionMachine.Answer)
        /// The process's own prepare ended.
        case prepared(Int)
        case failed(Int)
        /// The device failed during the prepare, which will be there after the next start.
        case broke(Int)
        /// What is on its way to stable storage is there.
        case flushed(Int)
        case expired
        case tellAgain(Int)
        case resolve(Int)
        case silent(of: Int, by: Int)
        /// Died, and started again; what was under way to stable storage got there, or not.
        case restarted(Int, wasWritten: Bool)
        case forgot(Int)
        case resent
        case forwarded
    }

    /// All that can happen next.
    var steps: [Step] {
        var steps = quickSteps
        for process in 0..<count {
            if canForget(process) { steps.append(.forgot(process)) }
            if isBroken(process) { steps.append(.restarted(process, wasWritten: false)) }
            if isPreparing(process) { steps.append(.failed(process)) }
            guard crashesLeft > 0, !isBroken(process) else { continue }
            steps.append(.restarted(process, wasWritten: false))
            if isWriting(process) { steps.append(.restarted(process, wasWritten: true)) }
            if isPreparing(process) { steps.append(.broke(process)) }
        }
        if canResend { steps.append(.resent) }
        if canForward { steps.append(.forwarded) }
        steps += slowSteps
        return steps
    }

    private var canResend: Bool {
        rules.resends && client == .unknown && leader.attempt == 1 && leader.machine == nil
            && !leader.isBroken && leader.durable == .nothing && leader.pending == .nothing
    }

    /// The client may have missed the answer of the process before.
    private var canForward: Bool {
        rules.resends && client != .aborted && !leader.isBroken && leader.needsResolution
            && !leader.hasForwarded
    }

    /// What happens by itself while nobody dies or gives up.
    var quickSteps: [Step] {
        var steps: [Step] = []
        if network != 0 {
            for kind in Message.allCases where kind != .query {
                for member in 1..<count where network & ProtocolModel.bit(kind, member) != 0 {
                    steps.append(.deliver(kind, member))
                }
            }
            for from in 0..<count {
                for to in 0..<count where network & ProtocolModel.query(from, to) != 0 {
                    steps.append(.ask(from: from, to: to))
                }
            }
        }
        if answers != 0 {
            for to in 0..<count where answers & ProtocolModel.answers(to: to) != 0 {
                for from in 0..<count {
                    for answer in ResolutionMachine.Answer.allCases
                    where answers & ProtocolModel.answer(from, to, answer) != 0 {
                        steps.append(.answer(from: from, to: to, answer))
                    }
                }
            }
        }
        for process in 0..<count {
            if isPreparing(process) { steps.append(.prepared(process)) }
            if isFlushing(process) { steps.append(.flushed(process)) }
        }
        return steps
    }

    /// What somebody does after a while.
    var slowSteps: [Step] {
        var steps: [Step] = []
        switch leader.machine?.state {
        case .preparing: steps.append(.expired)
        case .committed(let missing) where !rules.tellsWhenDurable || leader.pending == .nothing:
            for member in 1..<count
            where missing.contains(member) && network & ProtocolModel.bit(.commit, member) == 0 {
                steps.append(.tellAgain(member))
            }
        case .committed, .failing, .aborting, .aborted, .completed, nil: break
        }
        for process in 0..<count {
            if needsResolution(process) { steps.append(.resolve(process)) }
            for other in 0..<count where isAsking(process, other) {
                steps.append(.silent(of: other, by: process))
            }
        }
        return steps
    }

    func isPreparing(_ process: Int) -> Bool {
        guard process > 0 else { return leader.isPreparing }
        switch members[process - 1].machine.state {
        case .preparing, .doomed: return true
        case .unknown, .prepared, .committed, .aborted: return false
        }
    }

    func isFlushing(_ process: Int) -> Bool {
        let pending = process == 0 ? leader.pending : members[process - 1].pending
        return pending != .nothing && !isBroken(process)
    }

    func isBroken(_ process: Int) -> Bool {
        process == 0 ? leader.isBroken : members[process - 1].isBroken
    }

    private func isWriting(_ process: Int) -> Bool { isPreparing(process) || isFlushing(process) }

    private func needsResolution(_ process: Int) -> Bool {
        guard process > 0 else { return leader.needsResolution && leader.resolution == nil }
        let member = members[process - 1]
        return member.machine.state == .prepared && member.resolution == nil
    }

    /// Whether `process` waits for the answer of `other`.
    func isAsking(_ process: Int, _ other: Int) -> Bool {
        let resolution = process == 0 ? leader.resolution : members[process - 1].resolution
        switch resolution?.state {
        case .askingLeader: return other == 0
        case .askingOthers(let missing, _): return missing.contains(other)
        case .committed, .aborted, .blocked, nil: return false
        }
    }

    private func canForget(_ process: Int) -> Bool {
        guard rules.forgets else { return false }
        if process == 0 {
            return !leader.hasForgotten && leader.pending == .nothing
                && leader.durable == .completed
        }
        let member = members[process - 1]
        guard !member.hasForgotten, member.pending == .nothing else { return false }
        return switch member.machine.state {
        case .preparing, .doomed, .prepared: false
        case .unknown, .committed, .aborted: true
        }
    }
}
