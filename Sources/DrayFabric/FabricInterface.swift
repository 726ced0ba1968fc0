/// What one provider offers on one interface of this machine (CaRT: `crt_protocol_info_get`).
public struct FabricInterface: Hashable, Sendable {
    /// The provider as Dray spells it: `ofi+tcp`, `ofi+tcp;ofi_rxm`, `shm`, `sim`.
    public var provider: String
    /// The provider as libfabric spells it: `net`, `tcp;ofi_rxm`, `shm`; nil for Dray's own.
    public var libfabricProvider: String?
    /// libfabric's name of the domain: the interface for TCP, the adapter for InfiniBand. Empty
    /// for Dray's own providers.
    public var domain: String
    /// libfabric's name of the network: `192.0.2.0/24` for TCP.
    public var fabric: String
    /// The kernel's name of the interface; nil where there is none.
    public var interface: String?
    /// The IP address without a port; nil where the provider has other addresses.
    public var host: String?
    /// The largest message; nil for any size.
    public var messageSizeMax: UInt64?
    /// Whether idle processes sleep until something arrives; nil when it was not found out. Where
    /// they do not, the provider is polled with a growing pause.
    public var canWait: Bool?
    /// Whether peers' memory can be read and written.
    public var hasRemoteMemory: Bool
    /// Whether messages arrive whole and at most once at an endpoint that talks to any number of
    /// peers: what Dray builds on.
    public var isReliableDatagram: Bool
    /// Why Dray cannot use it; nil when an endpoint was opened there.
    public var problem: String?

    /// Whether Dray can use it.
    public var isUsable: Bool { problem == nil }
}
