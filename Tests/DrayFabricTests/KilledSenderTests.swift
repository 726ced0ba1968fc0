import DrayFabric
import DrayRuntime
import DrayTestSupport
import Glibc
import Testing

/// A process that gets SIGKILL while it sends as fast as it can: of its last message there may be
/// no more than a piece.
@Suite(.serialized) struct KilledSenderTests {
    static let kindVariable = "DRAY_FABRIC_TEST_FLOODED"

    /// In a process of its own, as it may never come to an end.
    @Test(arguments: FabricKind.connected) func inTheMiddleOfAMessage(kind: FabricKind) async throws
    {
        let receiver = try PeerProcess(
            main: "FloodedMain", variable: "\(Self.kindVariable)=\(kind.rawValue)")
        let status = try #require(await receiver.status(within: .seconds(90)), "it stands still")
        #expect(status == 0)
    }
}

@Suite struct FloodedMain {
    private static let messages = 64
    private static let room = 32 << 10

    @Test(.enabled(if: getenv(KilledSenderTests.kindVariable) != nil)) func receive() async throws {
        let kind = FabricKind(
            rawValue: String(cString: getenv(KilledSenderTests.kindVariable)!))!
        try await withFabric(kind, limit: .seconds(80)) { rig in
            let node = try rig.makeNode()
            for index in 0..<Self.messages {
                try node.postReceive(index * Self.room, Self.room, token: UInt64(index))
            }
            var received = 0
            func take() throws {
                for one in node.completions where one.kind == .received {
                    if one.error == nil { received += 1 }
                    try node.postReceive(Int(one.token) * Self.room, Self.room, token: one.token)
                }
                node.completions = []
            }
            for _ in 0..<5 {
                received = 0
                let sender = try PeerProcess(
                    main: "FlooderMain",
                    variable: "\(FlooderMain.addressVariable)=\(node.endpoint.address)")
                while received < 300 {
                    try await rig.wait(for: "messages") { !node.completions.isEmpty }
                    try take()
                }
                sender.kill()
                let end = rig.xstream.now + .milliseconds(200)
                while rig.xstream.now < end {
                    await rig.run(for: .milliseconds(1))
                    try take()
                }
            }
        }
    }
}

@Suite struct FlooderMain {
    static let addressVariable = "DRAY_FABRIC_TEST_FLOODER"

    /// Sends until it is killed; for at most a minute.
    @Test(.enabled(if: getenv(addressVariable) != nil)) func send() async throws {
        let address = try FabricAddress(parsing: String(cString: getenv(Self.addressVariable)!))
        let kind = FabricKind(rawValue: address.provider)!
        let parent = getppid()
        try await withFabric(kind, limit: .seconds(60)) { rig in
            let node = try rig.makeNode()
            node.peer = try node.endpoint.insert(address)
            // As large as the messages of the transport.
            let size = 20 << 10 + 64
            while rig.xstream.now < rig.deadline, getppid() == parent {
                _ = try node.sends(0, size, token: 1)
                node.poll()
                node.completions = []
                await rig.xstream.yield()
            }
        }
        _exit(0)
    }
}
