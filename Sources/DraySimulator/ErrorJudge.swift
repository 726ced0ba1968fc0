internal import CaRT
internal import Dray

/// Which errors may be, and what they say about the outcome, for one client.
final class ErrorJudge {
    private let name: String
    /// Clocks may be off: a request may be refused for that.
    private let clocksDiffer: Bool
    /// Blocks have rotted: a read may say so.
    var mayBeDamaged = false

    private(set) var unknownOutcomes = 0
    /// The last error that may be, in words.
    private(set) var lastFailure = "nothing has failed"
    /// Reads that were refused because what is stored is damaged.
    private(set) var damagedReads = 0
    private(set) var violations: [Violation] = []

    init(name: String, clocksDiffer: Bool) {
        self.name = name
        self.clocksDiffer = clocksDiffer
    }

    /// Whether the error leaves the outcome open. Anything else is a violation.
    func isUnknown(_ error: DrayError, _ subject: String) -> Bool {
        lastFailure = "\(subject): \(error.code): \(error)"
        switch error.code {
        case .unavailable where error.cause == .clockSkew && !clocksDiffer:
            violation("\(subject): \(error)", .error)
            return false
        case .unavailable, .timedOut, .cancelled:
            // Even if its last attempt was refused, an earlier one may have got through.
            unknownOutcomes += 1
            return true
        case .notFound, .exists, .noSpace, .invalidArgument, .corrupt, .conflict, .tooOld,
            .device, .internalError:
            violation("\(subject): unexpected error \(error.code): \(error)", .error)
            return false
        }
    }

    /// A read has failed: that is all right when its outcome is unknown, or what is stored is
    /// damaged and can be.
    func judgeRead(_ error: DrayError, _ subject: String) {
        if mayBeDamaged, error.code == .corrupt {
            damagedReads += 1
            return
        }
        _ = isUnknown(error, subject)
    }

    func violation(_ what: String, _ kind: Violation.Kind = .value) {
        violations.append(Violation(kind, "client \(name): \(what)"))
    }

    /// Somebody else has found it for this client.
    func `repeat`(_ violation: Violation) { violations.append(violation) }
}
