public import DrayRuntime

/// Makes endpoints. The `World` carries one (`world.fabric`).
public protocol Fabric: Sendable {
    /// Opens an endpoint for the calling xstream.
    ///
    /// - Parameters:
    ///   - address: what to listen on, such as `ofi+tcp://127.0.0.1:31416`; port 0 (or no address
    ///     part) lets the provider choose.
    ///   - xstream: where it is used and makes progress.
    /// - Throws: `.badAddress`, `.noProvider`, `.addressInUse`, or what the provider reports.
    func makeEndpoint(_ address: String, on xstream: XStream) throws(FabricError) -> Endpoint

    /// What an endpoint listens at that only has to be reached by those at `peer`: the same
    /// provider, on the interface that leads there, where that makes a difference.
    func listenAddress(toReach peer: FabricAddress) -> String

    /// What there is to choose from: every provider on every interface, in the order of the
    /// fabric's preference, and whether Dray can use it. Tries to, so it takes a while.
    ///
    /// - Parameters:
    ///   - provider: only these, as Dray spells them; all when empty.
    ///   - xstream: where endpoints are tried; the calling one.
    func interfaces(
        provider: Set<String>, on xstream: XStream
    ) throws(FabricError) -> [FabricInterface]
}

extension Fabric {
    /// Any address of the same provider.
    public func listenAddress(toReach peer: FabricAddress) -> String { peer.provider + "://" }
}

private enum FabricKey: WorldKey {
    typealias Value = any Fabric
}

extension World {
    /// The fabric of this world.
    public var fabric: any Fabric {
        get { self[FabricKey.self] }
        set { self[FabricKey.self] = newValue }
    }
}
