/// Carries an object that is confined to an xstream through code that is not.
///
/// The door from other threads: hold the box anywhere, and open it inside `xstream.run`.
public final class XStreamBound<Value>: @unchecked Sendable {
    // SAFETY: the value is reached only on its xstream, which `value` checks.
    private let stored: Value

    /// Where the value lives.
    public let xstream: XStream

    /// Binds `value` to the xstream that the caller runs on.
    public init(_ value: Value, to xstream: XStream) {
        precondition(xstream.isCurrent, "bind a value on its own xstream")
        stored = value
        self.xstream = xstream
    }

    /// The value. Traps when the caller is not on the xstream.
    public var value: Value {
        precondition(xstream.isCurrent, "not on xstream \(xstream.name)")
        return stored
    }
}
