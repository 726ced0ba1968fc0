import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

/// An endpoint that sends whatever bytes it likes.
final class RawPeer {
    let endpoint: Endpoint
    let memory = IOBuffer(count: 256 * 1024)
    private let registration: Registration
    private let target: Peer
    private let xstream: XStream
    private var busy = false
    var received: [[UInt8]] = []
    private let scratch = {
        let buffer = UnsafeMutableBufferPointer<Completion>.allocate(capacity: 16)
        buffer.initialize(repeating: Completion(token: 0, kind: .sent))
        return buffer
    }()

    static let slotSize = 32 * 1024

    init(_ world: World, _ xstream: XStream, _ address: String, target: FabricAddress) throws {
        endpoint = try world.fabric.makeEndpoint(address, on: xstream)
        self.xstream = xstream
        scratch.initialize(repeating: Completion(token: 0, kind: .sent))
        registration = try Registration(memory, at: endpoint, access: [])
        self.target = try endpoint.insert(target)
        for slot in 1..<8 { try post(slot) }
    }

    private func post(_ slot: Int) throws {
        let start = slot * Self.slotSize
        try endpoint.postReceive(
            UnsafeMutableRawBufferPointer(rebasing: memory.bytes[start..<start + Self.slotSize]),
            in: registration.pointer.pointee, token: UInt64(slot))
    }

    func poll() {
        for index in 0..<endpoint.poll(into: scratch) {
            let completion = scratch[index]
            if completion.kind == .sent { busy = false }
            guard completion.kind == .received, completion.error == nil else { continue }
            let slot = Int(completion.token)
            let start = slot * Self.slotSize
            received.append(memory.array(start..<start + completion.length))
            try? post(slot)
        }
    }

    func send(_ bytes: [UInt8]) async throws {
        while busy {
            poll()
            await xstream.sleep(for: .microseconds(20))
        }
        guard !bytes.isEmpty else { return }
        memory.bytes.copyBytes(from: bytes)
        busy = true
        while true {
            do {
                return try endpoint.send(
                    UnsafeRawBufferPointer(rebasing: memory.bytes[0..<bytes.count]),
                    in: registration.pointer.pointee, to: target, token: 0)
            } catch {
                guard case .tryAgain = error else { throw error }
                poll()
                await xstream.sleep(for: .microseconds(20))
            }
        }
    }

    /// What has come, message by message.
    var messages: [(header: WireHeader, body: [UInt8])] {
        received.flatMap { bytes in
            var messages: [(header: WireHeader, body: [UInt8])] = []
            var start = 0
            while start < bytes.count,
                let header = bytes[start...].withUnsafeBytes({ WireHeader(decoding: $0) })
            {
                let end = start + header.messageLength
                messages.append((header, Array(bytes[start + WireHeader.size..<end])))
                start += WireHeader.aligned(header.messageLength)
            }
            return messages
        }
    }

    /// Waits for a message of this kind, with this number if it matters.
    func wait(
        _ rig: Rig, for kind: MessageKind, _ number: UInt64? = nil
    ) async throws -> (header: WireHeader, body: [UInt8]) {
        var found: (header: WireHeader, body: [UInt8])?
        try await rig.wait("\(kind)") {
            poll()
            found = messages.last {
                $0.header.kind == kind && (number == nil || $0.header.requestID == number)
            }
            return found != nil
        }
        return try #require(found)
    }

    /// Says hello; returns the session.
    func greet(_ rig: Rig) async throws -> SessionID {
        var hello = WireHeader()
        hello.kind = .hello
        hello.slot = 5
        hello.requestID = 99
        var greeting = HelloMessage(address: endpoint.address)
        greeting.instance = 1234
        greeting.eagerLimit = 20_480
        try await send(frame(hello, greeting))
        return try HelloReply(decoding: try await wait(rig, for: .helloReply, 99).body).session
    }

    func close() {
        registration.close(at: endpoint)
        endpoint.close()
        scratch.deallocate()
    }
}

/// A whole message.
func frame<Body: ByteCodable>(_ header: WireHeader, _ body: Body, intact: Bool = true) -> [UInt8] {
    frame(header, body.encoded(), intact: intact)
}

func frame(_ header: WireHeader, _ body: [UInt8], intact: Bool = true) -> [UInt8] {
    var header = header
    header.bodyLength = UInt32(body.count) - header.payloadLength
    header.bodyChecksum = body.withUnsafeBytes { CRC32C.checksum(of: $0) } ^ (intact ? 0 : 1)
    var bytes = [UInt8](repeating: 0, count: WireHeader.size)
    bytes.withUnsafeMutableBytes { header.encode(to: $0.baseAddress!) }
    return bytes + body
}

@Suite struct HostileTests {
    @Test(arguments: FabricKind.allCases)
    func livesOnWhateverArrives(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            serve(server)
            let peer = try RawPeer(
                server.world, rig.xstream, kind.address, target: server.address)
            defer { peer.close() }
            var hello = WireHeader()
            hello.kind = .hello
            hello.slot = 5
            hello.requestID = 99
            var greeting = HelloMessage(address: peer.endpoint.address)
            greeting.instance = 1234
            greeting.eagerLimit = 20_480
            try await peer.send(frame(hello, greeting))
            try await rig.wait("a session") {
                peer.poll()
                return !peer.received.isEmpty
            }
            let answer = peer.received[0]
            let reply = try HelloReply(decoding: Array(answer[WireHeader.size...]))
            #expect(reply.instance == server.instance)

            var valid = WireHeader()
            valid.opcode = TestProtocol.echo.opcode
            valid.session = reply.session
            valid.deadline = .max / 2
            valid.requestID = 7
            let good = frame(valid, Blob(number: 1, bytes: [1, 2, 3]))
            var random = Entropy(seed: 11)
            for round in 0..<400 {
                try await peer.send(Self.hostile(round, good, valid, greeting, &random))
                peer.poll()
            }
            try await peer.send(good)
            try await rig.wait("an answer after all that") {
                peer.poll()
                return peer.received.contains { bytes in
                    bytes.withUnsafeBytes { WireHeader(decoding: $0) }.map {
                        $0.kind == .reply && $0.status == 0 && $0.requestID == 7
                    } ?? false
                }
            }
            let blob = Blob(number: 9, bytes: pattern(100))
            let there = Destination.address(server.address)
            #expect(try await client.call(TestProtocol.echo, blob, to: there) == blob)
            #expect(server.counters.dropped > 0)
            #expect(server.counters.active == 0)
            server.sessions.checkInvariants()
        }
    }

    private static func hostile(
        _ round: Int, _ good: [UInt8], _ valid: WireHeader, _ greeting: HelloMessage,
        _ random: inout Entropy
    ) -> [UInt8] {
        var header = valid
        switch round % 9 {
        case 8:  // Several together, of which one cannot be read, or the last is cut off.
            header.requestID = 8
            let one = frame(header, Blob(number: 2, bytes: [4, 5]))
            let gap = [UInt8](repeating: 0, count: WireHeader.aligned(one.count) - one.count)
            var bytes = one + gap + one + gap + one
            if random.below(2) == 0 {
                bytes[Int(random.below(UInt64(bytes.count)))] ^= 1 << UInt8(random.below(8))
            } else {
                bytes.removeLast(Int(random.below(UInt64(one.count))) + 1)
            }
            return bytes
        case 0:  // Noise.
            return (0..<random.below(200) + 1).map { _ in UInt8(random.below(256)) }
        case 1:  // Cut off.
            return Array(good.prefix(Int(random.below(UInt64(good.count))) + 1))
        case 2:  // A bit flipped.
            var bytes = good
            bytes[Int(random.below(UInt64(bytes.count)))] ^= 1 << UInt8(random.below(8))
            return bytes
        case 3:  // A sound header over a body of noise.
            let body = (0..<random.below(60)).map { _ in UInt8(random.below(256)) }
            header.opcode =
                [
                    TestProtocol.echo.opcode, 0xff02_0001, 0x2001_0005,
                    UInt32(random.next() & 0xffff_ffff),
                ][
                    Int(random.below(4))]
            return frame(header, body)
        case 4:  // Every kind with a body of noise, sound checksums.
            header.kind = MessageKind(rawValue: UInt8(random.below(12)) + 1)!
            if header.kind == .request { header.flags = .spilled }
            header.slot = UInt32(random.below(4))
            header.slotGeneration = UInt32(random.below(4))
            return frame(header, (0..<random.below(60)).map { _ in UInt8(random.below(256)) })
        case 5:  // A hello with parts replaced, and never our own session's address.
            var bytes = greeting.encoded()
            bytes[Int(random.below(UInt64(bytes.count)))] ^= UInt8(random.below(255)) + 1
            header.kind = .hello
            guard let changed = try? HelloMessage(decoding: bytes),
                changed.address != greeting.address, changed.instance != greeting.instance
            else { return good }
            return frame(header, bytes)
        case 6:  // A spill that leads nowhere.
            var spill = SpillDescriptor()
            spill.memory.owner = greeting.address
            spill.memory.address = random.next() >> 1
            spill.memory.length = random.below(2) == 0 ? 100 : 1 << 40
            spill.bodyLength = UInt32(truncatingIfNeeded: spill.memory.length)
            header.flags = .spilled
            header.deadline = 1
            return frame(header, spill)
        default:  // A body that its checksum does not cover; a wrong session.
            header.session.generation &+= UInt32(random.below(2))
            return frame(header, Blob(number: 1), intact: random.below(2) == 0)
        }
    }

    /// Any bytes decode, or fail with an error.
    @Test func decodersNeverCrash() {
        let address = FabricAddress(provider: "ofi+tcp", bytes: [1, 2, 3, 4])
        var memory = BulkDescriptor()
        memory.owner = address
        memory.length = 10
        checkDecoding(of: HelloMessage(address: address, instance: 3, eagerLimit: 4096))
        checkDecoding(of: HelloReply(instance: 3, credits: 32, eagerLimit: 4096))
        checkDecoding(of: SpillDescriptor(memory: memory, bodyLength: 4, payloadLength: 6))
        checkDecoding(of: FailureMessage(code: 1, detail: 2, text: "words"))
        checkDecoding(of: memory)
        checkDecoding(of: InternalProtocol.AddressAnswer(incarnation: 5, addresses: [address]))
        checkDecoding(
            of: SelfTest.TransferRequest(replySize: 4, alignment: 3, seed: 9, get: memory, put: nil)
        )
        var measure = SelfTest.MeasureRequest()
        measure.options.request = .bulk(7)
        measure.members = [SelfTest.Member(rank: 1, tag: 2)]
        checkDecoding(of: measure)
        var result = SelfTest.Result()
        for time in [5, 700, 90_000] as [UInt64] { result.latencies.record(nanoseconds: time) }
        result.endpoints = [SelfTest.EndpointResult()]
        checkDecoding(of: result)
    }

    @Test func headersSurviveTheWire() {
        var header = WireHeader()
        header.kind = .reply
        header.flags = .spilled
        header.status = 3
        header.opcode = 0x2001_0004
        header.sourceRank = 5
        header.destinationRank = 6
        header.destinationTag = 7
        header.session = SessionID(index: 8, generation: 9)
        header.slot = 10
        header.slotGeneration = 11
        header.stamp = 1 << 60
        header.requestID = 1 << 61
        header.deadline = 1 << 62
        header.trace = 12
        header.groupVersion = 13
        let bytes = frame(header, [1, 2, 3])
        #expect(bytes.count == WireHeader.size + 3)
        bytes.withUnsafeBytes { raw in
            let decoded = WireHeader(decoding: raw)!
            #expect(decoded.kind == .reply && decoded.flags == .spilled && decoded.status == 3)
            #expect(decoded.session == header.session && decoded.trace == 12)
            #expect(decoded.stamp == 1 << 60 && decoded.requestID == 1 << 61)
            #expect(decoded.deadline == 1 << 62 && decoded.opcode == header.opcode)
            #expect(decoded.bodyLength == 3 && decoded.payloadLength == 0)
            #expect(decoded.groupVersion == 13)
            let short = UnsafeRawBufferPointer(rebasing: raw.dropLast())
            #expect(WireHeader(decoding: short) == nil)
        }
        // The checksum covers every bit of the header.
        for bit in 0..<(WireHeader.size * 8) {
            var changed = bytes
            changed[bit / 8] ^= 1 << UInt8(bit % 8)
            #expect(changed.withUnsafeBytes { WireHeader(decoding: $0) } == nil)
        }
    }

    @Test func errorsSurviveTheWire() {
        let errors: [RPCError] = [
            .timedOut, .unreachable, .cancelled, .overloaded, .noReply, .unknownProcedure,
            .protocolVersion, .badMessage, .wrongRank, .wrongTag, .staleGroup, .clockSkew,
            .peerRestarted, .application(code: 9, message: "nine"), .closed, .messageTooLong,
            .groupVersion, .fabric(.tryAgain), .fabric(.unreachable(code: -4)),
            .fabric(.messageTooLong),
            .fabric(.badAddress("a")), .fabric(.addressInUse("b")), .fabric(.noProvider("c")),
            .fabric(.badKey), .fabric(.cancelled), .fabric(.provider(code: -9, message: "d")),
        ]
        for error in errors {
            let (code, body) = error.wire
            let bytes = body?.encoded() ?? []
            let read = bytes.withUnsafeBytes { RPCError(status: code.rawValue, body: $0) }
            #expect(read == error)
        }
        let long = RPCError.application(code: 1, message: String(repeating: "é", count: 2000))
        let bytes = long.wire.1!.encoded()
        let read = bytes.withUnsafeBytes {
            RPCError(status: StatusCode.application.rawValue, body: $0)
        }
        guard case .application(1, let text) = read else {
            Issue.record("\(read)")
            return
        }
        #expect(text == String(repeating: "é", count: 512))
    }
}
