internal import CLibfabric
public import DrayRuntime
internal import Synchronization

/// The real fabric: endpoints of shared memory, and of any libfabric provider.
///
/// An address is `shm://NAME` or `ofi+PROVIDER://WHERE`. `ofi+tcp` is the native
/// reliable-datagram provider for TCP (named `net` in libfabric up to 1.17); the older layered one
/// is `ofi+tcp;ofi_rxm`.
///
/// | address | listens on |
/// |---|---|
/// | `ofi+tcp://127.0.0.1:31416` | that host and port |
/// | `ofi+tcp://127.0.0.1`, `ofi+tcp://:0`, `ofi+tcp` | a free port; host 127.0.0.1 by default |
/// | `ofi+verbs;ofi_rxm` | a free port of the first RDMA adapter that has an IPv4 address |
/// | `shm://NAME`, `shm` | shared memory of that name, or with a new one |
/// | `ofi+shm://NAME`, `ofi+shm` | the same by libfabric, with limits of its own |
/// | `ofi+OTHER` , `ofi+OTHER://HOST:SERVICE` | what the provider makes of it |
/// | `ofi+PROVIDER://DOMAIN/WHERE` | the same, on libfabric's domain (an adapter) of that name |
public final class LibfabricFabric: Fabric {
    // Ordering is the mutex's: endpoints may be made on any xstream.
    private let entropy: Mutex<Entropy>

    /// `entropy` is where the keys of registered memory and the names of shared-memory endpoints
    /// come from: `world.entropy.fork("fabric")`.
    public init(entropy: Entropy) {
        self.entropy = Mutex(entropy)
    }

    /// Random, for one endpoint.
    func nextSeed() -> UInt64 { entropy.withLock { $0.next() } }

    /// Opens an endpoint. About 1 ms, and up to 50 ms for the first of a process.
    public func makeEndpoint(
        _ address: String, on xstream: XStream
    ) throws(FabricError) -> Endpoint {
        let listen = try ListenAddress(parsing: address)
        let seed = nextSeed()
        if listen.providerName == SharedMemoryEndpoint.provider {
            return try SharedMemoryEndpoint(name: listen.node, entropy: Entropy(seed: seed))
        }
        if listen.provider == "shm" {
            dray_fabric_sweep_shared_memory()
        }
        var failure = FabricError.noProvider("\(address): libfabric has no such provider")
        for candidate in listen.candidates {
            do throws(FabricError) {
                return try open(candidate, listen, address, Entropy(seed: seed))
            } catch {
                failure = error
                guard case .noProvider = error else { throw error }
            }
        }
        throw failure
    }

    /// A number that is free among an adapter's ports may be taken among those of TCP, where we
    /// want it too.
    private func open(
        _ candidate: String, _ listen: ListenAddress, _ text: String, _ entropy: Entropy
    ) throws(FabricError) -> Endpoint {
        var attempts = 1
        while true {
            do throws(FabricError) {
                return try LibfabricEndpoint(
                    providerName: listen.providerName, libfabricProvider: candidate,
                    listen: listen, text: text, entropy: entropy)
            } catch .addressInUse where listen.choosesPort && attempts < 32 {
                attempts += 1
            } catch {
                throw error
            }
        }
    }

    /// A free port of the interface from which this machine's kernel would send to `peer`.
    public func listenAddress(toReach peer: FabricAddress) -> String {
        let source = SocketAddress(bytes: peer.bytes)?.source?.description
        return "\(peer.provider)://\(source ?? "")"
    }
}

extension World {
    /// This machine (`World.real`), with every network that libfabric reaches.
    public static func libfabric(log: LogFacilities = LogFacilities()) -> World {
        var world = World.real(log: log)
        world.fabric = LibfabricFabric(entropy: world.entropy.fork("fabric"))
        return world
    }
}

/// What an endpoint is asked to listen on.
struct ListenAddress {
    /// As the user names it: `ofi+tcp`.
    let providerName: String
    /// As libfabric names it: `tcp`.
    let provider: String
    /// libfabric's domain: an adapter, or for TCP an interface.
    var domain: String?
    var node: String?
    var service: String?

    init(parsing text: String) throws(FabricError) {
        let (name, rest) = try FabricAddress.split(text)
        var body = rest
        let expected =
            "'ofi+PROVIDER://WHERE', such as ofi+tcp://127.0.0.1:31416, or 'shm://NAME'"
        let isOurs = name == SharedMemoryEndpoint.provider
        guard isOurs || name.hasPrefix("ofi+") && name.utf8.count > 4 else {
            throw .badAddress("\(FabricAddress.quoted(text)): expected \(expected)")
        }
        providerName = name
        provider = isOurs ? name : String(name.dropFirst(4))
        if !FabricAddress.isNamed(name), let slash = body.firstIndex(of: "/") {
            let before = body[..<slash]
            guard !before.isEmpty, before.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f }) else {
                throw .badAddress("\(FabricAddress.quoted(text)): expected \(expected)")
            }
            domain = String(before)
            body = body[body.index(after: slash)...]
        }
        switch FabricAddress.form(ofProvider: name) {
        case .socket:
            // No RDMA adapter has the address of the machine itself: any of theirs will do.
            if body.isEmpty, provider.hasPrefix("verbs") { return }
            let full = body.isEmpty ? "127.0.0.1" : body.hasPrefix(":") ? "127.0.0.1" + body : body
            guard let socket = SocketAddress(parsing: Substring(full)) else {
                throw .badAddress(
                    "\(FabricAddress.quoted(text)): expected \(name)://HOST:PORT, with an IP "
                        + "address and a port of 0 to 65535")
            }
            node = socket.hostText
            service = String(socket.port)
        case .name:
            guard body.isEmpty || FabricAddress.isName(body.utf8) else {
                throw .badAddress(
                    "\(FabricAddress.quoted(text)): expected \(name)://NAME, with up to "
                        + "\(FabricAddress.nameBytesMax) letters, digits and . _ - @")
            }
            node = body.isEmpty ? nil : String(body)
        case .opaque:
            guard body.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f }) else {
                throw .badAddress("\(FabricAddress.quoted(text)): expected \(expected)")
            }
            let parts = body.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            node = parts.first.flatMap { $0.isEmpty ? nil : String($0) }
            service = parts.count > 1 && !parts[1].isEmpty ? String(parts[1]) : nil
        }
    }

    /// Whether any free port will do.
    var choosesPort: Bool { service == nil || service == "0" }

    /// The providers of libfabric to try, best first.
    var candidates: [String] {
        provider == "tcp" ? ["net", "tcp"] : [provider]
    }
}
