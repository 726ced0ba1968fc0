/// What a checker came to.
package enum CheckOutcome: Equatable, Sendable {
    /// There is an order of the operations that explains every answer.
    case passed
    /// There is none; what shows it, in words.
    case violated(String)
    /// The search became too large. The history counts as not checked.
    case gaveUp(String)

    /// What is wrong, in words; nil when nothing is.
    package var problem: String? {
        switch self {
        case .passed: nil
        case .violated(let what): what
        case .gaveUp(let what): "not checked: \(what)"
        }
    }
}
