import DrayFabric
import DrayRuntime
import Testing

@testable import CaRT

@Suite struct BulkTests {
    @Test(arguments: FabricKind.allCases)
    func pullsAndPushes(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            serve(server)
            // The last is more than some fabrics move at a time.
            for size in [1, 4096, 100_000, 1 << 20, (9 << 20) + 4095] {
                let buffer = try client.makeBuffer(count: size)
                buffer.bytes.copyBytes(from: pattern(size, size))
                let source = try client.expose(buffer, access: .remoteRead)
                var transfer = Transfer()
                transfer.memory = source.descriptor
                let sum = try await client.call(
                    TestProtocol.pull, transfer, to: .address(server.address), exposing: [source])
                let bytes = UnsafeRawBufferPointer(buffer.bytes)
                #expect(sum.number == UInt64(CRC32C.checksum(of: bytes)))
                client.withdraw(source)
                let target = try client.expose(buffer, access: .remoteWrite)
                transfer.memory = target.descriptor
                transfer.number = 99
                _ = try await client.call(
                    TestProtocol.push, transfer, to: .address(server.address), exposing: [target])
                #expect([UInt8](buffer.bytes) == pattern(size, 99))
                client.withdraw(target)
            }
        }
    }

    /// A third process reads the client's memory by the descriptor alone.
    @Test(arguments: FabricKind.allCases)
    func aThirdProcessPulls(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            let (leader, replica) = (try rig.makeContext(), try rig.makeContext())
            serve(replica)
            let forward = Procedure<Transfer, Blob>(TestProtocol.id, index: 40, name: "forward")
            leader.register(forward) { transfer, request throws(RPCError) in
                try await request.context.call(
                    TestProtocol.pull, transfer, to: .address(replica.address),
                    deadline: .at(request.deadline), trace: request.trace)
            }
            // A part of a larger buffer that is not the pool's.
            let buffer = IOBuffer(copying: pattern(300_000, 5))
            let handle = try client.expose(buffer, range: 1000..<201_000, access: .remoteRead)
            var transfer = Transfer()
            transfer.memory = handle.descriptor
            let sum = try await client.call(
                forward, transfer, to: .address(leader.address), exposing: [handle])
            let part = UnsafeRawBufferPointer(rebasing: buffer.bytes[1000..<201_000])
            #expect(sum.number == UInt64(CRC32C.checksum(of: part)))
        }
    }

    @Test(arguments: FabricKind.allCases)
    func refusesWhatIsNotExposed(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            serve(server)
            _ = try await client.call(TestProtocol.echo, Blob(), to: .address(server.address))
            let buffer = try client.makeBuffer(count: 8192)
            let handle = try client.expose(buffer, range: 0..<4096, access: .remoteRead)
            let target = try server.makeBuffer(count: 8192)
            #expect(
                await failure { () throws(RPCError) in
                    try await server.bulkGet(handle.descriptor, into: target, range: 0..<4097)
                } == .fabric(.badKey))
            #expect(
                await failure { () throws(RPCError) in
                    try await server.bulkGet(
                        handle.descriptor, offset: 4000, into: target, range: 0..<97)
                } == .fabric(.badKey))
            try await server.bulkGet(handle.descriptor, offset: 4000, into: target, range: 0..<96)
            client.withdraw(handle)
            let error = await failure { () throws(RPCError) in
                try await server.bulkGet(
                    handle.descriptor, into: target, range: 0..<4096, deadline: .after(.seconds(2)))
            }
            #expect(error != nil, "withdrawn memory was read")
            // Whatever it cost the connection, calls go on.
            var errors: [RPCError] = []
            while errors.count < 5,
                let error = await failure({ () throws(RPCError) in
                    try await client.call(
                        TestProtocol.echo, Blob(number: 6), to: .address(server.address),
                        deadline: .after(.seconds(2)))
                })
            { errors.append(error) }
            #expect(errors.count < 5, "\(errors), after \(String(describing: error))")
        }
    }

    @Test func poolsMemoryByClass() async throws {
        #expect(BufferPool.sizeClass(of: 0) == 0)
        #expect(BufferPool.sizeClass(of: 4096) == 0)
        #expect(BufferPool.sizeClass(of: 4097) == 1)
        #expect(BufferPool.sizeClass(of: 1 << 24) == 12)
        #expect(BufferPool.sizeClass(of: (1 << 24) + 1) == nil)
        try await withRig(.simulated) { rig in
            let context = try rig.makeContext { $0.pooledBytesMax = 100_000 }
            var first: RegisteredBuffer? = try context.makeBuffer(count: 60_000)
            let memory = ObjectIdentifier(first!.buffer)
            let second = try context.makeBuffer(count: 60_000)
            #expect(ObjectIdentifier(second.buffer) != memory)
            first = nil
            #expect(context.pool.freeBytes == 65_536)
            let third = try context.makeBuffer(count: 50_000)
            #expect(ObjectIdentifier(third.buffer) == memory)
            #expect(third.count == 50_000)
            #expect(context.pool.freeBytes == 0)
        }
    }

    @Test(arguments: FabricKind.allCases)
    func testsItself(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            SelfTest.register(on: server)
            let loads: [(SelfTest.Load, SelfTest.Load)] = [
                (.empty, .empty), (.inline(64), .inline(64)), (.inline(100_000), .inline(50_000)),
                (.bulk(65_536), .empty), (.empty, .bulk(65_536)), (.bulk(1000), .inline(3)),
            ]
            for (request, reply) in loads {
                var options = SelfTest.Options()
                options.request = request
                options.reply = reply
                options.inFlight = 8
                options.repetitions = 40
                options.warmUp = 2
                let result = try await SelfTest.run(
                    on: client, to: .address(server.address), options: options)
                #expect(result.repetitions == 40)
                #expect(result.rate > 0)
                #expect(result.minimum <= result.median)
                #expect(result.median <= result.maximum)
            }
        }
    }
}
