extension UniqueID: ByteCodable {
    public init() { self = .zero }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&high)
        try coder.code(&low)
    }
}

extension ObjectID: ByteCodable {
    public init() { self.init(high: 0, low: 0) }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&high)
        try coder.code(&low)
    }
}
