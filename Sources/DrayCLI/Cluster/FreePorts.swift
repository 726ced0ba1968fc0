internal import DrayRuntime
internal import Glibc

/// Ports of this machine that nobody listens on.
enum FreePorts {
    /// Where ports are looked for: below the range that the kernel gives to outgoing connections.
    static let range = 10_000..<32_000
    static let attemptsMax = 200

    /// The first of `count` ports in a row that are free now at the address `host`, and not among
    /// `taken`.
    static func find(
        _ count: Int, at host: String, taken: [Range<Int>], using entropy: inout Entropy
    ) throws(CommandFailure) -> Int {
        var address = in_addr()
        guard unsafe inet_pton(AF_INET, host, &address) == 1 else {
            throw CommandFailure(.usage, "--host \(host)", "is no IPv4 address")
        }
        for _ in 0..<attemptsMax {
            let first = range.lowerBound + Int(entropy.below(UInt64(range.count - count)))
            let ports = first..<first + count
            guard !taken.contains(where: { $0.overlaps(ports) }) else { continue }
            if ports.allSatisfy({ isFree($0, at: address) }) { return first }
        }
        throw CommandFailure(
            "ports",
            "no \(count) free ports in a row at \(host) between \(range.lowerBound) and "
                + "\(range.upperBound)", advice: "use --provider shm, or fewer --targets")
    }

    private static func isFree(_ port: Int, at host: in_addr) -> Bool {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = UInt16(port).bigEndian
        address.sin_addr = host
        let result = unsafe withUnsafePointer(to: &address) { pointer in
            // SAFETY: every socket address begins with what `sockaddr` declares.
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        return result == 0
    }
}
