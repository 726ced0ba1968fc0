import DrayRuntime
import Testing

@testable import CaRT

/// A machine with members 1 to 5, of rank 0, that a test drives by hand.
struct SwimRig {
    static let start: UInt64 = 1_000_000_000
    static let own: UInt64 = 1000
    static let ms: UInt64 = 1_000_000

    var machine: SwimMachine
    var now = SwimRig.start
    var actions: [SwimMachine.Action] = []

    init(_ members: [SwimMember] = (1...5).map { SwimMember(rank: $0, incarnation: 5) }) {
        machine = SwimMachine(
            rank: 0, incarnation: SwimRig.own, options: SwimOptions(), entropy: Entropy(seed: 1),
            now: now)
        on(.group(version: 1, members: [SwimMember(rank: 0)] + members))
        // What is sent at the start is no part of the tests.
        on(.time)
    }

    mutating func on(_ event: SwimMachine.Event) {
        actions = machine.on(event, at: now)
        machine.checkInvariants()
    }

    /// Lets time pass, calling the machine whenever it wants.
    mutating func pass(milliseconds: UInt64) {
        let end = now + milliseconds * SwimRig.ms
        var all: [SwimMachine.Action] = []
        while machine.nextDeadline <= end {
            now = machine.nextDeadline
            on(.time)
            all += actions
        }
        now = end
        actions = all
    }

    /// Lets time pass until somebody is pinged in turn. Whom, and the ping's number.
    mutating func passUntilPing() -> (target: UInt32, sequence: UInt32) {
        while machine.probe == nil {
            now = machine.nextDeadline
            on(.time)
        }
        return (machine.probe!.target, machine.probe!.sequence)
    }

    mutating func receive(
        _ kind: SwimMessage.Kind, _ sequence: UInt32 = 0, from sender: UInt32,
        incarnation: UInt64 = 5, target: UInt32 = 0, version: UInt32 = 1,
        _ updates: SwimMember...
    ) {
        var message = SwimMessage()
        message.kind = kind
        message.sequence = sequence
        message.target = target
        message.incarnation = incarnation
        message.version = version
        message.updates = updates
        on(.received(message, from: sender))
    }

    /// What was sent, by kind.
    func sent(_ kind: SwimMessage.Kind) -> [(message: SwimMessage, receiver: UInt32)] {
        actions.compactMap { action in
            guard case .send(let message, let receiver) = action, message.kind == kind
            else { return nil }
            return (message, receiver)
        }
    }

    var changes: [SwimMember] {
        actions.compactMap { if case .changed(let member) = $0 { member } else { nil } }
    }

    var exclusions: [SwimExclusion] {
        actions.compactMap { if case .excluded(let why) = $0 { why } else { nil } }
    }

    var probes: [UInt32] {
        actions.compactMap { if case .probe(let rank, _) = $0 { rank } else { nil } }
    }
}

/// What a member thinks of another one, before and after everything that can be said of it.
@Suite struct SwimVerdictTests {
    /// What is known of member 3.
    enum Known: String, CaseIterable, Sendable {
        /// Nothing was heard of it yet.
        case unheard
        case alive
        /// A suspect for less than half of the suspicion time.
        case suspect
        /// A suspect for longer.
        case oldSuspect
        case silent
        case gone
    }

    /// What happens to it. Older, same and newer are the incarnations that are spoken of.
    enum Event: String, CaseIterable, Sendable {
        case olderAlive, olderSuspect, olderSilent, olderGone
        case sameAlive, sameSuspect, sameSilent, sameGone
        case newerAlive, newerSuspect, newerSilent, newerGone
        /// It sends something itself.
        case message, newerMessage
        case refused, olderRefused, accepted, answered
        /// The suspicion time passes without a word from it.
        case silence
        case removed
    }

    /// The verdict afterwards: `=` as before; `+` of the newer incarnation; nothing when it is no
    /// member any more.
    static let table: [Known: [Event: String]] = [
        .unheard: [
            // Incarnation 0 has no older one: these are of the same.
            .olderAlive: "=", .olderSuspect: "suspect", .olderSilent: "silent",
            .olderGone: "gone",
            .sameAlive: "=", .sameSuspect: "suspect", .sameSilent: "silent", .sameGone: "gone",
            .newerAlive: "alive+", .newerSuspect: "suspect+", .newerSilent: "silent+",
            .newerGone: "gone+",
            .message: "=", .newerMessage: "alive+", .refused: "gone", .olderRefused: "gone",
            .accepted: "=", .answered: "=", .silence: "silent", .removed: "",
        ],
        .alive: [
            .olderAlive: "=", .olderSuspect: "=", .olderSilent: "=", .olderGone: "=",
            // Without proof, not at once.
            .sameAlive: "=", .sameSuspect: "suspect", .sameSilent: "suspect", .sameGone: "gone",
            .newerAlive: "alive+", .newerSuspect: "suspect+", .newerSilent: "suspect+",
            .newerGone: "gone+",
            .message: "=", .newerMessage: "alive+", .refused: "gone", .olderRefused: "=",
            .accepted: "=", .answered: "=", .silence: "silent", .removed: "",
        ],
        .suspect: [
            .olderAlive: "=", .olderSuspect: "=", .olderSilent: "=", .olderGone: "=",
            .sameAlive: "=", .sameSuspect: "=", .sameSilent: "=", .sameGone: "gone",
            .newerAlive: "alive+", .newerSuspect: "suspect+", .newerSilent: "suspect+",
            .newerGone: "gone+",
            .message: "=", .newerMessage: "alive+", .refused: "gone", .olderRefused: "=",
            .accepted: "=", .answered: "=", .silence: "silent", .removed: "",
        ],
        .oldSuspect: [
            .olderAlive: "=", .olderSuspect: "=", .olderSilent: "=", .olderGone: "=",
            .sameAlive: "=", .sameSuspect: "=", .sameSilent: "silent", .sameGone: "gone",
            .newerAlive: "alive+", .newerSuspect: "suspect+", .newerSilent: "silent+",
            .newerGone: "gone+",
            .message: "=", .newerMessage: "alive+", .refused: "gone", .olderRefused: "=",
            .accepted: "=", .answered: "=", .silence: "silent", .removed: "",
        ],
        .silent: [
            .olderAlive: "=", .olderSuspect: "=", .olderSilent: "=", .olderGone: "=",
            .sameAlive: "=", .sameSuspect: "=", .sameSilent: "=", .sameGone: "gone",
            .newerAlive: "alive+", .newerSuspect: "suspect+", .newerSilent: "silent+",
            .newerGone: "gone+",
            .message: "=", .newerMessage: "alive+", .refused: "gone", .olderRefused: "=",
            .accepted: "=", .answered: "=", .silence: "=", .removed: "",
        ],
        .gone: [
            .olderAlive: "=", .olderSuspect: "=", .olderSilent: "=", .olderGone: "=",
            .sameAlive: "=", .sameSuspect: "=", .sameSilent: "=", .sameGone: "=",
            .newerAlive: "alive+", .newerSuspect: "suspect+", .newerSilent: "silent+",
            .newerGone: "gone+",
            .message: "=", .newerMessage: "alive+", .refused: "=", .olderRefused: "=",
            .accepted: "=", .answered: "=", .silence: "=", .removed: "",
        ],
    ]

    static let rows = Known.allCases.flatMap { known in Event.allCases.map { (known, $0) } }

    static func rig(_ known: Known) -> SwimRig {
        var members = (1...5).map { SwimMember(rank: $0, incarnation: 5) }
        if known == .unheard { members[2].incarnation = 0 }
        var rig = SwimRig(members)
        let verdict: SwimVerdict? =
            switch known {
            case .unheard, .alive: nil
            case .suspect, .oldSuspect: .suspect
            case .silent: .suspect
            case .gone: .gone
            }
        if let verdict {
            rig.receive(.news, from: 1, SwimMember(rank: 3, incarnation: 5, verdict: verdict))
        }
        // Others give a sign of life now and then.
        let seconds = known == .silent ? 6 : known == .oldSuspect ? 3 : 0
        for _ in 0..<seconds {
            rig.pass(milliseconds: 1000)
            rig.receive(.news, from: 1)
        }
        return rig
    }

    @Test(arguments: rows)
    func stateAndEvent(known: Known, event: Event) throws {
        var rig = SwimVerdictTests.rig(known)
        let before = try #require(rig.machine.member(3))
        let expected = try #require(SwimVerdictTests.table[known]?[event])
        play(event, before, &rig)
        guard !expected.isEmpty else {
            #expect(rig.machine.member(3) == nil)
            return
        }
        let after = try #require(rig.machine.member(3))
        guard expected != "=" else {
            #expect(after == before)
            #expect(rig.changes.isEmpty)
            return
        }
        let isNewer = expected.hasSuffix("+")
        #expect("\(after.verdict)" == (isNewer ? String(expected.dropLast()) : expected))
        #expect(after.incarnation == before.incarnation + (isNewer ? 1 : 0))
        if event != .silence {
            #expect(rig.changes == (after.state == before.state ? [] : [after]))
        }
    }

    private func play(_ event: Event, _ before: SwimMember, _ rig: inout SwimRig) {
        func claim(_ verdict: SwimVerdict, _ offset: Int64) {
            let incarnation = UInt64(max(0, Int64(before.incarnation) + offset))
            rig.receive(
                .news, from: 2, SwimMember(rank: 3, incarnation: incarnation, verdict: verdict))
        }
        switch event {
        case .olderAlive: claim(.alive, -1)
        case .olderSuspect: claim(.suspect, -1)
        case .olderSilent: claim(.silent, -1)
        case .olderGone: claim(.gone, -1)
        case .sameAlive: claim(.alive, 0)
        case .sameSuspect: claim(.suspect, 0)
        case .sameSilent: claim(.silent, 0)
        case .sameGone: claim(.gone, 0)
        case .newerAlive: claim(.alive, 1)
        case .newerSuspect: claim(.suspect, 1)
        case .newerSilent: claim(.silent, 1)
        case .newerGone: claim(.gone, 1)
        case .message: rig.receive(.news, from: 3, incarnation: before.incarnation)
        case .newerMessage: rig.receive(.news, from: 3, incarnation: before.incarnation + 1)
        case .refused: rig.on(.refused(rank: 3, incarnation: before.incarnation))
        case .olderRefused:
            let older = before.incarnation == 0 ? 0 : before.incarnation - 1
            rig.on(.refused(rank: 3, incarnation: older))
        case .accepted: rig.on(.accepted(rank: 3))
        case .answered: rig.on(.answered(rank: 3))
        case .silence:
            // The others answer their pings; member 3 says nothing, so it is suspected at the
            // latest after two rounds of five.
            for _ in 0..<300 {
                rig.pass(milliseconds: 50)
                guard let probe = rig.machine.probe, probe.target != 3 else { continue }
                rig.receive(.ack, probe.sequence, from: probe.target)
            }
        case .removed:
            rig.on(
                .group(version: 2, members: [0, 1, 2, 4, 5].map { SwimMember(rank: $0) }))
        }
    }

    @Test func theTableIsComplete() {
        for known in Known.allCases {
            for event in Event.allCases {
                #expect(SwimVerdictTests.table[known]?[event] != nil, "\(known), \(event)")
            }
        }
    }

    /// What is said of ourselves: verdict, incarnation from ours, and what ours is then.
    static let ours: [(SwimVerdict, Int64, grows: Int64, excluded: Bool)] = [
        (.alive, -1, 0, false), (.suspect, -1, 0, false), (.silent, -1, 0, false),
        (.gone, -1, 0, false), (.alive, 0, 0, false), (.suspect, 0, 1, false),
        (.silent, 0, 1, true), (.gone, 0, 1, true),
        // Of an earlier life, when our clock has gone back since.
        (.alive, 7, 8, false), (.suspect, 7, 8, false), (.silent, 7, 8, false),
        (.gone, 7, 8, false),
    ]

    @Test(arguments: ours.indices)
    func weContradict(index: Int) {
        let (verdict, offset, grows, excluded) = SwimVerdictTests.ours[index]
        var rig = SwimRig()
        let incarnation = UInt64(Int64(SwimRig.own) + offset)
        rig.receive(
            .ping, 9, from: 2, SwimMember(rank: 0, incarnation: incarnation, verdict: verdict))
        #expect(rig.machine.incarnation == UInt64(Int64(SwimRig.own) + grows))
        #expect(rig.exclusions == (excluded ? [.declaredDead] : []))
        // Who pinged hears of it with the answer.
        #expect(rig.sent(.ack).map(\.message.incarnation) == [rig.machine.incarnation])
        rig.receive(
            .ping, 9, from: 2, SwimMember(rank: 0, incarnation: incarnation, verdict: verdict))
        #expect(rig.machine.incarnation == UInt64(Int64(SwimRig.own) + grows), "once is enough")
        #expect(rig.exclusions.isEmpty)
    }

    /// Who was stopped may hear first that it is suspected, and then that it was declared dead.
    @Test func weHearOfADeathThatIsOver() {
        var rig = SwimRig()
        let suspect = SwimMember(rank: 0, incarnation: SwimRig.own, verdict: .suspect)
        let dead = SwimMember(rank: 0, incarnation: SwimRig.own, verdict: .silent)
        rig.receive(.ping, 1, from: 1, suspect)
        #expect(rig.exclusions.isEmpty)
        rig.receive(.ping, 2, from: 2, dead)
        #expect(rig.exclusions == [.declaredDead])
        rig.receive(.ping, 3, from: 3, dead)
        #expect(rig.exclusions.isEmpty)
        #expect(rig.machine.incarnation == SwimRig.own + 1)
    }
}

/// Pings, step by step.
@Suite struct SwimPingTests {
    @Test func anAnswerEndsAPing() {
        var rig = SwimRig()
        let (target, sequence) = rig.passUntilPing()
        rig.receive(.ack, sequence, from: target)
        #expect(rig.machine.probe == nil)
        rig.pass(milliseconds: 199)
        #expect(rig.probes.isEmpty && rig.changes.isEmpty)
    }

    @Test func answersOfOthersAndOldOnesEndNothing() {
        var rig = SwimRig()
        let (target, sequence) = rig.passUntilPing()
        let other: UInt32 = target == 1 ? 2 : 1
        rig.receive(.ack, sequence, from: other)
        rig.receive(.ack, sequence &- 1, from: target)
        rig.receive(.nack, sequence, from: target)
        rig.receive(.ack, sequence, from: 77)
        #expect(rig.machine.probe?.target == target)
    }

    @Test func helpAndTheReactionToIt() {
        var rig = SwimRig()
        let (target, sequence) = rig.passUntilPing()
        rig.pass(milliseconds: 101)
        let requests = rig.sent(.request)
        #expect(requests.count == 3)
        #expect(Set(requests.map(\.receiver)).count == 3)
        #expect(requests.allSatisfy { $0.message.target == target && $0.receiver != target })
        #expect(rig.sent(.ping).map(\.receiver) == [target], "once more, directly")
        #expect(rig.probes == [target])
        // A helper has reached it.
        rig.receive(.ack, sequence, from: requests[0].receiver)
        #expect(rig.machine.probe == nil)
        rig.pass(milliseconds: 99)
        #expect(rig.changes.isEmpty)
    }

    /// How many helpers say no, and whether we doubt ourselves afterwards.
    @Test(arguments: [0, 1, 2, 3])
    func aSilentMemberIsSuspected(nacks: Int) {
        var rig = SwimRig()
        let (target, sequence) = rig.passUntilPing()
        rig.pass(milliseconds: 101)
        let helpers = rig.sent(.request).map(\.receiver)
        for helper in helpers.prefix(nacks) { rig.receive(.nack, sequence, from: helper) }
        rig.pass(milliseconds: 100)
        #expect(rig.changes.map(\.rank) == [target])
        #expect(rig.machine.member(target)?.verdict == .suspect)
        #expect(rig.machine.doubt == (nacks == 3 ? 0 : 1))
    }

    @Test func doubtMakesPatient() {
        var rig = SwimRig()
        rig.machine.doubt = 3
        _ = rig.passUntilPing()
        rig.pass(milliseconds: 399)
        #expect(rig.sent(.request).isEmpty)
        rig.pass(milliseconds: 2)
        #expect(rig.sent(.request).count == 3)
        rig.pass(milliseconds: 398)
        #expect(rig.changes.isEmpty)
        rig.pass(milliseconds: 2)
        #expect(rig.changes.count == 1)
    }

    @Test func successTakesDoubtAway() {
        var rig = SwimRig()
        rig.machine.doubt = 2
        let (target, sequence) = rig.passUntilPing()
        rig.receive(.ack, sequence, from: target)
        #expect(rig.machine.doubt == 1)
    }

    /// First detection time is bounded: within two rounds everybody is pinged, however the order.
    @Test(arguments: 0..<20) func everybodyHasATurn(seed: UInt64) {
        var machine = SwimMachine(
            rank: 0, incarnation: 1, options: SwimOptions(), entropy: Entropy(seed: seed), now: 0)
        let count = 9
        _ = machine.on(
            .group(version: 1, members: (0...UInt32(count)).map { SwimMember(rank: $0) }), at: 0)
        var last = [UInt32: Int]()
        for period in 0..<200 {
            while machine.probe == nil { _ = machine.on(.time, at: machine.nextDeadline) }
            let probe = machine.probe!
            let gap = period - (last[probe.target] ?? -1)
            #expect(gap <= 2 * count - 1, "\(probe.target)")
            last[probe.target] = period
            _ = machine.on(.answered(rank: probe.target), at: machine.now)
        }
        #expect(last.count == count)
    }

    @Test func aHelperPingsAndAnswers() {
        var rig = SwimRig()
        rig.receive(.request, 77, from: 1, target: 4)
        #expect(rig.sent(.ping).map(\.receiver) == [4])
        let sequence = rig.sent(.ping)[0].message.sequence
        rig.receive(.ack, sequence, from: 5)
        #expect(rig.sent(.ack).isEmpty, "another one's answer")
        rig.receive(.ack, sequence, from: 4)
        #expect(rig.sent(.ack).map(\.receiver) == [1])
        #expect(rig.sent(.ack)[0].message.sequence == 77)
        rig.pass(milliseconds: 150)
        #expect(rig.sent(.nack).isEmpty)
    }

    @Test func aHelperSaysNo() {
        var rig = SwimRig()
        rig.receive(.request, 77, from: 1, target: 4)
        rig.pass(milliseconds: 76)
        #expect(rig.sent(.nack).map(\.receiver) == [1])
        #expect(rig.sent(.nack)[0].message.sequence == 77)
        #expect(rig.machine.member(4)?.state == .alive, "that is not for the helper to say")
    }

    @Test func requestsThatMakeNoSense() {
        var rig = SwimRig()
        rig.receive(.request, 1, from: 1, target: 0)
        #expect(rig.sent(.ack).map(\.receiver) == [1], "we are alive")
        rig.receive(.request, 2, from: 1, target: 99)
        rig.receive(.request, 3, from: 1, target: 1)
        #expect(rig.actions.isEmpty)
        for number in 0..<200 { rig.receive(.request, UInt32(number), from: 1, target: 4) }
        #expect(rig.machine.relays.count == SwimMachine.relaysMax)
    }

    @Test func theDeadArePingedNowAndThen() {
        var rig = SwimRig([SwimMember(rank: 1, incarnation: 5)])
        rig.on(.refused(rank: 1, incarnation: 5))
        rig.pass(milliseconds: 4000)
        let pings = rig.sent(.ping)
        #expect((3...5).contains(pings.count))
        // It learns what is said of it, and contradicts.
        #expect(
            pings.allSatisfy {
                $0.message.updates == [SwimMember(rank: 1, incarnation: 5, verdict: .gone)]
            })
        rig.receive(.ack, 3, from: 1, incarnation: 6)
        #expect(rig.changes == [SwimMember(rank: 1, incarnation: 6)])
    }
}

/// Starvation, isolation, strangers and hostile messages.
@Suite struct SwimTroubleTests {
    @Test func whoWasStoppedDeclaresNobodyDead() {
        var rig = SwimRig()
        rig.receive(.news, from: 1, SwimMember(rank: 3, incarnation: 5, verdict: .suspect))
        let (target, _) = rig.passUntilPing()
        // Stopped for far longer than the suspicion time.
        rig.now += 60_000 * SwimRig.ms
        rig.on(.time)
        #expect(rig.changes.isEmpty)
        #expect(rig.machine.member(3)?.state == .suspect)
        #expect(rig.machine.probe?.target == target, "its answer may be waiting for us")
        #expect(rig.machine.doubt == 1)
        // From here on, time counts as before.
        rig.receive(.news, from: 1)
        rig.pass(milliseconds: 3500)
        #expect(rig.machine.member(3)?.state == .suspect)
        rig.receive(.news, from: 1)
        rig.pass(milliseconds: 1500)
        #expect(rig.machine.member(3)?.verdict == .silent)
    }

    /// The first that is noticed after a stop may be a message.
    @Test func whoWasStoppedHearsFirst() {
        var rig = SwimRig()
        rig.receive(.news, from: 1, SwimMember(rank: 3, incarnation: 5, verdict: .suspect))
        rig.now += 60_000 * SwimRig.ms
        rig.receive(.news, from: 3, incarnation: 6)
        #expect(rig.changes == [SwimMember(rank: 3, incarnation: 6)])
    }

    @Test func whoHearsNothingAtAllWaitsTwiceAsLong() {
        var rig = SwimRig()
        rig.receive(.news, from: 1, SwimMember(rank: 3, incarnation: 5, verdict: .suspect))
        rig.pass(milliseconds: 9990)
        #expect(rig.machine.member(3)?.state == .suspect)
        rig.pass(milliseconds: 20)
        #expect(rig.machine.member(3)?.verdict == .silent)
    }

    /// A port that answers shows that our network works.
    @Test func anOpenPortIsASignOfLifeOfTheNetwork() {
        var rig = SwimRig([SwimMember(rank: 1, incarnation: 5)])
        var dead: UInt64?
        let start = rig.now
        while dead == nil, rig.now < start + 20_000 * SwimRig.ms {
            rig.pass(milliseconds: 50)
            if !rig.probes.isEmpty { rig.on(.accepted(rank: 1)) }
            if rig.machine.member(1)?.state == .dead { dead = rig.now - start }
        }
        // The first ping comes after up to 800 ms, its end 200 ms later.
        #expect((dead ?? 0) / SwimRig.ms <= 6100)
    }

    @Test func strangersLearnThatTheyAreNone() {
        var rig = SwimRig()
        rig.receive(.ping, 4, from: 99)
        #expect(rig.sent(.stranger).map(\.receiver) == [99])
        #expect(rig.actions.count == 1)
        rig.receive(.news, 4, from: 99, SwimMember(rank: 3, incarnation: 9, verdict: .gone))
        #expect(rig.actions.isEmpty)
        #expect(rig.machine.member(3)?.state == .alive, "nobody listens to strangers")
    }

    @Test(arguments: [(0, false), (1, false), (2, true)])
    func weLearnThatWeAreExcluded(version: UInt32, isNews: Bool) {
        var rig = SwimRig()
        let (target, sequence) = rig.passUntilPing()
        rig.receive(.stranger, sequence, from: target, version: version)
        #expect(rig.exclusions == (isNews ? [.removed(version: 2)] : []))
        #expect(rig.machine.probe == nil, "it is alive")
    }

    @Test func whoIsRemovedIsQuiet() {
        var rig = SwimRig()
        _ = rig.passUntilPing()
        rig.on(.group(version: 2, members: (1...5).map { SwimMember(rank: $0) }))
        #expect(rig.exclusions == [.removed(version: 2)])
        #expect(rig.machine.nextDeadline == .max)
        rig.receive(.ping, 4, from: 1)
        #expect(rig.actions.isEmpty)
        rig.on(.group(version: 3, members: (0...5).map { SwimMember(rank: $0) }))
        #expect(rig.machine.nextDeadline < rig.now + 1000 * SwimRig.ms)
    }

    @Test func groupsChange() {
        var rig = SwimRig()
        rig.receive(
            .news, from: 1, SwimMember(rank: 3, incarnation: 5, verdict: .gone),
            SwimMember(rank: 4, incarnation: 5, verdict: .suspect))
        // An old version changes nothing.
        rig.on(.group(version: 1, members: [SwimMember(rank: 0)]))
        #expect(rig.machine.members.count == 5)
        // 3 is back, 4 has left, 9 is new.
        rig.on(
            .group(
                version: 2,
                members: [9, 5, 3, 2, 1, 0].map { SwimMember(rank: $0, incarnation: 6) }))
        #expect(
            rig.machine.members == [1, 2, 3, 5, 9].map { SwimMember(rank: $0, incarnation: 6) })
        #expect(rig.changes == [SwimMember(rank: 3, incarnation: 6)])
        #expect(rig.machine.suspicions.isEmpty)
    }

    @Test func hugeIncarnationsAreHarmless() {
        let most = SwimMember.incarnationMax - 1
        var rig = SwimRig()
        rig.receive(
            .ping, 1, from: 1, incarnation: .max,
            SwimMember(rank: 2, incarnation: .max, verdict: .gone))
        rig.receive(
            .ping, 1, from: 1, SwimMember(rank: 2, incarnation: .max, verdict: .gone),
            SwimMember(rank: 0, incarnation: .max, verdict: .gone))
        #expect(rig.machine.members.allSatisfy { $0.incarnation == 5 && $0.state == .alive })
        #expect(rig.machine.incarnation == SwimRig.own)
        for _ in 0..<3 {
            rig.receive(.ping, 1, from: 1, SwimMember(rank: 0, incarnation: most, verdict: .gone))
        }
        #expect(rig.machine.incarnation == most)
    }

    /// Somebody who was cut off comes back and takes everybody for dead.
    @Test func deathsWithoutProofAreOnlySuspicions() {
        var rig = SwimRig()
        for _ in 0..<3 {
            for rank: UInt32 in 2...5 {
                rig.receive(
                    .news, from: 1, SwimMember(rank: rank, incarnation: 5, verdict: .silent))
            }
        }
        #expect(rig.machine.members.dropFirst().allSatisfy { $0.state == .suspect })
    }

    @Test func oldRumoursAreAnswered() {
        var rig = SwimRig()
        rig.receive(.news, from: 3, incarnation: 8)
        // Told often enough to be forgotten.
        for _ in 0..<50 { rig.receive(.ping, 1, from: 2) }
        #expect(rig.sent(.ack)[0].message.updates.isEmpty)
        rig.receive(.ping, 1, from: 2, SwimMember(rank: 3, incarnation: 7, verdict: .gone))
        #expect(rig.sent(.ack)[0].message.updates == [SwimMember(rank: 3, incarnation: 8)])
    }

    @Test func badOptions() {
        #expect(SwimOptions().problem == nil)
        var options = SwimOptions()
        options.pingTimeout = options.period
        #expect(options.problem != nil)
        options = SwimOptions()
        options.suspicionTimeout = .milliseconds(500)
        #expect(options.problem != nil)
        options = SwimOptions()
        options.suspicionTimeout = .seconds(Int64.max)
        #expect(options.problem != nil)
        options.period = .seconds(Int64.max / 4)
        #expect(options.problem != nil)
        options = SwimOptions()
        options.period = .milliseconds(1)
        #expect(options.problem != nil)
        options = SwimOptions()
        options.newsCount = 0
        #expect(options.problem != nil)
    }
}
