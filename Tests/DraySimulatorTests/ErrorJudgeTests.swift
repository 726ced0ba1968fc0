import CaRT
import Dray
import DrayProtocol
import Testing

@testable import DraySimulator

/// What errors of changes say of them.
@Suite struct ErrorJudgeTests {
    private let judge = ErrorJudge(name: "test", clocksDiffer: false)

    /// An error of a change that the client knows not to have happened.
    private static let refused = DrayError(
        .unavailable, "aborted",
        cause: .application(code: ServiceCode.aborted.rawValue, message: "aborted"))

    @Test(arguments: [DrayError.Code.unavailable, .timedOut, .cancelled])
    func anOutcomeMayBeOpen(code: DrayError.Code) {
        #expect(judge.outcome(of: DrayError(code, "no answer"), "key") == .open)
        #expect((judge.unknownOutcomes, judge.refusals) == (1, 0))
        #expect(judge.violations.isEmpty)
    }

    /// The client has promised something, and is held to it.
    @Test func aRefusedChangeHasNotHappened() {
        #expect(!Self.refused.mayHaveHappened)
        #expect(judge.outcome(of: Self.refused, "key") == .nothing)
        #expect((judge.unknownOutcomes, judge.refusals) == (0, 1))
        #expect(judge.violations.isEmpty)
    }

    @Test(arguments: [
        DrayError.Code.notFound, .exists, .noSpace, .invalidArgument, .corrupt, .tooOld, .conflict,
        .device, .internalError,
    ])
    func otherErrorsMayNotBe(code: DrayError.Code) {
        #expect(judge.outcome(of: DrayError(code, "wrong"), "key") == .wrong)
        #expect(judge.violations.map(\.kind) == [.error])
    }

    /// Clocks that agree are no reason to refuse anything.
    @Test(arguments: [false, true]) func clocksThatDiffer(differ: Bool) {
        let judge = ErrorJudge(name: "test", clocksDiffer: differ)
        let error = DrayError(.unavailable, "clocks", cause: .clockSkew)
        #expect(judge.outcome(of: error, "key") == (differ ? .open : .wrong))
    }
}
