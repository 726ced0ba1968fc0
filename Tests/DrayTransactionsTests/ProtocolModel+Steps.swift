import DrayTransactions

/// What the processes do: the shell around the machines.
extension ProtocolModel {
    mutating func take(_ step: Step) {
        switch step {
        case .deliver(let kind, let member):
            network &= ~ProtocolModel.bit(kind, member)
            deliver(kind, member)
        case .ask(let from, let to):
            network &= ~ProtocolModel.query(from, to)
            asked(by: from, to)
        case .answer(let from, let to, let answer):
            answers &= ~ProtocolModel.answer(from, to, answer)
            resolve(to, .answered(from, answer))
        case .silent(let other, let process): resolve(process, .silent(other))
        case .prepared(0):
            leader.isPreparing = false
            leader.durable = .prepared
            leaderHears(.prepared(0))
            if rules.has(.commitsBeforeAllArePrepared) {
                for member in 1..<count { leaderHears(.prepared(member)) }
            }
        case .prepared(let member): didPrepare(member)
        case .failed(0):
            leader.isPreparing = false
            leaderHears(.failed(0))
        case .failed(let member): didFail(member)
        case .broke(let process): broke(process)
        case .flushed(let process): flush(process, replies: true)
        case .expired: leaderHears(.expired)
        case .tellAgain(let member): send(.commit, member)
        case .resolve(let process): startResolution(process)
        case .restarted(let process, let wasWritten): restart(process, wasWritten: wasWritten)
        case .forgot(0): leader.hasForgotten = true
        case .forgot(let member):
            members[member - 1].hasForgotten = true
            members[member - 1].machine = ParticipantMachine(.unknown)
        case .resent: resend()
        case .forwarded: forward()
        }
    }

    /// The leader asks by what it got again.
    private mutating func forward() {
        leader.hasForwarded = true
        startResolution(0)
        leader.isForwarding = true
        for member in 1..<count {
            network &= ~ProtocolModel.query(0, member)
            send(.forward, member)
        }
        if client == .unknown { client = .waiting }
    }

    /// What the process before has sent or was to hear is lost.
    private mutating func resend() {
        for member in 1..<count {
            for kind in [Message.prepare, .prepareSucceeded, .prepareFailed] {
                network &= ~ProtocolModel.bit(kind, member)
            }
        }
        leader = Leader(count: count)
        leader.attempt = 2
        client = .waiting
        for member in 1..<count { send(.prepare, member) }
    }

    /// An attempt has become visible somewhere.
    private mutating func commit(attempt: UInt8) {
        isCommittedSomewhere = true
        committedAttempts |= 1 << attempt
    }

    // MARK: - Leader

    private mutating func leaderHears(_ event: LeaderMachine.Event) {
        for action in leader.machine?.on(event) ?? [] {
            switch action {
            case .commit:
                commit(attempt: leader.attempt)
                client = .committed
                leader.pending = .commit
            case .abort:
                leader.pending = .abort
                if rules.has(.repliesBeforeAbortIsDurable) { client = .aborted }
            case .replyAborted:
                client = .aborted
                isAbortedSomewhere = true
            case .tellCommitted: if !rules.tellsWhenDurable { tellCommitted() }
            case .tellAborted: for member in 1..<count { send(.abort, member) }
            case .complete: leader.pending = .commit
            }
        }
    }

    private mutating func tellCommitted() {
        for member in 1..<count { send(.commit, member) }
    }

    private mutating func flushLeader(replies: Bool) {
        switch leader.pending {
        case .nothing, .refusal: return
        case .commit:
            leader.durable = leader.machine?.state == .completed ? .completed : .committed
            leader.pending = .nothing
            if replies, rules.tellsWhenDurable, leader.durable == .committed { tellCommitted() }
        case .abort:
            leader.durable = .aborted
            leader.pending = .nothing
            isAbortedSomewhere = true
            guard replies else { return }
            if leader.machine != nil {
                leaderHears(.abortIsDurable)
            } else {
                if client == .waiting { client = .aborted }
                for member in 1..<count { send(.abort, member) }
            }
        }
    }

    // MARK: - Members

    private mutating func deliver(_ kind: Message, _ member: Int) {
        switch kind {
        case .prepare: prepare(member)
        case .prepareSucceeded: leaderHears(.prepared(member))
        case .prepareFailed: leaderHears(.failed(member))
        case .commit: committed(member)
        case .abort: aborted(member)
        case .acknowledge:
            leaderHears(.acknowledged(member))
            if rules.has(.forgetsBeforeAllKnow) {
                for member in 1..<count { leaderHears(.acknowledged(member)) }
            }
        case .query: preconditionFailure("queries are delivered by themselves")
        case .forward: forwarded(member)
        }
    }

    /// A member gets the transaction with the leader's question.
    private mutating func forwarded(_ member: Int) {
        let isNew =
            !members[member - 1].hasForgotten
            && members[member - 1].machine.on(.forward).first == .startPrepare
        guard isNew else {
            asked(by: 0, member)
            return
        }
        members[member - 1].attempt = leader.attempt
        members[member - 1].isForwarded = true
    }

    private mutating func prepare(_ member: Int) {
        if members[member - 1].hasForgotten {
            send(.prepareFailed, member)
            return
        }
        switch members[member - 1].machine.on(.prepare).first {
        case .startPrepare: members[member - 1].attempt = leader.attempt
        case .replyPrepared where holds(member, leader.attempt): send(.prepareSucceeded, member)
        default: send(.prepareFailed, member)
        }
    }

    /// Whether what a member has prepared is a certain attempt.
    private func holds(_ member: Int, _ attempt: UInt8) -> Bool {
        members[member - 1].attempt == attempt || rules.has(.takesOneAttemptForAnother)
    }

    private mutating func didPrepare(_ member: Int) {
        members[member - 1].durable = .prepared
        for action in members[member - 1].machine.on(.didPrepare) {
            switch action {
            case .replyPrepared: answerPrepare(.prepareSucceeded, member)
            case .abort: members[member - 1].pending = .abort
            default: answerPrepare(.prepareFailed, member)
            }
        }
    }

    /// Answers the leader who asked, if that is the one there is. That it is refused must be on
    /// stable storage before, when it was forwarded.
    private mutating func answerPrepare(_ kind: Message, _ member: Int) {
        if members[member - 1].isForwarded {
            members[member - 1].isForwarded = false
            if kind == .prepareSucceeded {
                answers |= ProtocolModel.answer(member, 0, .prepared)
            } else {
                members[member - 1].owesAnswers |= 1
            }
        } else if members[member - 1].attempt == leader.attempt {
            send(kind, member)
        }
    }

    private mutating func committed(_ member: Int) {
        if members[member - 1].hasForgotten, members[member - 1].durable != .committed {
            isContradicted = true
        }
        for action in members[member - 1].machine.on(.commit) {
            switch action {
            case .commit:
                commit(attempt: members[member - 1].attempt)
                members[member - 1].pending = .commit
                members[member - 1].resolution = nil
            case .acknowledge:
                if members[member - 1].pending == .commit,
                    !rules.has(.acknowledgesBeforeCommitIsDurable)
                {
                    members[member - 1].owesAcknowledgement = true
                } else {
                    send(.acknowledge, member)
                }
            default: isContradicted = true
            }
        }
    }

    private mutating func aborted(_ member: Int) {
        for action in members[member - 1].machine.on(.abort) {
            switch action {
            case .abort:
                isAbortedSomewhere = true
                members[member - 1].pending = .abort
                members[member - 1].resolution = nil
            case .refuse:
                if members[member - 1].durable == .committed { isContradicted = true }
                members[member - 1].pending = .refusal
            case .acknowledge: break
            default: isContradicted = true
            }
        }
    }

    private mutating func flushMember(_ member: Int, replies: Bool) {
        let place = member - 1
        switch members[place].pending {
        case .nothing: return
        case .commit: members[place].durable = .committed
        case .abort, .refusal:
            members[place].durable = .aborted
            isAbortedSomewhere = true
        }
        members[place].pending = .nothing
        guard replies else { return }
        if members[place].owesAcknowledgement { send(.acknowledge, member) }
        members[place].owesAcknowledgement = false
        for asker in 0..<count where members[place].owesAnswers & 1 << UInt8(asker) != 0 {
            answers |= ProtocolModel.answer(member, asker, .aborted)
        }
        members[place].owesAnswers = 0
    }

    private mutating func flush(_ process: Int, replies: Bool) {
        if process == 0 {
            flushLeader(replies: replies)
        } else {
            flushMember(process, replies: replies)
        }
    }

    // MARK: - Queries

    private mutating func asked(by asker: Int, _ process: Int) {
        guard process > 0 else {
            answers |= ProtocolModel.answer(0, asker, leaderKnows)
            return
        }
        let place = process - 1
        if members[place].hasForgotten {
            let denies =
                rules.has(.forgottenMeansAborted) || rules.tellsWhenDurable && asker == 0
            answers |= ProtocolModel.answer(process, asker, denies ? .aborted : .undecided)
            return
        }
        if members[place].machine.state == .unknown, rules.has(.unknownDoesNotRefuse) {
            answers |= ProtocolModel.answer(process, asker, .aborted)
            return
        }
        let isFirst = members[place].machine.on(.query).first == .refuse
        if isFirst { members[place].pending = .refusal }
        let says: ResolutionMachine.Answer
        switch members[place].machine.state {
        case .unknown: preconditionFailure("who is asked is not innocent any more")
        case .preparing, .doomed: says = .undecided
        case .prepared:
            let attempt = asker == 0 ? leader.attempt : members[asker - 1].attempt
            says = holds(process, attempt) ? .prepared : .aborted
        case .committed: says = .committed
        case .aborted:
            if members[place].pending == .refusal,
                isFirst || !rules.has(.answersBeforeRefusalIsDurable)
            {
                members[place].owesAnswers |= 1 << UInt8(asker)
                return
            }
            says = members[place].pending == .abort ? .undecided : .aborted
        }
        answers |= ProtocolModel.answer(process, asker, says)
    }

    // MARK: - Resolution

    private mutating func startResolution(_ process: Int) {
        answers &= ~ProtocolModel.answers(to: process)
        var machine = ResolutionMachine(own: process, count: count)
        let actions = machine.start()
        set(process, machine)
        perform(actions, of: process, after: machine.state)
    }

    private mutating func set(_ process: Int, _ machine: ResolutionMachine?) {
        if process == 0 {
            leader.resolution = machine
        } else {
            members[process - 1].resolution = machine
        }
        guard machine == nil else { return }
        answers &= ~ProtocolModel.answers(to: process)
        if process == 0 { leader.isForwarding = false }
    }

    private mutating func resolve(_ process: Int, _ event: ResolutionMachine.Event) {
        let resolution = process == 0 ? leader.resolution : members[process - 1].resolution
        guard var machine = resolution else { return }
        let before = machine.state
        var event = event
        if process == 0, case .answered(let member, .undecided) = event,
            rules.has(.undecidedCountsAsPrepared)
        {
            event = .answered(member, .prepared)
        }
        if process == 0, leader.isForwarding, case .silent(let member) = event,
            rules.has(.silenceMeansRefusal)
        {
            event = .answered(member, .aborted)
        }
        let actions = machine.on(event)
        set(process, machine)
        perform(actions, of: process, after: before)
    }

    private mutating func perform(
        _ actions: [ResolutionMachine.Action], of process: Int, after state: ResolutionMachine.State
    ) {
        for action in actions {
            switch action {
            case .ask(let others):
                for other in others { network |= ProtocolModel.query(process, other) }
            case .commit:
                set(process, nil)
                didFindCommit(process)
            case .abort:
                set(process, nil)
                didFindAbort(process)
            case .wait:
                set(process, nil)
                if process == 0, client == .waiting { client = .unknown }
                if process > 0, case .askingOthers = state, rules.has(.silenceMeansAbort) {
                    didFindAbort(process)
                }
            }
        }
    }

    private mutating func didFindCommit(_ process: Int) {
        guard process > 0 else {
            commit(attempt: leader.attempt)
            leader.pending = .commit
            if client == .waiting { client = .committed }
            leader.machine = LeaderMachine(committedBy: count)
            if !rules.tellsWhenDurable { tellCommitted() }
            return
        }
        guard members[process - 1].machine.state == .prepared else { return }
        _ = members[process - 1].machine.on(.commit)
        commit(attempt: members[process - 1].attempt)
        members[process - 1].pending = .commit
    }

    private mutating func didFindAbort(_ process: Int) {
        guard process > 0 else {
            leader.pending = .abort
            return
        }
        guard members[process - 1].machine.state == .prepared else { return }
        _ = members[process - 1].machine.on(.abort)
        isAbortedSomewhere = true
        members[process - 1].pending = .abort
    }

    // MARK: - Failures

    /// The device fails a prepare, whose record is there all the same after the next start.
    private mutating func broke(_ process: Int) {
        crashesLeft -= 1
        guard process > 0 else {
            leader.isPreparing = false
            leader.isBroken = true
            leader.durable = .prepared
            // The client is not told that nothing happened: that is for the next start to say.
            client = .unknown
            guard rules.has(.tellsBeforeItsFailureIsDurable) else { return }
            for member in 1..<count { send(.abort, member) }
            return
        }
        members[process - 1].isBroken = true
        members[process - 1].durable = .prepared
        didFail(process)
    }

    private mutating func didFail(_ member: Int) {
        _ = members[member - 1].machine.on(.didFail)
        members[member - 1].pending = .refusal
        answerPrepare(.prepareFailed, member)
    }

    private mutating func restart(_ process: Int, wasWritten: Bool) {
        if !isBroken(process) { crashesLeft -= 1 }
        if wasWritten {
            if isPreparing(process) {
                if process == 0 {
                    leader.durable = .prepared
                } else {
                    members[process - 1].durable = .prepared
                }
            }
            flush(process, replies: false)
        }
        set(process, nil)
        guard process > 0 else {
            restartLeader()
            return
        }
        var next = Member()
        next.durable = members[process - 1].durable
        next.hasForgotten = members[process - 1].hasForgotten
        next.attempt = members[process - 1].attempt
        if !next.hasForgotten {
            switch next.durable {
            case .nothing: break
            case .prepared: next.machine = ParticipantMachine(.prepared)
            case .aborted: next.machine = ParticipantMachine(.aborted)
            case .committed, .completed: next.machine = ParticipantMachine(.committed)
            }
        }
        members[process - 1] = next
    }

    private mutating func restartLeader() {
        leader.machine = nil
        leader.isPreparing = false
        leader.isBroken = false
        leader.pending = .nothing
        if client == .waiting { client = .unknown }
        if leader.durable == .committed {
            leader.machine = LeaderMachine(committedBy: count)
            tellCommitted()
        }
    }
}
