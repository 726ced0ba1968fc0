public import DrayRuntime

/// How the members' namespaces talk to each other.
enum IncastProtocol {
    static let id = ProtocolID(reserved: 0xf4, version: 1)
    static let fetch = Procedure<FetchRequest, FetchReply>(id, index: 1, name: "incast.fetch")
    static let update = Procedure<UpdateRequest, UpdateReply>(id, index: 2, name: "incast.update")
    static let refresh = Procedure<RefreshRequest, RefreshReply>(
        id, index: 3, name: "incast.refresh")

    /// The longest encoded key.
    static let keyBytesMax = 64 << 10
    /// The longest encoded value. Contexts may allow less: `ContextOptions.messageSizeMax`.
    static let valueBytesMax = 1 << 30

    /// Which variable, and what its sender believes about the group.
    struct Address: ByteCodable, Hashable, Sendable {
        var namespace: UInt32 = 0
        var number: UInt32 = 0
        var groupVersion: UInt32 = 0
        var owner: UInt32 = 0
        var key: [UInt8] = []

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&namespace)
            try coder.code(&number)
            try coder.code(&groupVersion)
            try coder.code(&owner)
            try coder.code(&key, max: IncastProtocol.keyBytesMax)
        }
    }

    struct FetchRequest: Message {
        var address = Address()
        /// The least version that will do; `UInt64.max`: the latest.
        var minimum: UInt64 = 0

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&address)
            try coder.code(&minimum)
        }
    }

    struct FetchReply: Message {
        var version: UInt64 = 0
        var value: [UInt8] = []

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&version)
            try coder.code(&value, max: IncastProtocol.valueBytesMax)
            guard version < .max else { throw .invalidValue }
        }
    }

    struct UpdateRequest: Message {
        var address = Address()
        var instance: UInt64 = 0
        var update: UInt64 = 0
        /// When no attempt of the update is made any more: wall clock, nanoseconds since 1970.
        var expires: UInt64 = 0
        var sync = IncastSync.none
        var isBidirectional = false
        /// Nil for an invalidation.
        var value: [UInt8]?

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&address)
            try coder.code(&instance)
            try coder.code(&update)
            try coder.code(&expires)
            try coder.code(&sync)
            try coder.code(&isBidirectional)
            try coder.codeValue(&value)
        }
    }

    struct UpdateReply: Message {
        var version: UInt64 = 0
        /// What the owner has, when the update was bidirectional.
        var value: [UInt8]?
        var reach = Reach()

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&version)
            try coder.codeValue(&value)
            try coder.code(&reach)
            guard version < .max else { throw .invalidValue }
        }
    }

    struct RefreshRequest: Message {
        var address = Address()
        var version: UInt64 = 0
        /// Nil: copies below the version are stale.
        var value: [UInt8]?

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&address)
            try coder.code(&version)
            try coder.codeValue(&value)
            guard version < .max else { throw .invalidValue }
        }
    }

    struct RefreshReply: Message {
        var reach = Reach()

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&reach)
        }
    }

    /// Whom news reached.
    struct Reach: ByteCodable, Hashable, Sendable {
        var reached = 0
        var missed = IncastMissed()
        /// Some were missed because they know another version of the group.
        var isStale = false

        mutating func add(_ other: Reach) {
            reached += other.reached
            missed.add(other.missed)
            isStale = isStale || other.isStale
        }

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            var (reached, missed) = (UInt32(self.reached), UInt32(self.missed.count))
            try coder.code(&reached)
            try coder.code(&missed)
            try coder.code(&self.missed.ranks, max: IncastMissed.ranksMax)
            try coder.code(&isStale)
            guard coder.isDecoding else { return }
            guard self.missed.ranks.count == min(Int(missed), IncastMissed.ranksMax) else {
                throw .invalidValue
            }
            self.reached = Int(reached)
            self.missed.count = Int(missed)
        }
    }
}

extension IncastSync: ByteCodable {
    /// Nothing is spread.
    public init() { self = .none }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        var (time, event): (UInt8, UInt8) =
            switch self {
            case .none: (0, 0)
            case .lazy(let event): (1, event.rawValue)
            case .eager(let event): (2, event.rawValue)
            }
        try coder.code(&time)
        try coder.code(&event)
        guard coder.isDecoding else { return }
        switch (time, Event(rawValue: event)) {
        case (0, nil) where event == 0: self = .none
        case (1, let event?): self = .lazy(event)
        case (2, let event?): self = .eager(event)
        default: throw .invalidValue
        }
    }
}

extension ByteCoder {
    /// Codes an encoded value that may be missing.
    fileprivate mutating func codeValue(_ value: inout [UInt8]?) throws(DecodingFailure) {
        try code(&value, default: []) { (coder, value) throws(DecodingFailure) in
            try coder.code(&value, max: IncastProtocol.valueBytesMax)
        }
    }
}
