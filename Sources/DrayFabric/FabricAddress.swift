/// Where an endpoint is: a provider's name and the address in that provider's own bytes.
///
/// As text: `ofi+tcp://127.0.0.1:31416`, `ofi+tcp;ofi_rxm://[::1]:31416`, `shm://NAME`,
/// `sim://ENDPOINT`. Other providers' addresses are shown in hexadecimal, after `0x`. The text of
/// a well-formed address is read back by `init(parsing:)`.
///
/// Bytes that come from elsewhere may be anything: ask `isWellFormed` or insert them and see
/// `.badAddress`. No bytes are harmful.
public struct FabricAddress: Hashable, Sendable {
    /// The provider as the user names it: `ofi+tcp`, `ofi+tcp;ofi_rxm`, `shm`, `sim`, ….
    public var provider: String

    /// The provider's address: a socket address as `fi_getname` gives it for TCP, the name in
    /// UTF-8 (without a final zero) for `shm`, `ofi+shm` and `sim`. At most `bytesMax` bytes.
    public var bytes: [UInt8]

    /// No provider has longer addresses.
    public static let bytesMax = 256

    /// No provider has a longer name.
    public static let providerBytesMax = 64

    public init(provider: String, bytes: [UInt8]) {
        self.provider = provider
        self.bytes = bytes
    }

    /// How a provider writes addresses.
    enum Form {
        /// A socket address of IPv4 or IPv6.
        case socket
        /// A name: 1 to `nameBytesMax` letters, digits and `. _ - @`.
        case name
        /// Bytes that only the provider understands.
        case opaque
    }

    /// The most bytes in a name. The name of a file in /dev/shm comes from it.
    static let nameBytesMax = 80

    static func form(ofProvider provider: String) -> Form {
        switch provider {
        case "shm", "sim", "ofi+shm": .name
        case "ofi+tcp", "ofi+net", "ofi+sockets", "ofi+udp": .socket
        case "ofi+tcp;ofi_rxm", "ofi+verbs;ofi_rxm", "ofi+udp;ofi_rxd": .socket
        default: .opaque
        }
    }

    /// Whether a provider's addresses are names, which need no interface.
    public static func isNamed(_ provider: String) -> Bool { form(ofProvider: provider) == .name }

    /// Whether `text` names a provider that an endpoint can be asked of, if this machine has it.
    public static func isEndpointProvider(_ text: String) -> Bool {
        text == "shm" || text == "sim"
            || text.hasPrefix("ofi+") && text.utf8.count > 4 && isProvider(text.utf8)
    }

    /// Whether `text` may name a provider.
    public static func isProviderName(_ text: String) -> Bool { isProvider(text.utf8) }

    /// Whether `text` is an IP address without a port.
    public static func isHost(_ text: String) -> Bool {
        let wrapped = text.contains(":") ? "[\(text)]" : text
        return SocketAddress(parsing: Substring(wrapped))?.port == 0 && !text.hasPrefix("[")
    }

    /// Whether `bytes` can be an address of `provider` at all, and one that can be reached.
    public var isWellFormed: Bool {
        guard FabricAddress.isProvider(provider.utf8), bytes.count <= FabricAddress.bytesMax else {
            return false
        }
        switch FabricAddress.form(ofProvider: provider) {
        case .socket:
            guard let socket = SocketAddress(bytes: bytes) else { return false }
            return socket.port != 0
        case .name: return FabricAddress.isName(bytes)
        case .opaque: return !bytes.isEmpty
        }
    }

    static func isProvider(_ text: String.UTF8View) -> Bool {
        (1...providerBytesMax).contains(text.count)
            && text.allSatisfy { isWordByte($0) || $0 == UInt8(ascii: "+") || $0 == 0x3b }
    }

    static func isName(_ bytes: some Collection<UInt8>) -> Bool {
        (1...nameBytesMax).contains(bytes.count)
            && bytes.allSatisfy { isWordByte($0) || $0 == UInt8(ascii: "@") }
            && bytes.first != UInt8(ascii: ".")
    }

    private static func isWordByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): true
        case UInt8(ascii: "0")...UInt8(ascii: "9"): true
        case UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"): true
        default: false
        }
    }
}

extension FabricAddress: CustomStringConvertible {
    /// The address as text.
    public var description: String {
        let body =
            switch FabricAddress.form(ofProvider: provider) {
            case .socket: SocketAddress(bytes: bytes)?.description
            case .name: FabricAddress.isName(bytes) ? String(decoding: bytes, as: UTF8.self) : nil
            case .opaque: String?.none
            }
        return provider + "://" + (body ?? "0x" + Hexadecimal.text(of: bytes))
    }
}

extension FabricAddress {
    /// Reads an address as `description` writes it. It must be complete: what to listen on, where
    /// parts may be left out, is understood by `Fabric.makeEndpoint`.
    ///
    /// - Throws: `.badAddress` with what is wrong and what was expected.
    public init(parsing text: String) throws(FabricError) {
        let (provider, body) = try FabricAddress.split(text)
        func bad(_ expected: String) -> FabricError {
            .badAddress("\(FabricAddress.quoted(text)): expected \(expected)")
        }
        switch FabricAddress.form(ofProvider: provider) {
        case .socket:
            guard let socket = SocketAddress(parsing: body), socket.port != 0 else {
                throw bad("\(provider)://HOST:PORT, with an IP address and a port of 1 to 65535")
            }
            self.init(provider: provider, bytes: socket.bytes)
        case .name:
            guard FabricAddress.isName(body.utf8) else {
                throw bad(
                    "\(provider)://NAME, with up to \(FabricAddress.nameBytesMax) "
                        + "letters, digits and . _ - @"
                )
            }
            self.init(provider: provider, bytes: Array(body.utf8))
        case .opaque:
            guard body.hasPrefix("0x"), let bytes = Hexadecimal.bytes(of: body.dropFirst(2)),
                !bytes.isEmpty, bytes.count <= FabricAddress.bytesMax
            else {
                throw bad(
                    "\(provider)://0x…, at most \(FabricAddress.bytesMax) bytes in hexadecimal")
            }
            self.init(provider: provider, bytes: bytes)
        }
    }

    /// Divides `PROVIDER://REST`; `://REST` may be missing.
    static func split(
        _ text: String
    ) throws(FabricError) -> (provider: String, body: Substring) {
        let utf8 = text.utf8
        guard utf8.count <= providerBytesMax + 3 + 2 + bytesMax * 2 else {
            throw .badAddress("\(quoted(text)): too long")
        }
        var end = utf8.startIndex
        while end < utf8.endIndex, utf8[end] != UInt8(ascii: ":") { utf8.formIndex(after: &end) }
        let provider = String(text[..<end])
        let rest = text[end...]
        guard isProvider(provider.utf8), rest.isEmpty || rest.hasPrefix("://") else {
            throw .badAddress("\(quoted(text)): expected PROVIDER://ADDRESS")
        }
        return (provider, rest.isEmpty ? rest : rest.dropFirst(3))
    }

    /// `text` for an error message: short, and nothing but printable characters.
    static func quoted(_ text: String) -> String {
        let start = text.unicodeScalars.prefix(80).map { scalar in
            scalar.value >= 0x20 && scalar.value < 0x7f ? Character(scalar) : "?"
        }
        return "'" + String(start) + (text.unicodeScalars.count > 80 ? "…'" : "'")
    }
}
