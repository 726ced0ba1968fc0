import CaRT
import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@Suite struct CallTests {
    static let sizes = [0, 1, 7, 64, 4096, 20_480, 65_524, 65_525, 65_536, 70_000, (1 << 20) + 1]

    @Test(arguments: FabricKind.allCases)
    func echoesEverySize(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            serve(server)
            for (index, size) in Self.sizes.enumerated() {
                let blob = Blob(number: UInt64(index), bytes: pattern(size, index))
                let answer = try await client.call(
                    TestProtocol.echo, blob, to: .address(server.address))
                #expect(answer == blob, "\(size) bytes")
            }
            let answer = try await client.call(
                TestProtocol.synchronous, Blob(number: 5), to: .address(server.address))
            #expect(answer.number == 5)
            #expect(client.counters.repliesReceived == Self.sizes.count + 1)
            #expect(client.counters.inFlight == 0)
            #expect(server.counters.active == 0)
            #expect(server.counters.sessions == 1)
        }
    }

    @Test(arguments: FabricKind.allCases)
    func carriesPayloads(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            serve(server)
            for size in Self.sizes {
                let bytes = pattern(size, size)
                let buffer = IOBuffer(copying: bytes)
                var received: [UInt8] = []
                let answer = try await client.call(
                    TestProtocol.payload, Blob(number: 9, bytes: [1, 2, 3]),
                    to: .address(server.address),
                    payload: UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<size])
                ) { received = [UInt8]($0) }
                #expect(answer.bytes == [1, 2, 3])
                #expect(received == bytes, "\(size) bytes")
            }
        }
    }

    @Test(arguments: FabricKind.allCases)
    func callsInParallel(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            serve(server)
            var good = 0
            await concurrently(rig.xstream, 300) { index in
                let blob = Blob(number: UInt64(index), bytes: pattern(index * 100, index))
                let answer = try? await client.call(
                    TestProtocol.echo, blob, to: .address(server.address))
                if answer == blob { good += 1 }
            }
            #expect(good == 300)
            #expect(client.counters.waiting == 0)
        }
    }
}
