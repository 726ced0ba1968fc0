import DrayFabric
import DrayRuntime
import DrayTestSupport
import Glibc
import Testing

extension PeerProcess {
    static let addressVariable = "DRAY_FABRIC_TEST_PEER"

    /// A process that answers messages at `address`.
    convenience init(address: String) throws {
        try self.init(
            main: "PeerProcessMain", variable: "\(PeerProcess.addressVariable)=\(address)")
    }

    /// The exit status, once the process has ended; nil when it runs for longer than `limit`.
    func status(within limit: Duration) async -> Int32? {
        let clock = World.real().clock
        let end = clock.now + limit
        while clock.now < end {
            if let status = poll() { return status }
            usleep(10_000)
        }
        return nil
    }
}

/// A message to the peer process: a number, and where to answer to. The answer is the number and
/// the process that gave it.
enum Ping {
    static let sizeMax = 512

    static func write(number: UInt64, address: FabricAddress, to node: Node, at offset: Int) -> Int
    {
        node.memory.bytes.storeBytes(of: number, toByteOffset: offset, as: UInt64.self)
        for (index, byte) in address.bytes.enumerated() {
            node.memory.bytes[offset + 8 + index] = byte
        }
        return 8 + address.bytes.count
    }
}

@Suite struct PeerProcessMain {
    /// Answers until it is killed; for at most two minutes.
    @Test(.enabled(if: getenv(PeerProcess.addressVariable) != nil)) func answer() async throws {
        let address = String(cString: getenv(PeerProcess.addressVariable)!)
        let parent = getppid()
        let exact = FabricKind(rawValue: String(address.prefix { $0 != ":" }))!
        try await withFabric(exact, limit: .seconds(120)) { rig in
            let node = try rig.makeNode(address)
            for index in 0..<64 {
                try node.postReceive(index * Ping.sizeMax, Ping.sizeMax, token: UInt64(index))
            }
            var peers: [[UInt8]: Peer] = [:]
            while rig.xstream.now < rig.deadline, getppid() == parent {
                node.poll()
                let done = node.completions
                node.completions = []
                for one in done where one.kind == .received {
                    let offset = Int(one.token) * Ping.sizeMax
                    if one.error == nil, one.length > 8 {
                        let bytes = node.memory.array((offset + 8)..<(offset + one.length))
                        if peers[bytes] == nil {
                            peers[bytes] = try node.endpoint.insert(
                                FabricAddress(provider: exact.rawValue, bytes: bytes))
                        }
                        node.peer = peers[bytes]!
                        let answer = (64 + Int(one.token)) * Ping.sizeMax
                        node.memory.bytes.storeBytes(
                            of: node.memory.bytes.load(fromByteOffset: offset, as: UInt64.self),
                            toByteOffset: answer, as: UInt64.self)
                        node.memory.bytes.storeBytes(
                            of: UInt64(getpid()), toByteOffset: answer + 8, as: UInt64.self)
                        node.memory.bytes.storeBytes(
                            of: node.remote.address, toByteOffset: answer + 16, as: UInt64.self)
                        node.memory.bytes.storeBytes(
                            of: node.remote.key, toByteOffset: answer + 24, as: UInt64.self)
                        let end = rig.xstream.now + .milliseconds(500)
                        while rig.xstream.now < end,
                            try node.sends(answer, 32, token: 1 << 32) == false
                        {
                            node.poll()
                            await rig.xstream.yield()
                        }
                    }
                    try node.postReceive(offset, Ping.sizeMax, token: one.token)
                }
                await rig.xstream.yield()
            }
            _exit(0)
        }
    }
}
