import BasicContainers
import DrayFabric
import DrayRuntime
import Testing

@testable import CaRT

@Suite struct CallTrackerTests {
    static let second: UInt64 = 1_000_000_000

    /// The one peer of `make`.
    static let peer: Int32 = 0

    /// A tracker that has greeted its one peer.
    static func make(credits: UInt32) -> CallTracker {
        var tracker = CallTracker(entropy: Entropy(seed: 1), waitingMax: 10)
        let peer = tracker.addPeer()
        guard
            case .greet(let slot, let nonce) = tracker.open(
                peer: peer, deadline: second, exposes: false, now: 0)
        else { preconditionFailure("no hello") }
        var actions: [CallAction] = []
        let answered = tracker.answered(
            peer: UInt32(peer), nonce: nonce, instance: 7,
            session: SessionID(index: 1, generation: 2), credits: credits, now: 0, into: &actions)
        precondition(answered && actions == [.grant(slot: slot)])
        _ = tracker.end(slot)
        tracker.close(slot)
        precondition(peer == Self.peer)
        return tracker
    }

    @Test func aHelloComesFirstAndOnce() {
        var tracker = CallTracker(entropy: Entropy(seed: 1), waitingMax: 2)
        let peer = tracker.addPeer()
        guard
            case .greet(let first, let nonce) = tracker.open(
                peer: peer, deadline: 100, exposes: false, now: 0)
        else {
            Issue.record("no hello")
            return
        }
        guard
            case .wait(let second) = tracker.open(peer: peer, deadline: 90, exposes: false, now: 0)
        else {
            Issue.record("no wait")
            return
        }
        #expect(tracker.open(peer: peer, deadline: 100, exposes: false, now: 0) == .overloaded)
        #expect(tracker.nextDeadline == 90)
        var actions: [CallAction] = []
        let session = SessionID(index: 0, generation: 5)
        // An answer under another number is not for us.
        #expect(
            !tracker.answered(
                peer: 0, nonce: nonce &+ 1, instance: 1, session: session, credits: 1, now: 1,
                into: &actions))
        #expect(
            !tracker.answered(
                peer: 9, nonce: nonce, instance: 1, session: session, credits: 1, now: 1,
                into: &actions))
        #expect(
            tracker.answered(
                peer: 0, nonce: nonce, instance: 1, session: session, credits: 1, now: 1,
                into: &actions))
        #expect(actions == [.grant(slot: first)])
        tracker.sent(first, now: 2)
        #expect(tracker.end(first) == second)
        tracker.checkInvariants()
    }

    @Test func expiresInOrder() {
        var tracker = Self.make(credits: 0)
        let peer = Self.peer
        var slots: [Int32] = []
        for deadline in [30, 10, 20] as [UInt64] {
            guard
                case .send(let slot) = tracker.open(
                    peer: peer, deadline: deadline, exposes: false, now: 0)
            else { return }
            tracker.sent(slot, now: 0)
            slots.append(slot)
        }
        var actions: [CallAction] = []
        tracker.expire(now: 20, into: &actions)
        #expect(
            actions == [
                .sendCancel(slot: slots[1]), .end(slot: slots[1], .timedOut),
                .sendCancel(slot: slots[2]), .end(slot: slots[2], .timedOut),
            ])
        #expect(tracker.nextDeadline == 30)
    }

    @Test func exposedMemoryWaitsForThePeersWord() {
        var tracker = Self.make(credits: 1)
        let peer = Self.peer
        guard
            case .send(let slot) = tracker.open(
                peer: peer, deadline: 10, exposes: true, now: 0)
        else { return }
        tracker.sent(slot, now: 0)
        var actions: [CallAction] = []
        tracker.expire(now: 10, into: &actions)
        #expect(actions == [.sendCancel(slot: slot)])
        #expect(tracker.isOpen(slot) == true)
        // A second reason to give up changes nothing.
        tracker.giveUp(slot, .cancelled, now: 11, into: &actions)
        #expect(actions.count == 1)
        actions = []
        tracker.expire(now: 10 + CallTracker.graceMax, into: &actions)
        #expect(actions == [.quarantine(slot: slot, .timedOut)])
        #expect(tracker.slots[Int(slot)].error == .timedOut)
        tracker.checkInvariants()
    }

    /// A peer that says twice that it has nothing of a request is not waited for; once may be too
    /// early. The request may only be late, so it is cancelled, and memory is free by the answer.
    @Test func whatThePeerHasNothingOfIsGivenUp() {
        var tracker = Self.make(credits: 0)
        let peer = Self.peer
        let session = SessionID(index: 1, generation: 2)
        var slots: [Int32] = []
        for exposes in [false, true, true, false] {
            guard
                case .send(let slot) = tracker.open(
                    peer: peer, deadline: .max, exposes: exposes, now: 0)
            else { return }
            tracker.sent(slot, now: UInt64(slots.count))
            slots.append(slot)
        }
        let requests = slots.map { tracker.slots[Int($0)].requestID }
        #expect(tracker.overdue(UInt32(peer), now: CallTracker.probeAfter - 1) == [])
        #expect(
            tracker.overdue(UInt32(peer), now: CallTracker.probeAfter + 2) == Array(requests[..<3]))
        var actions: [CallAction] = []
        // One has given up already, and waits for the peer's word about its memory.
        tracker.giveUp(slots[1], .cancelled, now: 5, into: &actions)
        actions = []
        func absent(_ requests: [UInt64], _ peer: UInt32, _ session: SessionID) {
            tracker.absent(requests, peer: peer, session: session, now: 9, into: &actions)
        }
        for _ in 0..<3 {
            absent(requests, UInt32(peer), SessionID(index: 1, generation: 3))
            absent(requests, 99, session)
        }
        #expect(actions == [])
        absent(Array(requests[..<3]), UInt32(peer), session)
        absent([12], UInt32(peer), session)
        #expect(actions == [])
        absent(requests, UInt32(peer), session)
        #expect(
            actions == [
                .sendCancel(slot: slots[0]), .end(slot: slots[0], .unreachable),
                .sendCancel(slot: slots[1]), .sendCancel(slot: slots[2]),
            ])
        for slot in slots[1...2] {
            let isEnding = tracker.slots[Int(slot)].phase == .ending
            #expect(isEnding)
        }
        #expect(tracker.slots[Int(slots[2])].error == .unreachable)
        // That may get lost as well.
        _ = tracker.end(slots[0])
        actions = []
        for _ in 0..<2 { absent(Array(requests[1..<3]), UInt32(peer), session) }
        #expect(actions == [.sendCancel(slot: slots[1]), .sendCancel(slot: slots[2])])
        // Another call in the same slot begins anew.
        tracker.close(slots[0])
        guard
            case .send(let again) = tracker.open(
                peer: peer, deadline: .max, exposes: false, now: 10)
        else { return }
        tracker.sent(again, now: 10)
        actions = []
        absent([tracker.slots[Int(again)].requestID], UInt32(peer), session)
        #expect(actions == [])
        tracker.checkInvariants()
    }

    @Test func probesOnlyWhenSomethingIsOverdue() {
        var tracker = Self.make(credits: 2)
        let peer = Self.peer
        var actions: [CallAction] = []
        tracker.probe(now: 10 * Self.second, into: &actions)
        #expect(actions.isEmpty)
        #expect(tracker.needsProbes == false)
        guard
            case .send(let slot) = tracker.open(
                peer: peer, deadline: .max, exposes: false, now: 10 * Self.second)
        else { return }
        tracker.sent(slot, now: 10 * Self.second)
        #expect(tracker.needsProbes == true)
        tracker.probe(now: 10 * Self.second + CallTracker.probeAfter - 1, into: &actions)
        #expect(actions.isEmpty)
        var now = 10 * Self.second + CallTracker.probeAfter
        tracker.probe(now: now, into: &actions)
        guard case .hello(peer, let nonce, false)? = actions.first else {
            Issue.record("\(actions)")
            return
        }
        // No answer: the same number again, less and less often, and then a new connection.
        var hellos = 1
        var reconnects = 0
        actions = []
        for _ in 0..<400 {
            now += 10_000_000
            tracker.probe(now: now, into: &actions)
        }
        for action in actions {
            guard case .hello(peer, nonce, let reconnect) = action else { continue }
            hellos += 1
            if reconnect { reconnects += 1 }
        }
        #expect((5...9).contains(hellos))
        #expect(reconnects == 2)
        // The same instance and session: the request goes on.
        actions = []
        let session = tracker.peers[Int(peer)].session
        #expect(
            tracker.answered(
                peer: 0, nonce: nonce, instance: 7, session: session, credits: 2, now: now,
                into: &actions))
        #expect(actions.isEmpty)
        // An answer that comes twice is one answer.
        #expect(
            !tracker.answered(
                peer: 0, nonce: nonce, instance: 8, session: session, credits: 2, now: now,
                into: &actions))
        tracker.checkInvariants()
    }

    /// Calls that all end before a probe is due find out about a peer that has started again too.
    @Test func aCallThatRunsOutAsksThePeer() {
        var tracker = Self.make(credits: 2)
        let peer = Self.peer
        var actions: [CallAction] = []
        let patience = CallTracker.probeAfter / 2
        var now = Self.second
        var hellos = 0
        for _ in 0..<20 {
            guard
                case .send(let slot) = tracker.open(
                    peer: peer, deadline: now + patience, exposes: false, now: now)
            else { return }
            tracker.sent(slot, now: now)
            now += patience
            tracker.probe(now: now, into: &actions)
            #expect(actions.isEmpty)
            tracker.expire(now: now, into: &actions)
            for case .hello in actions { hellos += 1 }
            #expect(actions.contains(.end(slot: slot, .timedOut)))
            _ = tracker.end(slot)
            tracker.close(slot)
            actions = []
        }
        // Less and less often: the answer may be late.
        #expect((2...10).contains(hellos))
        tracker.checkInvariants()
    }

    @Test(arguments: [(UInt64(7), RPCError.unreachable), (8, .peerRestarted)])
    func anotherSessionEndsWhatWasSentInTheOldOne(instance: UInt64, error: RPCError) {
        var tracker = Self.make(credits: 1)
        let peer = Self.peer
        guard
            case .send(let sent) = tracker.open(peer: peer, deadline: .max, exposes: true, now: 0),
            case .wait(let waiting) = tracker.open(
                peer: peer, deadline: .max, exposes: false, now: 0)
        else { return }
        tracker.sent(sent, now: 0)
        var actions: [CallAction] = []
        tracker.probe(now: Self.second, into: &actions)
        guard case .hello(_, let nonce, _)? = actions.first else { return }
        actions = []
        _ = tracker.answered(
            peer: 0, nonce: nonce, instance: instance,
            session: SessionID(index: 1, generation: 3), credits: 1, now: Self.second,
            into: &actions)
        #expect(actions == [.quarantine(slot: sent, error)])
        // What was not sent yet goes out in the new session.
        #expect(tracker.end(sent) == waiting)
    }

    /// A peer that has not answered for memory is asked, ever more rarely while it is silent, until
    /// it owes nothing; a call to it does not wait for the next time.
    @Test func asksAPeerThatOwesAnAnswer() {
        var tracker = Self.make(credits: 2)
        let peer = Self.peer
        var actions: [CallAction] = []
        var now = Self.second
        tracker.lost(peer, isGone: true, now: now, into: &actions)
        #expect(actions.isEmpty && tracker.needsProbes == false)
        tracker.owes(peer, true, now: now)
        #expect(tracker.needsProbes == true)
        var times: [UInt64] = []
        while now < 120 * Self.second {
            now += 50_000_000
            tracker.probe(now: now, into: &actions)
            if !actions.isEmpty { times.append(now) }
            #expect(actions.count <= 1)
            actions = []
        }
        #expect((12...22).contains(times.count), "\(times)")
        let last = times[times.count - 1] - times[times.count - 2]
        #expect(last >= CallTracker.owedIntervalMax)
        // Somebody waits for it now.
        let admission = tracker.open(
            peer: peer, deadline: .max, exposes: false, now: now)
        #expect(admission != .overloaded)
        tracker.probe(now: now + CallTracker.probeAfter, into: &actions)
        guard case .hello(peer, let nonce, _)? = actions.first else {
            Issue.record("no hello: \(actions)")
            return
        }
        now += CallTracker.probeAfter
        actions = []
        #expect(
            tracker.answered(
                peer: 0, nonce: nonce, instance: 7, session: SessionID(index: 1, generation: 9),
                credits: 2, now: now, into: &actions))
        for case .grant(let slot) in actions {
            _ = tracker.end(slot)
            tracker.close(slot)
        }
        actions = []
        // It is there, and still owes an answer: it is asked again soon.
        tracker.probe(now: now + CallTracker.probeIntervalMax, into: &actions)
        #expect(actions.count == 1)
        tracker.owes(peer, false, now: now)
        #expect(tracker.needsProbes == false)
        tracker.checkInvariants()
    }

    /// Where every hello fails at once the next one is as late as after silence. What is heard of
    /// the peer, and a call to it, begin anew.
    @Test func hellosThatFailAreSentEverMoreRarely() {
        var tracker = Self.make(credits: 1)
        var actions: [CallAction] = []
        var now = Self.second
        tracker.owes(Self.peer, true, now: now)
        var times: [UInt64] = []
        while now < 120 * Self.second {
            now += 50_000_000
            guard Self.hello(&tracker, at: now) != 0 else { continue }
            times.append(now)
            tracker.lost(Self.peer, now: now, into: &actions)
        }
        #expect(actions.isEmpty && (12...22).contains(times.count), "\(times)")
        tracker.heard(Self.peer, now: now)
        let heard = Self.hello(&tracker, at: now + CallTracker.probeAfter)
        #expect(heard != 0)
        // The next one fails again, and a call says hello itself.
        tracker.lost(Self.peer, now: now + CallTracker.probeAfter, into: &actions)
        now += 60 * Self.second
        let late = Self.hello(&tracker, at: now)
        tracker.lost(Self.peer, now: now, into: &actions)
        let admission = tracker.open(peer: Self.peer, deadline: .max, exposes: false, now: now)
        let repeated = Self.hello(&tracker, at: now + 2 * CallTracker.probeAfter)
        #expect(late != 0 && repeated != 0)
        guard case .greet(let slot, repeated) = admission else {
            Issue.record("\(admission)")
            return
        }
        tracker.lost(Self.peer, now: now + 2 * CallTracker.probeAfter, into: &actions)
        #expect(actions == [.end(slot: slot, .unreachable)])
        _ = tracker.end(slot)
        tracker.close(slot)
        tracker.checkInvariants()
    }

    /// What an earlier life of a peer answers late does not count once it is known to be over.
    @Test func answersToDisregardedHellosDoNotCount() {
        var tracker = Self.make(credits: 1)
        tracker.owes(Self.peer, true, now: Self.second)
        let old = Self.hello(&tracker, at: 2 * Self.second)
        tracker.disregardHellos(of: Self.peer)
        let isOldGood = Self.isAnswer(old, &tracker, at: 2 * Self.second)
        let new = Self.hello(&tracker, at: 4 * Self.second)
        let isOldGoodLater = Self.isAnswer(old, &tracker, at: 4 * Self.second)
        let isNewGood = Self.isAnswer(new, &tracker, at: 4 * Self.second)
        #expect(old != 0 && new != 0 && old != new)
        #expect(!isOldGood && !isOldGoodLater && isNewGood)
        tracker.checkInvariants()
    }

    /// The number of the hello that is due; 0 when none is.
    private static func hello(_ tracker: inout CallTracker, at time: UInt64) -> UInt64 {
        var actions: [CallAction] = []
        tracker.probe(now: time, into: &actions)
        guard case .hello(peer, let nonce, _)? = actions.first else { return 0 }
        return nonce
    }

    /// Whether the peer's answer to a hello is taken for one.
    private static func isAnswer(
        _ nonce: UInt64, _ tracker: inout CallTracker, at time: UInt64
    ) -> Bool {
        var actions: [CallAction] = []
        return tracker.answered(
            peer: UInt32(peer), nonce: nonce, instance: 7,
            session: SessionID(index: 1, generation: 9), credits: 1, now: time, into: &actions)
    }

    private static func perform(
        _ actions: [CallAction], _ tracker: inout CallTracker, _ nonces: inout [UInt64]
    ) {
        for action in actions {
            switch action {
            case .end(let slot, _), .quarantine(let slot, _):
                guard tracker.isOpen(slot) else { continue }
                _ = tracker.end(slot)
            case .hello(let peer, let nonce, _): nonces[Int(peer)] = nonce
            case .grant, .sendCancel: break
            }
        }
    }

    /// Random events, with the invariants checked after each.
    @Test(arguments: 1...20)
    func keepsItsInvariants(seed: UInt64) {
        var random = Entropy(seed: seed)
        var tracker = CallTracker(entropy: Entropy(seed: seed), waitingMax: 8)
        for _ in 0..<3 { _ = tracker.addPeer() }
        var nonces: [UInt64] = [0, 0, 0]
        var now: UInt64 = 0
        var session: UInt32 = 0

        for _ in 0..<3000 {
            now += random.below(20_000_000)
            let peer = Int32(random.below(3))
            let slot =
                tracker.slots.isEmpty
                ? 0 : Int32(random.below(UInt64(tracker.slots.count)))
            var actions: [CallAction] = []
            switch random.below(9) {
            case 0, 1, 2:
                if case .greet(_, let nonce) = tracker.open(
                    peer: peer, deadline: now + random.below(Self.second),
                    exposes: random.chance(1, in: 3), now: now)
                {
                    nonces[Int(peer)] = nonce
                }
            case 3:
                for slot in tracker.slots.indices where tracker.slots[slot].phase == .granted {
                    tracker.sent(Int32(slot), now: now)
                }
            case 4:
                guard !tracker.slots.isEmpty else { continue }
                let phase = tracker.slots[Int(slot)].phase
                if phase == .inFlight || phase == .ending { _ = tracker.end(slot) }
            case 5:
                for slot in tracker.slots.indices where tracker.slots[slot].phase == .ended {
                    tracker.close(Int32(slot))
                }
            case 6:
                tracker.expire(now: now, into: &actions)
                tracker.probe(now: now, into: &actions)
            case 7:
                if random.chance(1, in: 2) { session += 1 }
                _ = tracker.answered(
                    peer: UInt32(peer), nonce: nonces[Int(peer)], instance: random.below(2),
                    session: SessionID(index: 0, generation: session),
                    credits: UInt32(random.below(4)), now: now, into: &actions)
            default:
                if random.chance(1, in: 5) {
                    tracker.lost(peer, now: now, into: &actions)
                } else if !tracker.slots.isEmpty {
                    tracker.giveUp(slot, .cancelled, now: now, into: &actions)
                }
            }
            Self.perform(actions, &tracker, &nonces)
            tracker.checkInvariants()
        }
        var actions: [CallAction] = []
        tracker.closeAll(into: &actions)
        Self.perform(actions, &tracker, &nonces)
        for slot in tracker.slots.indices where tracker.slots[slot].phase == .ended {
            tracker.close(Int32(slot))
        }
        #expect(tracker.openCount == 0)
        #expect(tracker.waitingCount == 0)
        #expect(tracker.nextDeadline == .max)
    }
}

@Suite struct TableTests {
    /// The heap against a sorted list.
    @Test(arguments: 1...10)
    func deadlinesAgainstAModel(seed: UInt64) {
        var random = Entropy(seed: seed)
        var heap = DeadlineHeap()
        var model: [Int32: UInt64] = [:]
        for _ in 0..<2000 {
            let slot = Int32(random.below(64))
            if model[slot] == nil, random.chance(2, in: 3) {
                let deadline = random.below(1000)
                model[slot] = deadline
                heap.insert(slot: slot, deadline: deadline)
            } else {
                model[slot] = nil
                heap.remove(slot: slot)
            }
            heap.checkInvariants()
            #expect(heap.count == model.count)
            #expect(heap.first?.deadline == model.values.min())
            if let first = heap.first { #expect(model[first.slot] == first.deadline) }
        }
    }

    @Test func sessionsAreBoundedAndTheIdleGoFirst() {
        var table = SessionTable(entropy: Entropy(seed: 1), sessionsMax: 3)
        func address(_ number: UInt8) -> FabricAddress {
            FabricAddress(provider: "sim", bytes: [number])
        }
        var ids: [SessionID] = []
        for number in 1...3 as ClosedRange<UInt8> {
            #expect(table.victim() == nil)
            ids.append(
                table.open(
                    instance: UInt64(number), address: address(number),
                    handle: Peer(index: UInt64(number)), eagerLimit: 1024, now: UInt64(number))!)
        }
        table.checkInvariants()
        #expect(
            table.open(
                instance: 9, address: address(9), handle: Peer(index: 9), eagerLimit: 1024, now: 9)
                == nil)
        // The first is idle longest, but at work.
        table.touch(table.find(ids[0])!, now: 10)
        #expect(table.victim() == ids[1])
        #expect(table.idle(before: 2) == nil)
        #expect(table.close(ids[1]) == Peer(index: 2))
        #expect(table.close(ids[1]) == nil)
        #expect(table.find(ids[1]) == nil)
        let next = table.open(
            instance: 9, address: address(9), handle: Peer(index: 9), eagerLimit: 1024, now: 9)!
        #expect(next.index == ids[1].index)
        #expect(next.generation != ids[1].generation)
        #expect(table.find(instance: 9) == next)
        #expect(table.find(address: address(2)) == nil)
        table.finished(ids[0])
        table.finished(ids[1])
        table.checkInvariants()
    }
}
