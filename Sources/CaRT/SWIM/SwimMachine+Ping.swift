internal import DrayRuntime

/// Pings and their answers.
extension SwimMachine {
    // MARK: - Periods

    /// The ping before has had its time; another member's turn.
    mutating func beginPeriod() {
        if probe != nil { fail() }
        periods += 1
        nextPeriod = now + doubted(times.period)
        if let target = nextTarget() {
            sequence &+= 1
            probe = Probe(
                target: target, sequence: sequence, helpAt: now + doubted(times.pingTimeout))
            send(.ping, sequence, to: target)
        }
        if periods % SwimMachine.deadPingPeriods == 0 { pingDead() }
    }

    /// The next who is not dead. Everybody has a turn in each round, in a new order.
    private mutating func nextTarget() -> UInt32? {
        for _ in 0..<(order.count + 1) {
            if position >= order.count {
                order.shuffle(using: &entropy)
                position = 0
            }
            guard position < order.count else { return nil }
            let rank = order[position]
            position += 1
            if let member = member(rank), member.state != .dead { return rank }
        }
        return nil
    }

    /// Nobody pings the dead in their turn; but both sides of a parted network take each other for
    /// dead.
    private mutating func pingDead() {
        for _ in unwell.indices {
            deadPinged += 1
            let rank = unwell[deadPinged % unwell.count]
            guard member(rank)?.state == .dead else { continue }
            sequence &+= 1
            send(.ping, sequence, to: rank)
            return
        }
    }

    // MARK: - How a ping ends

    /// No answer so far: it may be late or lost, the way there may be bad, or nobody is there.
    mutating func askHelpers() {
        guard let probe, let target = member(probe.target) else { return }
        self.probe?.helpAt = .max
        send(.ping, probe.sequence, to: probe.target)
        let helpers = draw(options.helperCount, but: probe.target)
        self.probe?.helpers = helpers
        for helper in helpers { send(.request, probe.sequence, target: probe.target, to: helper) }
        actions.append(.probe(rank: target.rank, incarnation: target.incarnation))
    }

    /// The one that was pinged is alive.
    mutating func succeed() {
        probe = nil
        if doubt > 0 { doubt -= 1 }
    }

    /// Nobody had an answer within the period. When helpers were silent too, it may be us.
    private mutating func fail() {
        guard let probe else { return }
        self.probe = nil
        if probe.nacks < probe.helpers.count || (probe.helpers.isEmpty && !probe.isListening) {
            raiseDoubt()
        }
        guard let member = member(probe.target), member.state == .alive else { return }
        apply(
            SwimMember(rank: member.rank, incarnation: member.incarnation, verdict: .suspect))
    }

    /// Nobody listens at the port of a member.
    mutating func refused(_ rank: UInt32, _ incarnation: UInt64) {
        // It may be back since.
        guard let member = member(rank), member.incarnation == incarnation else { return }
        if probe?.target == rank { probe = nil }
        apply(SwimMember(rank: rank, incarnation: incarnation, verdict: .gone))
    }

    // MARK: - Help

    /// Pings a member for another one.
    private mutating func relay(_ message: SwimMessage, from requester: UInt32) {
        guard message.target != rank else {
            // A mistake, or who asks has an odd idea of us. We are alive.
            send(.ack, message.sequence, to: requester)
            return
        }
        guard index(of: message.target) != nil, message.target != requester,
            relays.count < SwimMachine.relaysMax
        else { return }
        sequence &+= 1
        relays.append(
            Relay(
                requester: requester, requesterSequence: message.sequence, target: message.target,
                sequence: sequence, deadline: now + times.relayTimeout))
        send(.ping, sequence, to: message.target)
    }

    /// Says "no" for those who have not answered.
    mutating func endRelays() {
        guard relays.contains(where: { $0.deadline <= now }) else { return }
        let due = relays.filter { $0.deadline <= now }
        relays.removeAll { $0.deadline <= now }
        for relay in due { send(.nack, relay.requesterSequence, to: relay.requester) }
    }

    // MARK: - Messages

    mutating func received(_ message: SwimMessage, from sender: UInt32) {
        guard isMember else {
            // Nobody should ask; who does has an older group.
            return
        }
        guard let known = member(sender), message.incarnation < SwimMember.incarnationMax else {
            if sender != rank, message.kind == .ping || message.kind == .request {
                sendStranger(message.sequence, to: sender)
            }
            return
        }
        lastContact = now
        apply(SwimMember(rank: sender, incarnation: message.incarnation))
        if known.state == .dead, message.incarnation > known.incarnation {
            // It may not have heard that it was, when it was stopped.
            obituaries.removeAll { $0.member.rank == sender }
            obituaries.append(Obituary(member: known))
            send(.news, 0, to: sender)
        }
        for update in message.updates.prefix(SwimMessage.updatesMax) { heard(update) }
        switch message.kind {
        case .ping: send(.ack, message.sequence, to: sender)
        case .request: relay(message, from: sender)
        case .ack: acknowledged(message.sequence, by: sender)
        case .nack:
            guard let probe, probe.sequence == message.sequence, probe.helpers.contains(sender),
                probe.nacks < probe.helpers.count
            else { return }
            self.probe?.nacks += 1
        case .news: break
        case .stranger:
            acknowledged(message.sequence, by: sender)
            guard message.version > version else { return }
            actions.append(.excluded(.removed(version: message.version)))
        }
    }

    private mutating func acknowledged(_ sequence: UInt32, by sender: UInt32) {
        if let probe, probe.sequence == sequence,
            probe.target == sender || probe.helpers.contains(sender)
        {
            succeed()
        }
        guard let index = relays.firstIndex(where: { $0.sequence == sequence }),
            relays[index].target == sender
        else { return }
        let relay = relays.remove(at: index)
        send(.ack, relay.requesterSequence, to: relay.requester)
    }

    // MARK: - Sending

    /// Sends a message, with what there is to tell.
    mutating func send(
        _ kind: SwimMessage.Kind, _ sequence: UInt32, target: UInt32 = 0, to receiver: UInt32
    ) {
        var message = SwimMessage()
        message.kind = kind
        message.sequence = sequence
        message.target = target
        message.incarnation = incarnation
        message.version = version
        // First what is said of the receiver itself, so that it can contradict.
        if let obituary = takeObituary(of: receiver) {
            message.updates.append(obituary)
        } else if let member = member(receiver), member.state != .alive {
            message.updates.append(member)
        }
        gossip.take(into: &message.updates, for: receiver, tellingsMax: tellingsMax)
        addUnwell(to: &message, for: receiver)
        actions.append(.send(message, to: receiver))
    }

    /// What was thought of a member that is back, if it is to be told.
    private mutating func takeObituary(of rank: UInt32) -> SwimMember? {
        guard let index = obituaries.firstIndex(where: { $0.member.rank == rank }) else {
            return nil
        }
        obituaries[index].tellings += 1
        let obituary = obituaries[index]
        if obituary.tellings == Obituary.tellingsMax { obituaries.remove(at: index) }
        return obituary.member
    }

    /// To somebody who is not in our group: nothing but that.
    private mutating func sendStranger(_ sequence: UInt32, to receiver: UInt32) {
        var message = SwimMessage()
        message.kind = .stranger
        message.sequence = sequence
        message.incarnation = incarnation
        message.version = version
        actions.append(.send(message, to: receiver))
    }

    /// Where there is room, those who are not alive are told in turn, for whoever has missed it.
    private mutating func addUnwell(to message: inout SwimMessage, for receiver: UInt32) {
        guard !unwell.isEmpty, message.updates.count < SwimMessage.updatesMax else { return }
        unwellTold += 1
        let rank = unwell[unwellTold % unwell.count]
        guard rank != receiver, !message.updates.contains(where: { $0.rank == rank }),
            let member = member(rank)
        else { return }
        message.updates.append(member)
    }

    /// How often each update is told: grows with the logarithm of the group's size.
    private var tellingsMax: Int {
        SwimMachine.tellingsPerBit * (Int.bitWidth - (members.count + 1).leadingZeroBitCount)
    }

    /// Tells some others at once what there is to tell.
    mutating func tellNews() {
        hasNews = false
        newsAllowed = now + times.newsPause
        for receiver in draw(options.newsCount, but: rank) { send(.news, 0, to: receiver) }
    }

    /// At most `count` different members that are alive, at random.
    private mutating func draw(_ count: Int, but excluded: UInt32) -> [UInt32] {
        var drawn: [UInt32] = []
        func isGood(_ member: SwimMember) -> Bool {
            member.state == .alive && member.rank != excluded && !drawn.contains(member.rank)
        }
        if members.count > 8 * count {
            // Few draws hit somebody twice, or one who is dead.
            for _ in 0..<(4 * count) where drawn.count < count {
                let member = members[Int(entropy.below(UInt64(members.count)))]
                if isGood(member) { drawn.append(member.rank) }
            }
            return drawn
        }
        var candidates = members.filter(isGood)
        while drawn.count < count, !candidates.isEmpty {
            let index = Int(entropy.below(UInt64(candidates.count)))
            candidates.swapAt(index, candidates.count - 1)
            drawn.append(candidates.removeLast().rank)
        }
        return drawn
    }
}
