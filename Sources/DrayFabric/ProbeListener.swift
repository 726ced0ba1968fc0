internal import CLibfabric
internal import Glibc

/// Lets others find out that this process is there: a TCP port with the number of an RDMA
/// adapter's. No data ever goes over it. See `ListenerProbes`.
///
/// An adapter's ports are not the kernel's, and nobody is told that one is closed: a connection to
/// it is refused just as one to a process that is busy. The kernel closes this one when the process
/// ends, in whatever way, and says so to who asks.
@safe struct ProbeListener: ~Copyable {
    private let descriptor: Int32
    private var answered: UInt64 = 0

    /// Connections that wait to be taken. While as many do, who asks learns nothing.
    private static let waitingMax: Int32 = 256
    /// Between two looks, in milliseconds.
    private static let pause: UInt64 = 100

    init(at address: SocketAddress) throws(FabricError) {
        let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        let family = address.family == .version4 ? AF_INET : AF_INET6
        let opened = socket(family, kind | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard opened >= 0 else { throw LibfabricEndpoint.error(errno) }
        var yes: Int32 = 1
        // Connections of the process before us, which are about to end, are no obstacle.
        _ = unsafe setsockopt(
            opened, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
        let bytes = address.bytes
        let result = unsafe bytes.withUnsafeBytes { raw in
            // SAFETY: the bytes are a `sockaddr_in` or `sockaddr_in6`, whole, and the kernel copies
            // them.
            unsafe bind(
                opened, raw.baseAddress?.assumingMemoryBound(to: sockaddr.self),
                socklen_t(raw.count))
        }
        guard result == 0, listen(opened, ProbeListener.waitingMax) == 0 else {
            let error = errno
            Glibc.close(opened)
            throw LibfabricEndpoint.openError(error, text: "TCP port \(address.description)")
        }
        descriptor = opened
    }

    deinit { Glibc.close(descriptor) }

    /// Takes the connections of those who have asked. Costs next to nothing when that was done a
    /// moment ago.
    mutating func answer() {
        let now = dray_fabric_coarse_time()
        guard now >= answered &+ ProbeListener.pause else { return }
        answered = now
        while true {
            let connection = accept(descriptor, nil, nil)
            guard connection >= 0 else { return }
            Glibc.close(connection)
        }
    }
}
