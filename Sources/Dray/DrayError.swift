public import CaRT
internal import DrayProtocol

/// What a call of the client library ends with when it does not succeed.
public struct DrayError: Error, Sendable, CustomStringConvertible {
    /// What kind of error it is, for programs.
    public enum Code: String, Sendable, CaseIterable {
        /// No such pool, container, object or key.
        case notFound
        /// It exists already.
        case exists
        /// The pool or its devices are full. Nothing was changed.
        case noSpace
        /// An engine that is needed does not answer: nobody is there, or a change had no answer at
        /// all before its deadline. `mayHaveHappened` tells whether a change that was under way can
        /// have happened; it is never half done.
        case unavailable
        /// The deadline passed, and the engines that are needed may be there. As for `unavailable`,
        /// `mayHaveHappened` says of a change whether its outcome is unknown.
        case timedOut
        /// The request makes no sense: a name too long, a size of zero. Nothing was changed.
        case invalidArgument
        /// Stored data does not match its checksum. It is never returned.
        case corrupt
        /// What was visible at the epoch is not kept any more.
        case tooOld
        /// The calling task was cancelled. The outcome of a change is unknown.
        case cancelled
        /// Something that a transaction has read was changed by another: it begins again.
        case conflict
        /// The container was not opened for that, or not by who asks. Nothing was changed.
        case notPermitted
        /// An engine reported an error of its device.
        case device
        /// A defect of Dray, or of a peer.
        case internalError
    }

    public let code: Code

    /// What happened and what to do about it, for people.
    public let message: String

    /// The error of the transport below, if that is where it comes from.
    public let cause: RPCError?

    /// Of a change: whether it may have happened, or happen yet. If not, nobody will ever see
    /// anything of it.
    public internal(set) var mayHaveHappened: Bool

    public init(_ code: Code, _ message: String, cause: RPCError? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
        mayHaveHappened =
            switch code {
            case .unavailable, .timedOut, .cancelled, .device, .internalError: true
            case .notFound, .exists, .noSpace, .invalidArgument, .corrupt, .conflict, .tooOld,
                .notPermitted:
                false
            }
        if case .application(let code, _) = cause, code == ServiceCode.aborted.rawValue {
            mayHaveHappened = false
        }
    }

    public var description: String { message }

    /// Translates an error of a call that was made for `subject`, such as "pool tank", to the
    /// engine of rank `engine`, if it was a certain one.
    init(_ error: RPCError, _ subject: String, engine: UInt32? = nil) {
        switch error {
        case .application(let code, let message):
            self.init(DrayError.code(ofService: code), "\(subject): \(message)", cause: error)
        case .timedOut:
            let who = engine.map { "of engine \($0) " } ?? ""
            self.init(
                .timedOut,
                "\(subject): no answer \(who)before the deadline; is the cluster running? "
                    + "(dray cluster status)", cause: error)
        case .unreachable, .peerRestarted, .overloaded:
            self.init(
                .unavailable,
                "\(subject): \(engine.map { "engine \($0)" } ?? "an engine") does not answer; "
                    + "is it running? (dray cluster status)", cause: error)
        case .cancelled, .closed:
            self.init(.cancelled, "\(subject): cancelled", cause: error)
        case .messageTooLong:
            self.init(.invalidArgument, "\(subject): the request is too large", cause: error)
        case .clockSkew:
            self.init(
                .unavailable,
                "\(subject): the clocks of this machine and of "
                    + "\(engine.map { "engine \($0)" } ?? "an engine") are too far apart; "
                    + "are they synchronised? (chronyc tracking)", cause: error)
        case .noReply, .unknownProcedure, .protocolVersion, .badMessage, .wrongRank, .wrongTag,
            .staleGroup, .groupVersion, .fabric:
            self.init(.internalError, "\(subject): \(error)", cause: error)
        }
    }

    /// A change had no answer at all: its leader is not there, for all that anybody can tell.
    init(silent engine: UInt32, _ subject: String, cause: RPCError) {
        self.init(
            .unavailable,
            "\(subject): no answer of engine \(engine) before the deadline; is it running? "
                + "(dray cluster status)", cause: cause)
    }

    private static func code(ofService code: UInt32) -> Code {
        switch ServiceCode(rawValue: code) {
        case .notFound: .notFound
        case .exists: .exists
        case .noSpace: .noSpace
        case .unavailable, .staleMap, .busy, .aborted, .undecided, .tooOld: .unavailable
        case .conflict: .conflict
        case .invalidArgument: .invalidArgument
        case .corrupt: .corrupt
        case .notPermitted: .notPermitted
        case .device: .device
        case nil: .internalError
        }
    }
}
