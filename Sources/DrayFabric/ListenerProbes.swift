internal import Glibc

/// Asks machines whether anybody listens at an address: by a TCP connection that is closed as soon
/// as it is there. Never blocks.
///
/// The kernel answers, not the process: one that is busy or stopped listens all the same, and only
/// one that is gone, or never came, is refused.
@safe struct ListenerProbes: ~Copyable {
    /// Connections that are under way, each for one address.
    private var pending: [SocketAddress: Int32] = [:]

    /// Probes under way at a time. Machines that do not answer at all hold theirs for long.
    private static let pendingMax = 64

    deinit {
        for descriptor in pending.values { Glibc.close(descriptor) }
    }

    /// What is known of `address`. Ask again after `.unknown`.
    mutating func ask(_ address: SocketAddress) -> Listening {
        if let descriptor = pending[address] { return look(at: descriptor, address) }
        if pending.count >= ListenerProbes.pendingMax, let oldest = pending.first {
            finish(oldest.value, oldest.key)
        }
        let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        let family = address.family == .version4 ? AF_INET : AF_INET6
        let descriptor = socket(family, kind | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return .unknown }
        let bytes = address.bytes
        let result = unsafe bytes.withUnsafeBytes { raw in
            // SAFETY: the bytes are a `sockaddr_in` or `sockaddr_in6`, whole, and the kernel copies
            // them.
            unsafe connect(
                descriptor, raw.baseAddress?.assumingMemoryBound(to: sockaddr.self),
                socklen_t(raw.count))
        }
        if result != 0, errno == EINPROGRESS {
            pending[address] = descriptor
            return .unknown
        }
        let answer = result == 0 ? connected(descriptor, address) : Listening(error: errno)
        Glibc.close(descriptor)
        return answer
    }

    private mutating func look(at descriptor: Int32, _ address: SocketAddress) -> Listening {
        var error: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        guard unsafe getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &error, &length) == 0 else {
            finish(descriptor, address)
            return .unknown
        }
        if error == 0 {
            // While it is under way, there is no peer yet.
            guard unsafe name(of: descriptor, getpeername) != nil else { return .unknown }
        }
        let answer = error == 0 ? connected(descriptor, address) : Listening(error: error)
        finish(descriptor, address)
        return answer
    }

    /// A connection to a free port of this machine can find itself at the other end.
    private func connected(_ descriptor: Int32, _ address: SocketAddress) -> Listening {
        unsafe name(of: descriptor, getsockname) == address ? .refused : .accepted
    }

    /// The address of one end of a socket; nil when it has none.
    private func name(
        of descriptor: Int32,
        _ ask: (Int32, UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Int32
    ) -> SocketAddress? {
        var bytes = [UInt8](repeating: 0, count: SocketAddress.version6Size)
        var length = socklen_t(bytes.count)
        let result = unsafe bytes.withUnsafeMutableBytes { raw in
            // SAFETY: the kernel writes at most `length` bytes, which `raw` has.
            unsafe ask(
                descriptor,
                raw.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: sockaddr.self), &length)
        }
        guard result == 0, Int(length) <= bytes.count else { return nil }
        return SocketAddress(bytes: Array(bytes.prefix(Int(length))))
    }

    private mutating func finish(_ descriptor: Int32, _ address: SocketAddress) {
        pending[address] = nil
        Glibc.close(descriptor)
    }
}

extension Listening {
    /// Of a connection that could not be made.
    fileprivate init(error: Int32) {
        self = error == ECONNREFUSED ? .refused : .unknown
    }
}
