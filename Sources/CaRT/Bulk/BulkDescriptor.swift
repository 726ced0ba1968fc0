public import DrayFabric
public import DrayRuntime

/// Names exposed memory of a process, so that any other process can read or write it.
///
/// Travels in messages. A third process that was handed one goes straight to the owner.
public struct BulkDescriptor: Message, Hashable {
    /// The context that exposed the memory.
    public var owner = FabricAddress(provider: "", bytes: [])
    /// Which instance of that context: a restarted process is another.
    public var instance: UInt64 = 0
    /// Where the memory begins, as the owner's fabric names it.
    public var address: UInt64 = 0
    /// Bytes exposed.
    public var length: UInt64 = 0
    /// What allows access. Unguessable.
    public var key: UInt64 = 0
    /// What the owner allows. Asked before the fabric is: there, a transfer that is not allowed can
    /// cost a connection its messages.
    public var access: MemoryAccess = []

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try owner.code(with: &coder)
        try coder.code(&instance)
        try coder.code(&address)
        try coder.code(&length)
        try coder.code(&key)
        try coder.code(&access)
        guard coder.isDecoding else { return }
        let (_, overflow) = address.addingReportingOverflow(length)
        guard !overflow, length <= UInt64(Int.max),
            access.isSubset(of: [.remoteRead, .remoteWrite])
        else { throw .invalidValue }
    }
}

extension FabricAddress: ByteCodable {
    /// An address that leads nowhere, for decoding into.
    public init() { self.init(provider: "", bytes: []) }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&provider, max: FabricAddress.providerBytesMax)
        try coder.code(&bytes, max: FabricAddress.bytesMax)
    }
}
