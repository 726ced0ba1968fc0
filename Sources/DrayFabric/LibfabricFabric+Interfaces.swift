internal import CLibfabric
public import DrayRuntime
internal import Glibc

extension LibfabricFabric {
    /// Lists shared memory, then what libfabric's providers offer, and opens an endpoint at each
    /// place that Dray might use. Some milliseconds for each.
    public func interfaces(
        provider wanted: Set<String>, on xstream: XStream
    ) throws(FabricError) -> [FabricInterface] {
        var list: UnsafeMutablePointer<fi_info>?
        let error = unsafe dray_fabric_list(&list)
        guard error == 0 else {
            throw LibfabricEndpoint.openError(error, text: "libfabric")
        }
        defer { unsafe dray_fabric_free_list(list) }
        let machine = NetworkInterface.all()
        let own = sharedMemory()
        var result = wanted.isEmpty || wanted.contains(own.provider) ? [own] : []
        var known: Set<FabricInterface> = []
        // SAFETY: entries, and what they point to, live until the list is freed.
        var next = unsafe list
        while let entry = unsafe next {
            var offer = unsafe dray_fabric_offer()
            unsafe next = dray_fabric_read_offer(entry, &offer)
            var interface = unsafe LibfabricFabric.interface(offer, machine)
            guard wanted.isEmpty || wanted.contains(interface.provider),
                known.insert(interface).inserted
            else { continue }
            if interface.problem == nil { probe(&interface) }
            result.append(interface)
        }
        return result
    }

    /// Shared memory, which every machine has.
    private func sharedMemory() -> FabricInterface {
        var interface = FabricInterface(
            provider: SharedMemoryEndpoint.provider, libfabricProvider: nil, domain: "", fabric: "",
            interface: nil, host: nil, messageSizeMax: nil, canWait: nil, hasRemoteMemory: true,
            isReliableDatagram: true, problem: nil)
        do throws(FabricError) {
            let endpoint = try SharedMemoryEndpoint(name: nil, entropy: Entropy(seed: nextSeed()))
            interface.messageSizeMax = UInt64(endpoint.messageSizeMax)
            interface.canWait = true
            endpoint.close()
        } catch {
            interface.problem = "\(error)"
        }
        return interface
    }

    /// An entry of libfabric's list, not yet tried.
    private static func interface(
        _ offer: dray_fabric_offer, _ machine: [NetworkInterface]
    ) -> FabricInterface {
        func text(_ pointer: UnsafePointer<CChar>?) -> String {
            unsafe pointer.map { unsafe String(cString: $0) } ?? ""
        }
        let socket = unsafe offer.has_socket_address ? socketAddress(offer) : nil
        let library = unsafe text(offer.provider)
        let domain = unsafe text(offer.domain)
        let host = socket?.hostText
        let byAddress = host.flatMap { NetworkInterface.named(having: $0, among: machine) }
        let problem: String? =
            if unsafe offer.is_connected {
                "has connections of two processes only"
            } else if unsafe !offer.is_reliable_datagram {
                "messages may be lost"
            } else if unsafe !offer.has_remote_memory {
                "has no remote memory access"
            } else if socket?.isLinkLocal == true {
                "a link-local address means nothing to other machines"
            } else {
                nil
            }
        let sizeMax = unsafe offer.message_size_max
        return FabricInterface(
            provider: name(ofLibrary: library, version: unsafe offer.library_version),
            libfabricProvider: library, domain: domain, fabric: unsafe text(offer.fabric),
            interface: byAddress ?? (machine.contains { $0.name == domain } ? domain : nil),
            host: host, messageSizeMax: sizeMax > UInt64(Int64.max) ? nil : sizeMax, canWait: nil,
            hasRemoteMemory: unsafe offer.has_remote_memory,
            isReliableDatagram: unsafe offer.is_reliable_datagram, problem: problem)
    }

    private static func socketAddress(_ offer: dray_fabric_offer) -> SocketAddress? {
        guard let start = unsafe offer.address,
            unsafe offer.address_length >= SocketAddress.version4Size
        else { return nil }
        // SAFETY: it has at least the bytes that a socket address of its family needs, which is
        // what the provider gives.
        return unsafe SocketAddress(kernel: start.assumingMemoryBound(to: sockaddr.self))
    }

    /// How Dray spells a provider. The native one for TCP has two names in libfabric.
    static func name(ofLibrary name: String, version: UInt32) -> String {
        let isOld = version < 1 << 16 | 18
        return "ofi+" + (name == "net" && isOld ? "tcp" : name)
    }

    /// Opens an endpoint there, as an engine would, and closes it.
    private func probe(_ interface: inout FabricInterface) {
        guard let library = interface.libfabricProvider else { return }
        let isSocket = FabricAddress.form(ofProvider: interface.provider) == .socket
        var text = interface.provider
        if let host = interface.host {
            guard isSocket || !host.contains(":") else {
                interface.problem = "Dray does not write addresses of IPv6 for it"
                return
            }
            text += "://" + (host.contains(":") ? "[\(host)]:0" : "\(host):0")
        }
        do throws(FabricError) {
            let endpoint = try LibfabricEndpoint(
                providerName: interface.provider, libfabricProvider: library,
                listen: try ListenAddress(parsing: text), text: text,
                entropy: Entropy(seed: nextSeed()))
            interface.canWait = endpoint.canWait
            endpoint.close()
        } catch {
            interface.problem = "\(error)"
        }
    }
}
