internal import CaRT
internal import DrayProtocol

/// What to do after an attempt to update has failed.
enum UpdateRetry {
    case giveUp
    /// The same transaction: it will be applied once, whatever became of the first attempt.
    case again
    /// Another transaction: none of the attempts under the identity of this one can be applied any
    /// more.
    case asNew

    /// - Parameters:
    ///   - isRestarted: whether a conflict is no concern of the caller's.
    ///   - wasUnknown: whether an earlier attempt under the same identity may have been served, or
    ///     may be still.
    init(after error: RPCError, isRestarted: Bool, wasUnknown: Bool) {
        if case .application(let code, _) = error {
            switch ServiceCode(rawValue: code) {
            case .aborted: self = .asNew
            // A conflict ends this attempt only; that of a resend ends as `aborted`.
            case .conflict: self = wasUnknown ? .again : isRestarted ? .asNew : .giveUp
            case .tooOld: self = wasUnknown ? .giveUp : .asNew
            case .busy, .undecided, .staleMap: self = .again
            case .notFound, .exists, .noSpace, .unavailable, .invalidArgument, .corrupt,
                .device, .notPermitted, nil:
                self = .giveUp
            }
            return
        }
        self = ClientCore.mayRetry(error) ? .again : .giveUp
    }

    static func isConflict(_ error: RPCError) -> Bool {
        guard case .application(let code, _) = error else { return false }
        return code == ServiceCode.conflict.rawValue
    }
}
