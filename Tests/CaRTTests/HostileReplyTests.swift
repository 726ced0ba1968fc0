import BasicContainers
import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

/// Large replies, and peers that keep to no rule.
@Suite struct HostileReplyTests {
    private static let large = Procedure<Blob, Blob>(
        TestProtocol.id, index: 51, name: "test.hostile.large")

    private static let bytes = pattern(200_000)
    /// What such a reply takes of the memory.
    private static let size = 1 << 18

    private static func serveLarge(_ context: Context) {
        let bytes = bytes
        context.registerSynchronous(large) { _, _ throws(RPCError) in Blob(bytes: bytes) }
    }

    // MARK: - Who fetches nothing

    /// Status of the reply to a request for a large one.
    private static func ask(
        _ peer: RawPeer, _ rig: Rig, _ session: SessionID, number: UInt64
    ) async throws -> UInt16 {
        var header = WireHeader()
        header.kind = .request
        header.opcode = large.opcode
        header.session = session
        header.requestID = number
        header.deadline = .max / 2
        try await peer.send(frame(header, Blob()))
        return try await peer.wait(rig, for: .reply, number).header.status
    }

    /// It has only its own replies refused, and keeps nobody from exposing memory.
    @Test func whoFetchesNothingConcernsNobodyElse() async throws {
        try await withRig(.simulated) { rig in
            let server = try rig.makeContext {
                // One for each caller.
                $0.replyBytesMax = ReplyAccount.callersMin * Self.size
                $0.quarantinedBytesMax = 1
            }
            let client = try rig.makeContext()
            Self.serveLarge(server)
            let peer = try RawPeer(
                server.world, rig.xstream, rig.kind.address, target: server.address)
            let session = try await peer.greet(rig)
            let noReply = StatusCode.noReply.rawValue
            #expect(try await Self.ask(peer, rig, session, number: 1) == 0)
            #expect(try await Self.ask(peer, rig, session, number: 2) == noReply)
            #expect(server.counters.repliesDropped == 1)
            for _ in 0..<2 * ReplyAccount.callersMin {
                let reply = try await client.call(Self.large, Blob(), to: .address(server.address))
                #expect(reply.bytes == Self.bytes)
                try await rig.wait("the release") { server.counters.keptReplyBytes == Self.size }
            }
            let limit = rig.xstream.now + Context.spillTime + .seconds(10)
            while rig.xstream.now < limit {
                await rig.xstream.sleep(for: .seconds(1))
                peer.poll()
            }
            #expect(server.spills.isEmpty && server.usage.quarantined == 1)
            #expect(server.counters.keptReplyBytes == Self.size)
            #expect(try await Self.ask(peer, rig, session, number: 3) == noReply)
            _ = try await client.call(Self.large, Blob(), to: .address(server.address))
            _ = try server.expose(IOBuffer(count: 8192), access: .remoteRead)
            peer.close()
            try await rig.wait("its end") { server.counters.keptReplyBytes == 0 }
            #expect(server.usage.quarantined == 0 && server.counters.quarantinedBytes == 0)
        }
    }

    // MARK: - Who names what others have

    /// A reply, in time or late, that names the memory and the number of a reply of somebody else.
    @Test(arguments: [false, true])
    func nobodyReleasesTheRepliesOfOthers(isLate: Bool) async throws {
        try await withRig(.simulated) { rig in
            let (client, other) = (try rig.makeContext(), try rig.makeContext())
            serve(other)
            _ = try await client.call(TestProtocol.echo, Blob(), to: .address(other.address))
            let found = other.sessions.find(instance: client.instance)
            let session = try #require(found)
            let handle = try other.expose(IOBuffer(count: 4096), access: .remoteRead)
            var spill = SpillDescriptor(memory: handle.descriptor, bodyLength: 4096)
            spill.identifier = other.spills.next
            other.spills.keep(
                handle, for: .init(session: session, number: 1),
                of: .init(address: client.address, instance: client.instance), until: .max)
            let peer = try RawPeer(
                client.world, rig.xstream, rig.kind.address, target: client.address)
            defer { peer.close() }
            var end: RPCError??
            client.xstream.spawn {
                end = await failure { () throws(RPCError) in
                    try await client.call(
                        TestProtocol.echo, Blob(), to: .address(peer.endpoint.address),
                        deadline: .after(.seconds(2)))
                }
            }
            var answer = try await peer.wait(rig, for: .hello).header
            answer.kind = .helloReply
            try await peer.send(
                frame(
                    answer,
                    HelloReply(
                        instance: 5, session: SessionID(index: 1, generation: 2), credits: 2,
                        eagerLimit: 4096)))
            var reply = try await peer.wait(rig, for: .request).header
            if isLate { try await rig.wait("the deadline") { end != nil } }
            reply.kind = .reply
            reply.flags = .spilled
            try await peer.send(frame(reply, spill))
            await rig.xstream.sleep(for: .seconds(1))
            let error: RPCError = isLate ? .timedOut : .badMessage
            #expect(end == .some(error))
            #expect(client.counters.lateReplies == (isLate ? 1 : 0))
            #expect(client.fetching.isEmpty && other.spills.count == 1)
        }
    }

    // MARK: - Who is asked

    /// A caller wants what it waits for and what it reads, and nothing else.
    @Test func whatACallerWants() async throws {
        try await withRig(.simulated) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            let state = serve(server)
            Self.serveLarge(server)
            let there = Destination.address(server.address)
            let fabric = try #require(client.world.fabric as? SimulatedFabric)
            let peer = try RawPeer(
                client.world, rig.xstream, rig.kind.address, target: client.address)
            defer { peer.close() }
            let session = try await peer.greet(rig)
            _ = try await client.call(TestProtocol.echo, Blob(), to: there)
            // The next ones are counted from there.
            let over = client.tracker.slots[0].requestID
            var ends = 0
            client.xstream.spawn {
                _ = try? await client.call(TestProtocol.wait, Blob(), to: there)
                ends += 1
            }
            try await rig.wait("the request") { state.held.count == 1 }
            let latency = fabric.faults.latency
            fabric.faults.latency = .seconds(1) ... .seconds(1)
            client.xstream.spawn {
                _ = try? await client.call(Self.large, Blob(), to: there)
                ends += 1
            }
            try await rig.wait("the reply") { client.fetching == [over &+ 2] }
            fabric.faults.latency = latency
            var recall = WireHeader()
            recall.kind = .recall
            recall.session = session
            try await peer.send(
                frame(recall, InquiryMessage(requests: [over, over &+ 1, over &+ 2])))
            let answer = try await peer.wait(rig, for: .recalled)
            #expect(try InquiryMessage(decoding: answer.body).requests == [over])
            #expect(client.fetching == [over &+ 2])
            state.held.removeFirst().reply(Blob())
            try await rig.wait("the ends") { ends == 2 }
            #expect(client.fetching.isEmpty)
        }
    }
}
