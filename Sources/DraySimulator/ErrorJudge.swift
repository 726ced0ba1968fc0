internal import CaRT
internal import Dray

/// Which errors may be, and what they say about the outcome, for one client.
final class ErrorJudge {
    private let name: String
    /// Clocks may be off: a request may be refused for that.
    private let clocksDiffer: Bool
    /// Blocks have rotted: a read may say so.
    var mayBeDamaged = false

    /// What an error says of the change that it has ended.
    enum Outcome {
        /// It may have happened, or happen yet: whole or not at all.
        case open
        /// It has not happened, and never will.
        case nothing
        /// The error may not be.
        case wrong
    }

    /// Operations whose outcome is open.
    private(set) var unknownOutcomes = 0
    /// Changes that have failed and are known not to have happened.
    private(set) var refusals = 0
    /// The last error that may be, in words.
    private(set) var lastFailure = "nothing has failed"
    /// Reads that were refused because what is stored is damaged.
    private(set) var damagedReads = 0
    private(set) var violations: [Violation] = []

    init(name: String, clocksDiffer: Bool) {
        self.name = name
        self.clocksDiffer = clocksDiffer
    }

    /// What the error of a change says of it. One that may not be is a violation.
    func outcome(of error: DrayError, _ subject: String) -> Outcome {
        lastFailure = "\(subject): \(error.code): \(error)"
        switch error.code {
        case .unavailable where error.cause == .clockSkew && !clocksDiffer:
            violation("\(subject): \(error)", .error)
            return .wrong
        case .unavailable, .timedOut, .cancelled:
            // Even if its last attempt was refused, an earlier one may have got through: it is for
            // the client to tell.
            if error.mayHaveHappened {
                unknownOutcomes += 1
                return .open
            }
            refusals += 1
            return .nothing
        case .notFound, .exists, .noSpace, .invalidArgument, .corrupt, .conflict, .tooOld,
            .notPermitted, .device, .internalError:
            violation("\(subject): unexpected error \(error.code): \(error)", .error)
            return .wrong
        }
    }

    /// A read has failed: that is all right when it could not be served in time, or what is stored
    /// is damaged and can be.
    func judgeRead(_ error: DrayError, _ subject: String) {
        if mayBeDamaged, error.code == .corrupt {
            damagedReads += 1
            return
        }
        _ = outcome(of: error, subject)
    }

    func violation(_ what: String, _ kind: Violation.Kind = .value) {
        violations.append(Violation(kind, "client \(name): \(what)"))
    }

    /// Somebody else has found it for this client.
    func `repeat`(_ violation: Violation) { violations.append(violation) }
}
