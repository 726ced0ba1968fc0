import BasicContainers
import DrayRuntime
import Testing

@testable import CaRT

/// Every phase of a call against every event.
@Suite struct CallTableTests {
    enum Event: CaseIterable {
        case deadline, cancel, abort, reply, cancelledByPeer
        case connectionLost, evicted, sameSession, otherSession, restarted, dismissed, close
    }

    /// A call in one phase, alone with its peer or (waiting) behind another that has the credit.
    struct Setting: ~Copyable {
        var tracker: CallTracker
        var slot: Int32
        var nonce: UInt64

        static let deadline: UInt64 = 1_000_000_000
        static let now: UInt64 = 500_000_000
        static let session = SessionID(index: 1, generation: 2)

        /// Phases `.free` and `.ended` have no open call.
        init(_ phase: CallTracker.Phase, exposes: Bool) {
            tracker = CallTracker(entropy: Entropy(seed: 1), waitingMax: 10)
            let peer = tracker.addPeer()
            var actions: [CallAction] = []
            guard
                case .greet(let first, let nonce) = tracker.open(
                    peer: peer, deadline: .max, exposes: false, now: 0)
            else { preconditionFailure("no hello") }
            self.nonce = nonce
            _ = tracker.answered(
                peer: 0, nonce: nonce, instance: 7, session: Setting.session, credits: 1, now: 0,
                into: &actions)
            if phase == .waiting {
                guard
                    case .wait(let second) = tracker.open(
                        peer: peer, deadline: Setting.deadline, exposes: exposes, now: 0)
                else { preconditionFailure("no wait") }
                slot = second
                // The first call stays granted; it is another matter.
                return
            }
            _ = tracker.end(first)
            tracker.close(first)
            guard
                case .send(let second) = tracker.open(
                    peer: peer, deadline: Setting.deadline, exposes: exposes, now: 0)
            else { preconditionFailure("no credit") }
            slot = second
            switch phase {
            case .granted, .waiting: break
            case .free:
                _ = tracker.end(slot)
                tracker.close(slot)
            case .ended: _ = tracker.end(slot)
            case .inFlight: tracker.sent(slot, now: 0)
            case .ending:
                tracker.sent(slot, now: 0)
                tracker.giveUp(slot, .cancelled, now: 0, into: &actions)
            }
        }

        /// What the context must do about the call itself.
        mutating func on(_ event: Event) -> [CallAction] {
            var actions: [CallAction] = []
            switch event {
            case .deadline: tracker.expire(now: Setting.deadline, into: &actions)
            case .cancel: tracker.giveUp(slot, .cancelled, now: Setting.now, into: &actions)
            case .abort: tracker.abort([0], now: Setting.now, into: &actions)
            case .reply, .cancelledByPeer:
                let index = Int(slot)
                let matches = tracker.matches(
                    slot: UInt32(slot), generation: tracker.slots[index].generation,
                    requestID: tracker.slots[index].requestID)
                if matches { actions = [.grant(slot: -2)] }
            case .connectionLost: tracker.lost(0, now: Setting.now, into: &actions)
            case .evicted: tracker.lost(0, isGone: true, now: Setting.now, into: &actions)
            case .sameSession, .otherSession, .restarted:
                var asked: [CallAction] = []
                tracker.probe(now: Setting.now, into: &asked)
                for case .hello(_, let number, _) in asked { nonce = number }
                let session =
                    event == .sameSession
                    ? Setting.session : SessionID(index: 1, generation: 3)
                let isTaken = tracker.answered(
                    peer: 0, nonce: nonce, instance: event == .restarted ? 8 : 7,
                    session: session, credits: 1, now: Setting.now, into: &actions)
                // Nobody asks a peer that owes nothing, so nobody listens to it either.
                #expect(isTaken == !asked.isEmpty)
            case .dismissed:
                tracker.dismissed(
                    session: Setting.session, instance: 7, now: Setting.now, into: &actions)
            case .close: tracker.closeAll(into: &actions)
            }
            return actions.filter { action in
                switch action {
                case .grant(let slot): slot == -2
                case .end(let slot, _), .sendCancel(let slot), .quarantine(let slot, _):
                    slot == self.slot
                case .hello: false
                }
            }
        }
    }

    /// What becomes of the call.
    enum Outcome: Equatable {
        /// Nothing.
        case none
        /// It ends.
        case ends(RPCError)
        /// It ends, and the peer hears of it.
        case endsAndTells(RPCError)
        /// The peer hears of it, and the call waits for its word.
        case tells
        /// The answer is for this call.
        case matches
        /// It ends, and its memory stays as it is.
        case quarantines(RPCError)
    }

    private static func expected(
        _ phase: CallTracker.Phase, exposes: Bool, _ event: Event
    ) -> Outcome {
        switch (phase, event) {
        case (.free, _), (.ended, _): .none

        case (.waiting, .deadline), (.granted, .deadline): .ends(.timedOut)
        case (.waiting, .cancel), (.granted, .cancel): .ends(.cancelled)
        case (.waiting, .abort), (.granted, .abort): .ends(.cancelled)
        case (.waiting, .close), (.granted, .close): .ends(.closed)
        // Nothing of these is with the peer yet: they go out in the next session.
        case (.waiting, .evicted): .ends(.unreachable)
        case (.waiting, _), (.granted, _): .none

        case (.inFlight, .deadline): exposes ? .tells : .endsAndTells(.timedOut)
        case (.inFlight, .cancel), (.inFlight, .abort):
            exposes ? .tells : .endsAndTells(.cancelled)
        case (.inFlight, .reply), (.inFlight, .cancelledByPeer): .matches
        // The peer may still be at work on it, or come back and go on.
        case (.inFlight, .connectionLost), (.inFlight, .evicted), (.inFlight, .dismissed),
            (.inFlight, .otherSession):
            exposes ? .quarantines(.unreachable) : .ends(.unreachable)
        case (.inFlight, .restarted):
            exposes ? .quarantines(.peerRestarted) : .ends(.peerRestarted)
        case (.inFlight, .sameSession): .none
        case (.inFlight, .close): exposes ? .quarantines(.closed) : .ends(.closed)

        // It was cancelled; only its memory is still to be settled.
        case (.ending, .reply), (.ending, .cancelledByPeer): .matches
        case (.ending, .connectionLost), (.ending, .evicted), (.ending, .dismissed),
            (.ending, .otherSession), (.ending, .restarted):
            .quarantines(.cancelled)
        case (.ending, .close): .quarantines(.closed)
        case (.ending, .deadline), (.ending, .cancel), (.ending, .abort), (.ending, .sameSession):
            .none
        }
    }

    @Test func everyEventInEveryPhase() {
        for exposes in [false, true] {
            for phase in [.free, .waiting, .granted, .inFlight, .ending, .ended]
                as [CallTracker.Phase]
            where phase != .ending || exposes {
                for event in Event.allCases {
                    var setting = Setting(phase, exposes: exposes)
                    #expect(setting.tracker.slots[Int(setting.slot)].phase == phase)
                    let actions = setting.on(event)
                    let outcome: Outcome
                    switch actions.count {
                    case 0: outcome = .none
                    case 1:
                        switch actions[0] {
                        case .grant: outcome = .matches
                        case .end(_, let error): outcome = .ends(error)
                        case .sendCancel: outcome = .tells
                        case .quarantine(_, let error): outcome = .quarantines(error)
                        case .hello: continue
                        }
                    default:
                        guard case .end(_, let error) = actions[1],
                            actions[0] == .sendCancel(slot: setting.slot), actions.count == 2
                        else {
                            Issue.record("\(phase), \(event): \(actions)")
                            continue
                        }
                        outcome = .endsAndTells(error)
                    }
                    #expect(
                        outcome == Self.expected(phase, exposes: exposes, event),
                        "\(phase), \(event), exposes: \(exposes)")
                    // What was ended can be closed, and leaves nothing.
                    for action in actions {
                        switch action {
                        case .end(let slot, _), .quarantine(let slot, _):
                            _ = setting.tracker.end(slot)
                        case .grant, .sendCancel, .hello: break
                        }
                    }
                    if setting.tracker.slots[Int(setting.slot)].phase == .ended {
                        setting.tracker.close(setting.slot)
                    }
                    setting.tracker.checkInvariants()
                }
            }
        }
    }

    /// An ending call that hears nothing: its memory is given up after the time of grace.
    @Test func silenceEndsWithQuarantine() {
        var setting = Setting(.ending, exposes: true)
        var actions: [CallAction] = []
        setting.tracker.expire(now: CallTracker.graceMax, into: &actions)
        #expect(actions == [.quarantine(slot: setting.slot, .cancelled)])
    }

    /// A call that leaves its memory does not wait for the peer's word.
    @Test func memoryIsLeftAtOnce() {
        var tracker = CallTrackerTests.make(credits: 0)
        guard
            case .send(let slot) = tracker.open(
                peer: 0, deadline: 10, exposes: true, leavesMemory: true, now: 0)
        else {
            Issue.record("no credit")
            return
        }
        tracker.sent(slot, now: 0)
        var actions: [CallAction] = []
        tracker.expire(now: 10, into: &actions)
        #expect(actions == [.sendCancel(slot: slot), .quarantine(slot: slot, .timedOut)])
    }
}
