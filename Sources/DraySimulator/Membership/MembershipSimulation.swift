package import CaRT
internal import DrayRuntime
internal import HeapModule

/// The failure detectors of a group of any size on virtual time, without fabric and engines: each
/// member is a `SwimMachine`, messages take time and get lost. For tests, and for the figures in
/// `docs/membership.md`.
package final class MembershipSimulation {
    /// What the group and its network are like.
    package struct Options: Sendable {
        package var memberCount: Int
        package var swim = SwimOptions()
        /// Messages that are lost, in a million.
        package var lossPerMillion: UInt64 = 0
        /// The least and the most time that a message is under way, in nanoseconds.
        package var latency: ClosedRange<UInt64> = 100_000...500_000

        package init(memberCount: Int) {
            self.memberCount = memberCount
        }
    }

    /// A member has changed its mind about another one.
    package struct Change: Sendable, Hashable {
        package var time: UInt64
        package var observer: UInt32
        package var member: SwimMember
    }

    /// What a member's process does.
    package enum Condition: Sendable, Hashable {
        case running
        /// Nothing, as after SIGSTOP; what arrives waits.
        case stopped
        /// It is no more; its port is refused.
        case killed
    }

    package let options: Options
    package private(set) var now: UInt64 = 1_000_000_000
    package private(set) var machines: [SwimMachine] = []
    package private(set) var conditions: [Condition]
    /// Since the last `forget`.
    package private(set) var changes: [Change] = []
    /// Those of them that are deaths in lives that had not ended.
    package private(set) var falseDeaths: [Change] = []
    package private(set) var exclusions: [(observer: UInt32, exclusion: SwimExclusion)] = []
    /// Messages sent, bytes in them, and messages lost, since the last `forget`.
    package private(set) var messageCount = 0
    package private(set) var byteCount = 0
    package private(set) var lossCount = 0
    /// Who cannot send to whom, besides what is lost.
    package var isCutOff: (_ from: UInt32, _ to: UInt32) -> Bool = { _, _ in false }

    private var entropy: Entropy
    private let root: Entropy
    private var events = Heap<Event>()
    private var sequence: UInt64 = 0
    /// The first incarnation of each member's present life.
    private var births: [UInt64]
    /// When each member will be called, at the latest.
    private var callAt: [UInt64]
    /// What arrived while a member was stopped.
    private var waiting: [[SwimMachine.Event]]

    private enum Kind {
        case call
        case deliver(SwimMachine.Event)
    }

    private struct Event: Comparable {
        let time: UInt64
        let sequence: UInt64
        let member: Int
        let kind: Kind

        static func < (left: Event, right: Event) -> Bool {
            (left.time, left.sequence) < (right.time, right.sequence)
        }

        static func == (left: Event, right: Event) -> Bool { left.sequence == right.sequence }
    }

    /// Starts all members. Runs of the same seed are equal.
    package init(_ options: Options, seed: UInt64) {
        self.options = options
        root = Entropy(seed: seed)
        entropy = root.fork("network")
        let count = options.memberCount
        conditions = Array(repeating: .running, count: count)
        callAt = Array(repeating: .max, count: count)
        births = Array(repeating: now, count: count)
        waiting = Array(repeating: [], count: count)
        for rank in 0..<count { machines.append(machine(rank)) }
        for rank in 0..<count { join(rank) }
    }

    private func machine(_ rank: Int) -> SwimMachine {
        SwimMachine(
            rank: UInt32(rank), incarnation: now, options: options.swim,
            entropy: root.fork("member \(rank) \(now)"), now: now)
    }

    private func join(_ rank: Int) {
        let group = (0..<options.memberCount).map { SwimMember(rank: UInt32($0)) }
        handle(.group(version: 1, members: group), rank)
    }

    // MARK: - Faults

    /// Ends a member's process.
    package func kill(_ rank: Int) { conditions[rank] = .killed }

    /// Starts it again, with the next incarnation.
    package func restart(_ rank: Int) {
        precondition(conditions[rank] == .killed)
        conditions[rank] = .running
        waiting[rank] = []
        births[rank] = now
        machines[rank] = machine(rank)
        callAt[rank] = .max
        join(rank)
    }

    /// Stops a member's process until `resume`.
    package func stop(_ rank: Int) { conditions[rank] = .stopped }

    /// Lets a stopped member go on: with what has arrived, or with its timer.
    package func resume(_ rank: Int) {
        precondition(conditions[rank] == .stopped)
        conditions[rank] = .running
        let late = waiting[rank]
        waiting[rank] = []
        for event in late { handle(event, rank) }
        handle(.time, rank)
    }

    // MARK: - Running

    /// Forgets what was counted and listed.
    package func forget() {
        changes = []
        falseDeaths = []
        exclusions = []
        messageCount = 0
        byteCount = 0
        lossCount = 0
    }

    /// Runs until `condition` holds, which is asked after every event that changes somebody's
    /// mind, or so much time has passed. Returns whether it held.
    @discardableResult
    package func run(for time: Duration, until condition: () -> Bool = { false }) -> Bool {
        let end = now + time.nanosecondsClamped
        var known = -1
        while true {
            if known != changes.count {
                known = changes.count
                if condition() { return true }
            }
            guard let next = events.min, next.time <= end else { break }
            _ = events.popMin()
            now = next.time
            perform(next)
        }
        now = end
        return condition()
    }

    private func perform(_ event: Event) {
        let member = event.member
        switch event.kind {
        case .call:
            guard callAt[member] == event.time else { return }
            callAt[member] = .max
            if conditions[member] == .running { handle(.time, member) }
        case .deliver(let content):
            switch conditions[member] {
            case .running: handle(content, member)
            case .stopped: waiting[member].append(content)
            case .killed: break
            }
        }
    }

    private func handle(_ event: SwimMachine.Event, _ member: Int) {
        for action in machines[member].on(event, at: now) {
            switch action {
            case .send(let message, let receiver): send(message, from: member, to: receiver)
            case .probe(let rank, let incarnation): probe(rank, incarnation, from: member)
            case .changed(let changed):
                note(Change(time: now, observer: UInt32(member), member: changed))
            case .excluded(let exclusion): exclusions.append((UInt32(member), exclusion))
            }
        }
        let next = machines[member].nextDeadline
        guard next < callAt[member] else { return }
        callAt[member] = next
        schedule(at: next, member, .call)
    }

    private func note(_ change: Change) {
        changes.append(change)
        let rank = Int(change.member.rank)
        guard change.member.state == .dead, conditions[rank] != .killed,
            change.member.incarnation >= births[rank]
        else { return }
        falseDeaths.append(change)
    }

    private func schedule(at time: UInt64, _ member: Int, _ kind: Kind) {
        sequence += 1
        events.insert(
            Event(time: max(time, now), sequence: sequence, member: member, kind: kind))
    }

    private func latency() -> UInt64 {
        let range = options.latency
        return range.lowerBound + entropy.below(range.upperBound - range.lowerBound + 1)
    }

    private func send(_ message: SwimMessage, from sender: Int, to receiver: UInt32) {
        messageCount += 1
        byteCount += message.encodedSize
        guard !isCutOff(UInt32(sender), receiver),
            !entropy.chance(options.lossPerMillion, in: 1_000_000)
        else {
            lossCount += 1
            return
        }
        schedule(
            at: now + latency(), Int(receiver),
            .deliver(.received(message, from: UInt32(sender))))
    }

    /// The kernel of the other machine answers, if it is reached.
    private func probe(_ rank: UInt32, _ incarnation: UInt64, from observer: Int) {
        guard !isCutOff(UInt32(observer), rank), !isCutOff(rank, UInt32(observer)) else { return }
        let isThere = conditions[Int(rank)] != .killed
        schedule(
            at: now + 2 * latency(), observer,
            .deliver(
                isThere ? .accepted(rank: rank) : .refused(rank: rank, incarnation: incarnation)))
    }

    // MARK: - What is known

    /// Whether everybody that runs, but for the member itself, holds it for `state`.
    package func all(hold rank: UInt32, for state: SwimState) -> Bool {
        for observer in machines.indices where conditions[observer] == .running {
            guard UInt32(observer) != rank else { continue }
            if machines[observer].member(rank)?.state != state { return false }
        }
        return true
    }

    /// Whether everybody that runs holds everybody else for alive.
    package var allAreWell: Bool {
        machines.indices.allSatisfy { observer in
            conditions[observer] != .running
                || machines[observer].members.allSatisfy { $0.state == .alive }
        }
    }
}
