/// Where an endpoint is: a provider's name and the address in that provider's own bytes.
///
/// As text: `ofi+tcp://127.0.0.1:31416`, `ofi+tcp;ofi_rxm://…`, `ofi+shm://NAME`,
/// `sim://ENDPOINT`. Socket addresses are shown as host and port, anything else in hexadecimal.
public struct FabricAddress: Hashable, Sendable {
    /// The provider as the user names it: `ofi+tcp`, `ofi+tcp;ofi_rxm`, `ofi+shm`, `sim`, ….
    public var provider: String

    /// The provider's address (what `fi_getname` gives). At most `bytesMax` bytes.
    public var bytes: [UInt8]

    /// No provider has longer addresses.
    public static let bytesMax = 256

    public init(provider: String, bytes: [UInt8]) {
        self.provider = provider
        self.bytes = bytes
    }
}
