internal import Glibc

/// A network interface of this machine, as the kernel names it, with its IP addresses.
public struct NetworkInterface: Hashable, Sendable {
    /// The kernel's name: `eth0`.
    public var name: String
    /// Its addresses without ports, those of IPv4 first: `192.0.2.7`, `fd00::7`. Link-local
    /// addresses of IPv6 are left out, as they mean nothing without the interface.
    public var hosts: [String]

    public init(name: String, hosts: [String]) {
        self.name = name
        self.hosts = hosts
    }

    /// Interfaces that are up and have an address, by name.
    public static func all() -> [NetworkInterface] {
        var first: UnsafeMutablePointer<ifaddrs>?
        guard unsafe getifaddrs(&first) == 0 else { return [] }
        defer { unsafe freeifaddrs(first) }
        var found: [String: [SocketAddress]] = [:]
        // SAFETY: the list and all that it points to live until `freeifaddrs`.
        var entry = unsafe first
        while let current = unsafe entry {
            unsafe entry = current.pointee.ifa_next
            guard unsafe current.pointee.ifa_flags & UInt32(IFF_UP) != 0,
                let address = unsafe current.pointee.ifa_addr,
                let socket = unsafe SocketAddress(kernel: address), !socket.isLinkLocal
            else { continue }
            found[unsafe String(cString: current.pointee.ifa_name), default: []].append(socket)
        }
        return found.keys.sorted().map { name in
            let addresses = found[name] ?? []
            let ordered =
                addresses.filter { $0.family == .version4 }
                + addresses.filter { $0.family == .version6 }
            return NetworkInterface(name: name, hosts: ordered.map(\.hostText))
        }
    }

    /// The interface that has an address.
    static func named(
        having host: String, among interfaces: [NetworkInterface]
    ) -> String? {
        interfaces.first { $0.hosts.contains(host) }?.name
    }
}

extension SocketAddress {
    /// Reads what the kernel or a provider points to; nil when it is no IP address.
    init?(kernel pointer: UnsafePointer<sockaddr>) {
        let size =
            switch unsafe Int32(pointer.pointee.sa_family) {
            case AF_INET: SocketAddress.version4Size
            case AF_INET6: SocketAddress.version6Size
            default: 0
            }
        guard size > 0 else { return nil }
        // SAFETY: the family says how many bytes there are.
        self.init(bytes: unsafe Array(UnsafeRawBufferPointer(start: pointer, count: size)))
    }

    /// Whether it is an address of IPv6 that only means something on one interface.
    var isLinkLocal: Bool {
        family == .version6 && host[0] == 0xfe && host[1] & 0xc0 == 0x80
    }
}
