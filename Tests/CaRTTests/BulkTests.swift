import DrayFabric
import DrayRuntime
import DrayTestSupport
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

    // MARK: - Scatter and gather

    /// The pieces of a transfer, byte by byte against a plain list.
    @Test(arguments: 1...30)
    func piecesCoverEveryByteOnce(seed: UInt64) {
        var random = Entropy(seed: seed)
        var segments: [BulkVector.Segment] = []
        for index in 0...random.below(6) {
            segments.append(
                BulkVector.Segment(
                    address: 1000 * index, length: 1 + random.below(20), key: index))
        }
        let vector = BulkVector(segments)
        let plain = segments.enumerated().flatMap { index, segment in
            (0..<Int(segment.length)).map { (index, $0) }
        }
        #expect(vector.length == UInt64(plain.count))
        for _ in 0..<50 {
            let parts = (0...random.below(5)).map { _ in Int(random.below(15)) }
            let offset = Int(random.below(UInt64(plain.count) + 3))
            let total = parts.reduce(0, +)
            let sizeMax = 1 + Int(random.below(30))
            guard let pieces = vector.pieces(offset: offset, parts: parts, sizeMax: sizeMax) else {
                #expect(offset + total > plain.count)
                continue
            }
            #expect(offset + total <= plain.count)
            var position = offset
            var expected: [(Int, Int)] = []
            for (part, count) in parts.enumerated() {
                for index in 0..<count { expected.append((part, index)) }
            }
            #expect(pieces.reduce(0) { $0 + $1.range.count } == total)
            #expect(pieces.allSatisfy { $0.range.count <= sizeMax })
            for piece in pieces {
                for index in piece.range {
                    let (segment, inSegment) = plain[position]
                    #expect(piece.segment == segment)
                    #expect(piece.offset + index - piece.range.lowerBound == inSegment)
                    #expect(expected.first! == (piece.part, index))
                    expected.removeFirst()
                    position += 1
                }
            }
        }
    }

    @Test(arguments: FabricKind.allCases)
    func scattersAndGathers(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (owner, other) = (try rig.makeContext(), try rig.makeContext())
            let sizes = [10_000, 1, 4096, 70_000, 33]
            let total = sizes.reduce(0, +)
            var content = pattern(total, 3)
            var handles: [BulkHandle] = []
            var buffers: [RegisteredBuffer] = []
            var start = 0
            for size in sizes {
                let buffer = try owner.makeBuffer(count: size + 100)
                UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[50..<50 + size])
                    .copyBytes(from: content[start..<start + size])
                start += size
                buffers.append(buffer)
                handles.append(
                    try owner.expose(
                        buffer, range: 50..<50 + size, access: [.remoteRead, .remoteWrite]))
            }
            let vector = BulkVector(handles)
            #expect(vector.length == UInt64(total))
            let encoded = vector.encoded()
            #expect(try encoded.withUnsafeBytes { try BulkVector(decoding: $0) } == vector)
            for context in [other, owner] {
                let first = try context.makeBuffer(count: 5000)
                let second = try context.makeBuffer(IOBuffer(count: 100_000))
                let offset = 9_000
                try await context.bulkGet(
                    vector, offset: offset,
                    into: [BulkPart(first, range: 7..<4007), BulkPart(second, range: 0..<60_000)])
                var read = [UInt8](first.bytes[7..<4007])
                read += [UInt8](second.bytes[0..<60_000])
                let isRead = read == Array(content[offset..<offset + 64_000])
                #expect(isRead)
                // And back, over everything.
                let new = pattern(total, context === other ? 8 : 9)
                let source = try context.makeBuffer(count: total)
                source.bytes.copyBytes(from: new)
                try await context.bulkPut(
                    vector,
                    from: [
                        BulkPart(source, range: 0..<20_000),
                        BulkPart(source, range: 20_000..<total),
                    ])
                start = 0
                for (size, buffer) in zip(sizes, buffers) {
                    let isThere =
                        [UInt8](buffer.bytes[50..<50 + size]) == Array(new[start..<start + size])
                    #expect(isThere)
                    start += size
                }
                content = new
                #expect(
                    await failure { () throws(RPCError) in
                        try await context.bulkGet(
                            vector, offset: total - 10, into: [BulkPart(first, range: 0..<11)])
                    } == .fabric(.badKey))
                try await context.bulkGet(vector, offset: total, into: [])
            }
            #expect(other.usage.isIdle)
        }
    }

    // MARK: - Permissions

    /// What is not allowed is refused before it can cost the connection anything.
    @Test(arguments: FabricKind.allCases)
    func permissionsAreKept(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (owner, other) = (try rig.makeContext(), try rig.makeContext())
            serve(owner)
            let there = Destination.address(owner.address)
            let buffer = try owner.makeBuffer(count: 4096)
            for context in [other, owner] {
                let local = try context.makeBuffer(count: 4096)
                for access in [.remoteRead, .remoteWrite] as [MemoryAccess] {
                    let handle = try owner.expose(buffer, access: access)
                    let read = await failure { () throws(RPCError) in
                        try await context.bulkGet(handle.descriptor, into: local, range: 0..<4096)
                    }
                    let written = await failure { () throws(RPCError) in
                        try await context.bulkPut(handle.descriptor, from: local, range: 0..<4096)
                    }
                    #expect(read == (access == .remoteRead ? nil : .fabric(.badKey)))
                    #expect(written == (access == .remoteWrite ? nil : .fabric(.badKey)))
                    owner.withdraw(handle)
                }
            }
            let lost = other.counters.peersLost
            _ = try await other.call(TestProtocol.echo, Blob(), to: there)
            #expect(other.counters.peersLost == lost)
        }
    }

    // MARK: - Quota, cancellation, eviction

    @Test(arguments: FabricKind.allCases)
    func transfersBeyondTheQuotaWait(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let owner = try rig.makeContext()
            let other = try rig.makeContext { $0.bulksMax = 3 }
            let source = try owner.makeBuffer(count: 1 << 20)
            source.bytes.copyBytes(from: pattern(1 << 20, 1))
            let handle = try owner.expose(source, access: .remoteRead)
            var most = 0
            var good = 0
            await concurrently(other.xstream, 60) { index in
                guard let buffer = try? other.makeBuffer(count: 16_384) else { return }
                let offset = index * 16_384
                let error = await failure { () throws(RPCError) in
                    try await other.bulkGet(
                        handle.descriptor, offset: offset, into: buffer, range: 0..<16_384)
                }
                most = max(most, other.bulks.inFlight)
                #expect(error == nil)
                if Array(buffer.bytes) == Array(source.bytes[offset..<offset + 16_384]) {
                    good += 1
                }
            }
            #expect(good == 60)
            #expect(most <= 3)
            #expect(other.bulks.inFlight == 0)
            #expect(other.usage.isIdle)
        }
    }

    /// Transfers with a peer that is far away: cancelled, out of time, evicted, with the fabric or
    /// in the queue. Each ends as it should, and nothing is left when the fabric is done.
    @Test(arguments: 1...10)
    func transfersEndEarly(seed: UInt64) async throws {
        let simulation = Simulation(seed: seed)
        var faults = FabricFaults.none
        faults.latency = .milliseconds(200) ... .milliseconds(300)
        let fabric = SimulatedFabric(simulation: simulation, faults: faults)
        let contexts = simulatedContexts(2, simulation, fabric) { node, context in
            if node == 1 { serve(context) }
        }
        var ends: [Int: RPCError?] = [:]
        var isEvicted = false
        var tooEarly = 0
        let (owner, other) = (contexts[0], contexts[1])
        try other.group.apply(
            .replace([Group.Member(rank: 5, addresses: [owner.address])]), version: 1)
        var handle: BulkHandle?
        owner.xstream.simulate {
            guard let buffer = try? owner.makeBuffer(count: 4096) else { return }
            handle = try? owner.expose(buffer, access: [.remoteRead, .remoteWrite])
        }
        simulation.run(for: .seconds(1), until: { handle != nil })
        let descriptor = try #require(handle?.descriptor)
        var tasks: [Int: Task<Void, Never>] = [:]
        for index in 0..<400 {
            other.xstream.simulate {
                tasks[index] = other.xstream.spawnCancellable {
                    guard let buffer = try? other.makeBuffer(count: 4096) else { return }
                    ends[index] = await failure { () throws(RPCError) in
                        let deadline = Deadline.after(
                            index % 3 == 0 ? .milliseconds(1 + index % 7) : .seconds(100))
                        if index % 2 == 0 {
                            try await other.bulkGet(
                                descriptor, into: buffer, range: 0..<4096, deadline: deadline)
                        } else {
                            try await other.bulkPut(
                                descriptor, from: buffer, range: 0..<4096, deadline: deadline)
                        }
                    }
                    // Who writes waits for the fabric, or for the peer to be gone.
                    if index % 2 == 1, !isEvicted { tooEarly += 1 }
                }
            }
        }
        simulation.run(for: .milliseconds(1))
        other.xstream.simulate {
            for index in 0..<400 where index % 3 == 1 { tasks[index]?.cancel() }
        }
        simulation.run(for: .milliseconds(20))
        #expect(ends.count > 50)
        #expect(tooEarly == 0)
        other.xstream.simulate {
            isEvicted = true
            other.evict(rank: 5)
        }
        simulation.run(for: .seconds(60), until: { ends.count == 400 })
        #expect(ends.count == 400)
        for (index, end) in ends {
            let expected: [RPCError] =
                [[.timedOut], [.cancelled], [.unreachable]][index % 3]
            #expect(expected.contains(end ?? .closed), "\(index)")
        }
        simulation.run(for: .seconds(60), until: { other.bulks.count == 0 })
        #expect(other.bulks.count == 0)
        #expect(other.bulks.inFlight == 0)
    }

    // MARK: - Memory that was given back

    /// Whatever the fabric does late, memory does not change once the call that named it is over
    /// and the exposure withdrawn.
    @Test(arguments: 1...30)
    func nothingLandsInMemoryThatWasGivenBack(seed: UInt64) async throws {
        let simulation = Simulation(seed: seed)
        var faults = FabricFaults.harsh
        faults.connectionLossRate = 100_000
        faults.lateWriteRate = 900_000
        let fabric = SimulatedFabric(simulation: simulation, faults: faults)
        let contexts = simulatedContexts(2, simulation, fabric) { node, context in
            if node == 1 { serve(context) }
        }
        let (server, client) = (contexts[0], contexts[1])
        var ended = 0
        var failures = 0
        var changed = 0
        client.xstream.simulate {
            for round in 0..<40 {
                guard let buffer = try? client.makeBuffer(count: 60_000),
                    let handle = try? client.expose(buffer, access: .remoteWrite)
                else { continue }
                var transfer = Transfer()
                transfer.memory = handle.descriptor
                transfer.number = UInt64(round)
                let error = await failure { () throws(RPCError) in
                    try await client.call(
                        TestProtocol.push, transfer, to: .address(server.address),
                        exposing: [handle], deadline: .after(.microseconds(10 + round * 15)))
                }
                if error != nil { failures += 1 }
                client.withdraw(handle)
                if handle.isQuarantined { continue }
                let before = [UInt8](buffer.bytes)
                await client.xstream.sleep(for: .milliseconds(300))
                if [UInt8](buffer.bytes) != before { changed += 1 }
            }
            ended += 1
        }
        simulation.run(for: .seconds(600), until: { ended == 1 })
        #expect(ended == 1)
        #expect(failures > 0)
        #expect(changed == 0)
        #expect(fabric.counts.regionsLost == 0)
    }

    @Test(arguments: FabricKind.allCases)
    func keepsRegistrationsOfTheUsersMemory(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let owner = try rig.makeContext()
            let other = try rig.makeContext { $0.cachedRegistrationBytesMax = 3 * 8192 }
            let source = try owner.makeBuffer(count: 8192)
            source.bytes.copyBytes(from: pattern(8192, 4))
            let handle = try owner.expose(source, access: .remoteRead)
            let memory = (0..<4).map { _ in IOBuffer(count: 8192) }
            let cache = other.registrations
            for round in 0..<3 {
                for buffer in memory[0..<3] {
                    let local = try other.makeBuffer(buffer)
                    try await other.bulkGet(handle.descriptor, into: local, range: 0..<8192)
                    #expect([UInt8](buffer.bytes) == pattern(8192, 4))
                }
                #expect(cache.hits == round * 3)
                #expect(cache.bytes == 3 * 8192)
            }
            // A fourth takes the place of the one unused for longest; what is in use stays.
            var held: RegisteredBuffer? = try other.makeBuffer(memory[0])
            _ = try other.makeBuffer(memory[3])
            #expect(cache.bytes == 3 * 8192)
            let hits = cache.hits
            _ = try other.makeBuffer(memory[0])
            #expect(cache.hits == hits + 1)
            _ = try other.makeBuffer(memory[1])
            #expect(cache.hits == hits + 1)
            try await other.bulkGet(
                handle.descriptor, into: try #require(held), range: 0..<8192)
            held = nil
            #expect(cache.bytes <= 3 * 8192)
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
                (.empty, .empty), (.inline(64), .inline(64)), (.inline(100_000), .inline(90_000)),
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
                    on: client, to: [.address(server.address)], options: options)
                #expect(result.repetitions == 40)
                #expect(result.rate > 0)
                #expect(result.minimum <= result.median)
                #expect(result.median <= result.maximum)
            }
        }
    }
}

extension BulkVector {
    /// Segments of nobody's memory, as a decoder makes them.
    init(_ segments: [Segment]) {
        self.init()
        self.segments = segments
    }
}
