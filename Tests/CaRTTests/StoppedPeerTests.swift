import DrayFabric
import DrayRuntime
import DrayTestSupport
import Glibc
import Testing

@testable import CaRT

/// A process that is stopped while it writes to our memory, is taken for dead, and goes on or not.
/// Where its bytes take the way through a connection, those that are half done arrive then.
@Suite(.serialized) struct StoppedPeerTests {
    enum Way: CaseIterable { case goesOn, dies }

    /// Large enough to be stopped in the middle.
    private static let size = 64 << 20

    @Test(arguments: FabricKind.connected, Way.allCases)
    func memoryStaysUntilItIsCertain(kind: FabricKind, way: Way) async throws {
        try await withRig(kind) { rig in
            // A free address, for another process.
            let address = try await Self.freeAddress(rig)
            let peer = try PeerProcess(
                main: "StoppedPeerMain", variable: "\(StoppedPeerMain.variable)=\(address)")
            defer { peer.kill() }
            let client = try rig.makeContext()
            try client.group.apply(
                .replace([Group.Member(rank: 1, addresses: [address])]), version: 1)
            try await Self.reach(address, from: client)
            let memory = IOBuffer(count: Self.size)
            var handle: BulkHandle? = try client.expose(memory, access: .remoteWrite)
            var end: RPCError??
            let (exposed, descriptor) = ([handle!], handle!.descriptor)
            client.xstream.spawn {
                var transfer = Transfer()
                transfer.memory = descriptor
                transfer.number = 5
                end = await failure { () throws(RPCError) in
                    try await client.call(
                        TestProtocol.push, transfer, to: .rank(1, tag: 0), exposing: exposed,
                        deadline: .after(.seconds(60)))
                }
            }
            let limit = rig.xstream.now + .seconds(20)
            while memory.bytes[0] == 0, rig.xstream.now < limit { await rig.xstream.yield() }
            peer.stop()
            #expect(memory.bytes[0] == 5)
            client.evict(rank: 1)
            try await rig.wait("the end") { end != nil }
            guard end == .some(.unreachable) else {
                // It was faster.
                #expect(end == .some(nil))
                return
            }
            #expect(handle?.isQuarantined == true)
            client.withdraw(handle!)
            handle = nil
            await rig.xstream.sleep(for: .milliseconds(300))
            #expect(client.counters.quarantinedBytes == Self.size || kind != .tcp)
            if way == .goesOn { peer.resume() } else { peer.kill() }
            try await rig.wait("the release") { client.counters.quarantinedBytes == 0 }
            #expect(client.counters.exposures == 0)
            if kind == .tcp, way == .goesOn {
                // All of it has arrived, in memory that was nobody else's.
                #expect(memory.bytes[Self.size - 1] == pattern(1009, 5)[(Self.size - 1) % 1009])
            }
        }
    }

    private static func freeAddress(_ rig: Rig) async throws -> FabricAddress {
        let context = try rig.makeContext()
        let address = context.address
        await context.close()
        return address
    }

    /// Waits until a process answers.
    private static func reach(_ address: FabricAddress, from client: Context) async throws {
        let limit = client.xstream.now + .seconds(20)
        while await failure({ () throws(RPCError) in
            try await client.call(
                TestProtocol.echo, Blob(), to: .address(address), deadline: .after(.seconds(2)))
        }) != nil {
            guard client.xstream.now < limit else { throw RigError.timedOut("the process") }
            await client.xstream.sleep(for: .milliseconds(20))
        }
    }
}

@Suite struct StoppedPeerMain {
    static let variable = "DRAY_CART_TEST_PEER"

    /// Serves until it is killed; for at most a minute.
    @Test(.enabled(if: getenv(variable) != nil)) func serve() async throws {
        let address = String(cString: getenv(Self.variable)!)
        let parent = getppid()
        let kind = FabricKind(rawValue: String(address.prefix { $0 != ":" }))!
        try await withRig(kind) { rig in
            let context = try rig.makeContext(address)
            context.rank = 1
            CaRTTests.serve(context)
            let end = rig.xstream.now + .seconds(60)
            while rig.xstream.now < end, getppid() == parent {
                await rig.xstream.sleep(for: .milliseconds(20))
            }
            _exit(0)
        }
    }
}
