public import DrayRuntime

/// What a procedure takes or gives: one description for encoding and decoding.
///
/// A message is small; data travels beside it as payload, or by bulk transfer.
public protocol Message: ByteCodable, Sendable {}

/// A message without content.
public struct EmptyMessage: Message, Hashable {
    public init() {}
    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {}
}
