internal import DrayRuntime
internal import Glibc

/// Ports of 127.0.0.1 that nobody listens on.
enum FreePorts {
    /// Where ports are looked for: below the range that the kernel gives to outgoing connections.
    static let range = 10_000..<32_000
    static let attemptsMax = 200

    /// The first of `count` ports in a row that are free now and not among `taken`.
    static func find(
        _ count: Int, taken: [Range<Int>], using entropy: inout Entropy
    ) throws(CommandFailure) -> Int {
        for _ in 0..<attemptsMax {
            let first = range.lowerBound + Int(entropy.below(UInt64(range.count - count)))
            let ports = first..<first + count
            guard !taken.contains(where: { $0.overlaps(ports) }) else { continue }
            if ports.allSatisfy(isFree) { return first }
        }
        throw CommandFailure(
            "ports",
            "no \(count) free ports in a row between \(range.lowerBound) and "
                + "\(range.upperBound)", advice: "use --provider ofi+shm, or fewer --targets")
    }

    private static func isFree(_ port: Int) -> Bool {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = UInt16(port).bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        let result = unsafe withUnsafePointer(to: &address) { pointer in
            // SAFETY: every socket address begins with what `sockaddr` declares.
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        return result == 0
    }
}
