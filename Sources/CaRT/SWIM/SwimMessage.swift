package import DrayRuntime

/// What members send each other.
package struct SwimMessage: Message, Hashable {
    package enum Kind: UInt8, Sendable, CaseIterable {
        /// Are you alive?
        case ping = 0
        /// I am; or, of a helper: the one you asked for is.
        case ack = 1
        /// Please ping `target` for me.
        case request = 2
        /// Of a helper: I am alive, and have had no answer from the one you asked for.
        case nack = 3
        /// Nothing but what goes with every message.
        case news = 4
        /// You are not in the group that I know.
        case stranger = 5
    }

    package var kind = Kind.news
    /// Of a ping or request: its number. Of an answer: that of the ping or request. Else 0.
    package var sequence: UInt32 = 0
    /// Of a request: who is to be pinged. Else 0.
    package var target: UInt32 = 0
    /// The sender's own incarnation.
    package var incarnation: UInt64 = 0
    /// The version of the group that the sender knows.
    package var version: UInt32 = 0
    /// What the sender has heard of others.
    package var updates: [SwimMember] = []

    /// The most updates that one message carries.
    package static let updatesMax = 8

    package init() {}

    /// Bytes of the message on the wire, without CaRT's header.
    package var encodedSize: Int { 25 + 13 * updates.count }

    package mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&kind)
        try coder.code(&sequence)
        try coder.code(&target)
        try coder.code(&incarnation)
        try coder.code(&version)
        try coder.code(&updates, max: SwimMessage.updatesMax)
        guard incarnation < SwimMember.incarnationMax else { throw .invalidValue }
    }
}
