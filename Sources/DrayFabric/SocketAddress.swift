internal import Glibc

/// An IP address and a port, as text and as the kernel's bytes.
struct SocketAddress: Hashable {
    enum Family: Hashable {
        case version4, version6
    }

    var family: Family
    /// 4 or 16 bytes, most significant first.
    var host: [UInt8]
    var port: UInt16
    /// Which interface a link-local address of IPv6 belongs to; 0 for all other addresses.
    var scope: UInt32

    init(family: Family, host: [UInt8], port: UInt16, scope: UInt32 = 0) {
        self.family = family
        self.host = host
        self.port = port
        self.scope = scope
    }

    static let version4Size = 16
    static let version6Size = 28

    /// Reads a `sockaddr_in` or `sockaddr_in6`; nil when it is neither.
    init?(bytes: [UInt8]) {
        guard bytes.count >= 2 else { return nil }
        let family = Int32(UInt16(bytes[0]) | UInt16(bytes[1]) << 8)
        if family == AF_INET, bytes.count == SocketAddress.version4Size {
            self.init(
                family: .version4, host: Array(bytes[4..<8]),
                port: UInt16(bytes[2]) << 8 | UInt16(bytes[3]))
        } else if family == AF_INET6, bytes.count == SocketAddress.version6Size {
            var scope: UInt32 = 0
            for byte in bytes[24..<28].reversed() { scope = scope << 8 | UInt32(byte) }
            self.init(
                family: .version6, host: Array(bytes[8..<24]),
                port: UInt16(bytes[2]) << 8 | UInt16(bytes[3]), scope: scope)
        } else {
            return nil
        }
    }

    /// The kernel's form, with zeros where it has padding.
    var bytes: [UInt8] {
        let portBytes = [UInt8(port >> 8), UInt8(port & 255)]
        switch family {
        case .version4:
            return [UInt8(AF_INET), 0] + portBytes + host + [UInt8](repeating: 0, count: 8)
        case .version6:
            let scopeBytes = (0..<4).map { UInt8(truncatingIfNeeded: scope >> (8 * $0)) }
            return [UInt8(AF_INET6), 0] + portBytes + [0, 0, 0, 0] + host + scopeBytes
        }
    }

    /// Reads `HOST:PORT`, `HOST` or `[HOST]:PORT`; a missing port is 0.
    init?(parsing text: Substring) {
        guard text.utf8.count <= 64, text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f }) else {
            return nil
        }
        var host = text
        var port: Substring = ""
        if text.hasPrefix("[") {
            guard let end = text.firstIndex(of: "]") else { return nil }
            host = text[text.index(after: text.startIndex)..<end]
            port = text[text.index(after: end)...]
            guard port.isEmpty || port.hasPrefix(":") else { return nil }
            port = port.dropFirst()
        } else if let colon = text.firstIndex(of: ":") {
            host = text[..<colon]
            port = text[text.index(after: colon)...]
        }
        var number: UInt16 = 0
        if !port.isEmpty {
            guard port.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let value = UInt16(port)
            else { return nil }
            number = value
        }
        guard let parsed = SocketAddress.host(String(host)) else { return nil }
        let isVersion6 = text.hasPrefix("[")
        guard isVersion6 == (parsed.count == 16) else { return nil }
        self.init(family: isVersion6 ? .version6 : .version4, host: parsed, port: number)
    }

    /// The address, with port 0, from which the kernel would send to this one; nil when no way
    /// leads there. Nothing is sent.
    var source: SocketAddress? {
        let kind = Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        let descriptor = socket(family == .version4 ? AF_INET : AF_INET6, kind, 0)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var bytes = bytes
        var length = socklen_t(bytes.count)
        let result = unsafe bytes.withUnsafeMutableBytes { raw in
            // SAFETY: the bytes are a whole `sockaddr_in` or `sockaddr_in6`, and the kernel reads
            // and writes no more than `length` of them.
            let address = unsafe raw.baseAddress.unsafelyUnwrapped
                .assumingMemoryBound(to: sockaddr.self)
            guard unsafe connect(descriptor, address, length) == 0 else { return Int32(-1) }
            return unsafe getsockname(descriptor, address, &length)
        }
        guard result == 0, Int(length) == bytes.count else { return nil }
        var source = SocketAddress(bytes: bytes)
        source?.port = 0
        return source
    }

    private static func host(_ text: String) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: 16)
        if unsafe inet_pton(AF_INET, text, &bytes) == 1 { return Array(bytes[0..<4]) }
        if unsafe inet_pton(AF_INET6, text, &bytes) == 1 { return bytes }
        return nil
    }

    /// The host alone.
    var hostText: String {
        var text = [CChar](repeating: 0, count: 64)
        let kind = family == .version4 ? AF_INET : AF_INET6
        let length = socklen_t(text.count)
        let result = unsafe host.withUnsafeBytes { source in
            unsafe text.withUnsafeMutableBufferPointer { target in
                unsafe inet_ntop(kind, source.baseAddress!, target.baseAddress!, length) != nil
            }
        }
        guard result else { return "?" }
        return String(
            decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// `HOST:PORT`, with brackets around the host of IPv6.
    var description: String {
        switch family {
        case .version4: "\(hostText):\(port)"
        case .version6: "[\(hostText)]:\(port)"
        }
    }
}
