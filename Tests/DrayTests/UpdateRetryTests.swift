import CaRT
import DrayProtocol
import Testing

@testable import Dray

/// What follows each failure of an attempt to update.
@Suite struct UpdateRetryTests {
    @Test(arguments: [
        // Of an identity whose attempts were all answered, and of one of which that is not known.
        (ServiceCode.aborted, UpdateRetry.asNew, UpdateRetry.asNew),
        (.conflict, .asNew, .again),
        (.tooOld, .asNew, .giveUp),
        (.busy, .again, .again), (.undecided, .again, .again), (.staleMap, .again, .again),
        (.notFound, .giveUp, .giveUp), (.exists, .giveUp, .giveUp),
        (.noSpace, .giveUp, .giveUp), (.unavailable, .giveUp, .giveUp),
        (.invalidArgument, .giveUp, .giveUp), (.corrupt, .giveUp, .giveUp),
        (.device, .giveUp, .giveUp), (.notPermitted, .giveUp, .giveUp),
    ])
    func afterAnAnswer(code: ServiceCode, known: UpdateRetry, unknown: UpdateRetry) {
        let error = RPCError.application(code: code.rawValue, message: "")
        for (wasUnknown, expected) in [(false, known), (true, unknown)] {
            #expect(
                UpdateRetry(after: error, isRestarted: true, wasUnknown: wasUnknown) == expected)
        }
    }

    /// Whoever wants to know of conflicts is told, but not before it is certain that no earlier
    /// attempt will be applied.
    @Test(arguments: [false, true]) func conflictsOfCallers(wasUnknown: Bool) {
        let error = RPCError.application(code: ServiceCode.conflict.rawValue, message: "")
        #expect(UpdateRetry.isConflict(error))
        #expect(
            UpdateRetry(after: error, isRestarted: false, wasUnknown: wasUnknown)
                == (wasUnknown ? .again : .giveUp))
    }

    /// The same transaction, whatever became of it: never another one.
    @Test(arguments: [RPCError.timedOut, .unreachable]) func withoutAnAnswer(error: RPCError) {
        for wasUnknown in [false, true] {
            let next = UpdateRetry(after: error, isRestarted: true, wasUnknown: wasUnknown)
            #expect(next != .asNew)
        }
    }
}
