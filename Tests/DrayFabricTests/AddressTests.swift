import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@Suite struct AddressTests {
    @Test(arguments: [
        "ofi+tcp://127.0.0.1:31416", "ofi+tcp;ofi_rxm://10.1.2.3:1", "ofi+tcp://[::1]:65535",
        "ofi+tcp://[fe80::1]:9", "ofi+shm://engine-0.7_x", "shm://engine-0.7_x", "sim://engine-0-1",
        "sim://a@b",
        "ofi+psm3://0x00ff10",
    ])
    func roundTrip(text: String) throws {
        let address = try FabricAddress(parsing: text)
        #expect(address.description == text)
        #expect(address.isWellFormed)
        #expect(try FabricAddress(parsing: address.description) == address)
    }

    @Test(arguments: [
        "", ":", "://", "ofi+tcp", "ofi+tcp:/127.0.0.1:1", "ofi+tcp://127.0.0.1",
        "ofi+tcp://127.0.0.1:0", "ofi+tcp://127.0.0.1:65536", "ofi+tcp://127.0.0.1:-1",
        "ofi+tcp://127.0.0.1:1 ", "ofi+tcp://127.0.0.1:+1", "ofi+tcp://::1:1",
        "ofi+tcp://[127.0.0.1]:1", "ofi+tcp://[::1]1", "ofi+tcp://[::1:1", "ofi+tcp://localhost:1",
        "ofi+tcp://300.0.0.1:1", "ofi+shm://", "ofi+shm://a/b", "ofi+shm://../x", "ofi+shm://.x",
        "shm://", "shm://a/b", "shm",
        "sim://é", "sim://a b", "ofi+psm3://abc", "ofi+psm3://0x0", "ofi+psm3://0xzz",
        "ofi+psm3://0x", "o fi://x",
    ])
    func refused(text: String) {
        #expect {
            try FabricAddress(parsing: text)
        } throws: { error in
            guard case FabricError.badAddress(let message) = error else { return false }
            return message.utf8.count < 300
        }
    }

    @Test func tooLong() {
        let long = String(repeating: "a", count: 100_000)
        for text in [long, "sim://" + long, "ofi+\(long)://x", "ofi+psm3://0x" + long] {
            #expect(throws: FabricError.self) { try FabricAddress(parsing: text) }
        }
    }

    /// Anything may arrive from the wire: printing and parsing survive it, and what is well
    /// formed survives a round trip.
    @Test func fuzz() {
        var entropy = Entropy(seed: 20)
        let providers = [
            "ofi+tcp", "ofi+tcp;ofi_rxm", "ofi+shm", "sim", "ofi+verbs", "", "x y", "\u{0}",
        ]
        let good: [[UInt8]] = [
            [2, 0, 0x7a, 0xb8, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            [10, 0, 1, 2, 0, 0, 0, 0] + Array(repeating: 1, count: 16) + [0, 0, 0, 0],
            Array("engine-1".utf8),
        ]
        var wellFormed = 0
        for _ in 0..<20_000 {
            let provider = providers[Int(entropy.below(UInt64(providers.count)))]
            var bytes = good[Int(entropy.below(3))]
            switch entropy.below(4) {
            case 0:
                bytes[Int(entropy.below(UInt64(bytes.count)))] = UInt8(
                    truncatingIfNeeded: entropy.next())
            case 1: bytes.removeLast(Int(entropy.below(UInt64(bytes.count))))
            case 2:
                bytes = (0..<Int(entropy.below(300))).map { _ in
                    UInt8(truncatingIfNeeded: entropy.next())
                }
            default: break
            }
            let address = FabricAddress(provider: provider, bytes: bytes)
            let text = address.description
            let parsed = try? FabricAddress(parsing: text)
            if address.isWellFormed {
                wellFormed += 1
                #expect(parsed != nil, "\(text)")
                #expect(parsed?.description == text)
            }
            // Text with one character changed.
            var characters = Array(text.utf8)
            if !characters.isEmpty {
                characters[Int(entropy.below(UInt64(characters.count)))] = UInt8(
                    truncatingIfNeeded: entropy.next())
                if let other = try? FabricAddress(
                    parsing: String(decoding: characters, as: UTF8.self))
                {
                    #expect(other.isWellFormed)
                }
            }
        }
        #expect(wellFormed > 1000)
    }

    @Test(arguments: FabricKind.allCases) func ownAddress(kind: FabricKind) async throws {
        try await withFabric(kind) { rig in
            let node = try rig.makeNode()
            let address = node.endpoint.address
            #expect(address.provider == kind.rawValue)
            #expect(address.isWellFormed)
            #expect(try FabricAddress(parsing: address.description) == address)
            let other = try rig.makeNode()
            #expect(other.endpoint.address != address)
            if kind == .tcp || kind == .layeredTCP {
                #expect(address.description.hasPrefix("\(kind.rawValue)://127.0.0.1:"))
            }
        }
    }

    @Test(arguments: FabricKind.allCases) func addressInUse(kind: FabricKind) async throws {
        try await withFabric(kind) { rig in
            let node = try rig.makeNode()
            let text = node.endpoint.address.description
            #expect {
                try rig.world.fabric.makeEndpoint(text, on: rig.xstream)
            } throws: { error in
                guard case FabricError.addressInUse(let message) = error else { return false }
                return message.contains(text)
            }
            // The first is unharmed.
            let client = try rig.makeNode()
            client.peer = try client.endpoint.insert(node.endpoint.address)
            try node.postReceive(0, 64, token: 1)
            try await client.send(0, 64, token: 2)
            try await node.completion(1)
        }
    }

    @Test(arguments: FabricKind.allCases) func badListenAddresses(kind: FabricKind) async throws {
        try await withFabric(kind) { rig in
            for text in [
                "", "ofi+", "tcp://127.0.0.1:1", "\(kind.rawValue)://a b", "\(kind.rawValue):x",
            ] {
                #expect(throws: FabricError.self, "\(text)") {
                    try rig.world.fabric.makeEndpoint(text, on: rig.xstream)
                }
            }
        }
    }

    @Test func noSuchProvider() async throws {
        try await withFabric(.tcp) { rig in
            #expect {
                try rig.world.fabric.makeEndpoint("ofi+nonsense", on: rig.xstream)
            } throws: { error in
                guard case FabricError.noProvider = error else { return false }
                return true
            }
        }
    }

    /// An address of somewhere else is refused at once.
    @Test(arguments: FabricKind.real) func notOfThisMachine(kind: FabricKind) async throws {
        guard kind != .sharedMemory, kind != .libfabricSharedMemory else { return }
        try await withFabric(kind) { rig in
            #expect(throws: FabricError.self) {
                try rig.world.fabric.makeEndpoint(
                    "\(kind.rawValue)://192.0.2.77:4000", on: rig.xstream)
            }
        }
    }

    /// Addresses from the wire that cannot be right are refused, and the endpoint lives on.
    @Test(arguments: FabricKind.allCases) func insertsOfGarbage(kind: FabricKind) async throws {
        try await withFabric(kind) { rig in
            let (client, server) = try rig.makePair()
            var entropy = Entropy(seed: 4)
            for length in [0, 1, 2, 15, 16, 17, 27, 28, 29, 200, 256, 257, 5000] {
                for provider in [kind.rawValue, "ofi+other", ""] {
                    let bytes = (0..<length).map { _ in UInt8(truncatingIfNeeded: entropy.next()) }
                    let address = FabricAddress(provider: provider, bytes: bytes)
                    guard provider != kind.rawValue || !address.isWellFormed else { continue }
                    #expect(throws: FabricError.self) { try client.endpoint.insert(address) }
                }
            }
            try server.postReceive(0, 64, token: 1)
            try await client.send(0, 64, token: 2)
            try await server.completion(1)
        }
    }
}
