/// Something that must not be, which a run of a cluster has shown.
public struct Violation: Hashable, Sendable, CustomStringConvertible {
    /// What is violated. A run that is made smaller shall show the same.
    public enum Kind: String, CaseIterable, Sendable {
        /// The cluster could not be made: nothing was tested.
        case setUp = "set-up"
        /// An engine does not come up again.
        case start
        /// Something does not come to its end.
        case hang
        /// An operation has ended with an error that may not be.
        case error
        /// Somebody was shown what cannot be.
        case value
        /// No order of the operations on a shared value explains every answer.
        case linearizability
        /// No order of the transactions explains what they have read.
        case serialisability
        /// A history was too large to be checked.
        case unchecked
        /// Operations fail although nothing is wrong any more.
        case convergence
        /// Something is left although nothing is under way.
        case leak
        /// Replicas differ.
        case replicas
    }

    public var kind: Kind
    /// What was seen, in words.
    public var details: String

    public init(_ kind: Kind, _ details: String) {
        self.kind = kind
        self.details = details
    }

    /// Reads what `description` has written. Nil for anything else.
    public init?(_ description: some StringProtocol) {
        guard let end = description.firstIndex(of: ":"),
            let kind = Kind(rawValue: String(description[..<end]))
        else { return nil }
        let rest = description[end...].dropFirst()
        guard rest.first == " " else { return nil }
        self.init(kind, String(rest.dropFirst()))
    }

    /// The kind, then what was seen.
    public var description: String { "\(kind.rawValue): \(details)" }
}
