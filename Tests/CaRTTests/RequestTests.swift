import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

@Suite struct RequestTests {
    @Test(arguments: FabricKind.allCases)
    func oneWayRequestsHaveNoReply(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            let state = serve(server)
            let there = Destination.address(server.address)
            // More than there are credits; handlers answer, throw, drop, and hold.
            for number in 0..<50 {
                try await client.send(TestProtocol.echo, Blob(number: UInt64(number)), to: there)
                try await client.send(TestProtocol.fail, Blob(number: 1), to: there)
                try await client.send(TestProtocol.unknown, Blob(), to: there)
            }
            try await client.send(TestProtocol.wait, Blob(), to: there)
            try await rig.wait("arrived") { state.started == 1 }
            #expect(state.held.first?.request.isOneWay == true)
            state.held = []
            try await rig.wait("done") { server.counters.active == 0 }
            #expect(server.counters.requestsReceived == 151)
            #expect(server.counters.repliesSent == 0)
            #expect(client.usage.isIdle && server.usage.isIdle)
            // What does not go inline would need an answer.
            let large = Blob(bytes: pattern(64 << 10))
            #expect(
                await failure { () throws(RPCError) in
                    try await client.send(TestProtocol.echo, large, to: there)
                } == .messageTooLong)
            #expect(client.usage.isIdle)
            _ = try await client.call(TestProtocol.echo, Blob(), to: there)
        }
    }

    @Test func oneWayRequestsEndWithoutAPeer() async throws {
        try await withRig(.simulated) { rig in
            let client = try rig.makeContext()
            let nobody = FabricAddress(provider: "sim", bytes: Array("nobody".utf8))
            let error = await failure { () throws(RPCError) in
                try await client.send(
                    TestProtocol.echo, Blob(), to: .address(nobody),
                    deadline: .after(.milliseconds(50)))
            }
            #expect(error == .timedOut || error == .unreachable)
            #expect(client.usage.isIdle)
        }
    }

    /// One credit: what waits goes by its priority, and first in line where that was asked for.
    @Test(arguments: FabricKind.allCases)
    func prioritiesDecideWhoGoesNext(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            let server = try rig.makeContext { $0.credits = 1 }
            var order: [UInt64] = []
            var held: [DeferredReply<Blob>] = []
            server.registerDeferred(TestProtocol.wait) { blob, reply in
                order.append(blob.number)
                #expect(reply.request.priority.rawValue == blob.bytes.first)
                held.append(reply)
            }
            let plan: [(UInt64, RequestPriority, Bool)] = [
                (0, .normal, false), (5, .low, false), (3, .normal, false), (4, .normal, false),
                (1, .high, false), (2, .normal, true), (6, .low, false),
            ]
            var ended = 0
            for (number, priority, isFirst) in plan {
                client.xstream.spawn {
                    let error = await failure { () throws(RPCError) in
                        try await client.call(
                            TestProtocol.wait, Blob(number: number, bytes: [priority.rawValue]),
                            to: .address(server.address),
                            options: CallOptions(priority: priority, isFirst: isFirst))
                    }
                    #expect(error == nil)
                    ended += 1
                }
                try await rig.wait("under way") {
                    number == 0 ? held.count == 1 : client.counters.waiting > 0
                }
                await client.xstream.sleep(for: .milliseconds(1))
            }
            #expect(client.counters.waiting == 6)
            for _ in plan {
                try await rig.wait("next") { held.count == 1 }
                held.removeLast().reply(Blob())
            }
            try await rig.wait("ended") { ended == plan.count }
            #expect(order == [0, 1, 2, 3, 4, 5, 6])
        }
    }

    /// A loaded server refuses what can wait first, and keeps room for what cannot.
    @Test func aLoadedServerRefusesByPriority() async throws {
        try await withRig(.simulated) { rig in
            let client = try rig.makeContext()
            let server = try rig.makeContext { options in
                options.activeRequestsMax = 8
                options.credits = 0
            }
            let state = serve(server)
            var ends: [RequestPriority: [RPCError?]] = [:]
            for priority in RequestPriority.allCases {
                for _ in 0..<12 {
                    client.xstream.spawn {
                        let error = await failure { () throws(RPCError) in
                            try await client.call(
                                TestProtocol.wait, Blob(), to: .address(server.address),
                                options: CallOptions(priority: priority))
                        }
                        ends[priority, default: []].append(error)
                    }
                }
                await client.xstream.sleep(for: .milliseconds(50))
            }
            #expect(state.started == 9)
            #expect(ends[.low]?.count == 6)
            #expect(ends[.normal]?.count == 10)
            #expect(ends[.high]?.count == 11)
            #expect(ends.values.joined().allSatisfy { $0 == .overloaded })
            for reply in state.held { reply.reply(Blob()) }
            state.held = []
            try await rig.wait("ended") { ends.values.joined().count == 36 }
        }
    }

    // MARK: - Versions

    private enum Old {
        static let greet = Procedure<Blob, Blob>(
            ProtocolID(base: 0x33, version: 1), index: 1, name: "old.greet")
    }

    private enum New {
        static let greet = Procedure<Transfer, Blob>(
            ProtocolID(base: 0x33, version: 2), index: 1, name: "new.greet")
    }

    /// A server of version 2 that still answers version 1 talks to clients of both; one of
    /// version 1 to a client of both.
    @Test(arguments: FabricKind.allCases)
    func oldAndNewTalk(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            let (old, new) = (try rig.makeContext(), try rig.makeContext())
            for server in [old, new] {
                server.register(Old.greet) { blob, _ throws(RPCError) in
                    Blob(number: blob.number + 1)
                }
            }
            new.register(New.greet) { request, _ throws(RPCError) in
                Blob(number: request.number + 2)
            }
            for (server, versions, version) in [
                (new, 1...1, 1), (new, 1...2, 2), (old, 1...2, 1), (new, 3...9, nil),
                (old, 2...2, nil),
            ] as [(Context, ClosedRange<UInt8>, UInt8?)] {
                let there = Destination.address(server.address)
                let common = try await client.negotiate(
                    base: 0x33, versions: versions, with: there)
                #expect(common == version)
                switch common {
                case 1:
                    let answer = try await client.call(Old.greet, Blob(number: 1), to: there)
                    #expect(answer.number == 2)
                case 2:
                    let answer = try await client.call(New.greet, Transfer(number: 1), to: there)
                    #expect(answer.number == 3)
                default: break
                }
            }
            #expect(
                await failure { () throws(RPCError) in
                    try await client.call(New.greet, Transfer(), to: .address(old.address))
                } == .protocolVersion)
            // Each was asked once.
            let asked = old.counters.requestsReceived + new.counters.requestsReceived
            for server in [old, new] {
                _ = try await client.negotiate(
                    base: 0x33, versions: 1...2, with: .address(server.address))
            }
            #expect(old.counters.requestsReceived + new.counters.requestsReceived == asked)
        }
    }
}
