import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

/// Contexts that call each other by rank.
@Suite struct RankTests {
    private static func group(_ contexts: [Context], version: UInt32 = 1) throws {
        let members = contexts.enumerated().compactMap { index, context in
            context.rank.map { Group.Member(rank: $0, addresses: [contexts[index].address]) }
        }
        for context in contexts { try context.group.apply(.replace(members), version: version) }
    }

    @Test(arguments: FabricKind.allCases)
    func attachesByAddress(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let server = try rig.makeContext { options in
                options.rank = 7
                options.groupName = "tank"
            }
            serve(server)
            try server.group.apply(
                .replace([Group.Member(rank: 7, incarnation: 3, addresses: [server.address])]),
                version: 5)
            let client = try rig.makeContext { $0.groupName = "tank" }
            let snapshot = try await client.groupSnapshot(at: .address(server.address))
            #expect(try client.group.attach(snapshot))
            #expect(client.group.version == 5)
            _ = try await client.call(TestProtocol.echo, Blob(), to: .rank(7, tag: 0))
            // A process of another group has a view of this one.
            let other = try rig.makeContext { $0.groupName = "other" }
            let view = Group(name: "tank")
            try view.attach(snapshot)
            let there = try view.destination(rank: 7, tag: 0)
            #expect(try await other.call(TestProtocol.echo, Blob(number: 3), to: there).number == 3)
            #expect(
                await failure { () throws(RPCError) in
                    try await other.call(
                        TestProtocol.echo, Blob(),
                        to: .member(rank: 8, tag: 0, at: server.address))
                } == .wrongRank)
            #expect(throws: RPCError.staleGroup) { try view.destination(rank: 8, tag: 0) }
            #expect(throws: AttachError.otherGroup(name: "tank")) {
                try other.group.attach(snapshot)
            }
        }
    }

    @Test(arguments: FabricKind.allCases)
    func looksUpContextsThatItDoesNotKnow(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let first = try rig.makeContext { $0.rank = 2 }
            let second = try rig.makeContext { options in
                options.rank = 2
                options.tag = 1
            }
            serve(second)
            try first.group.apply(
                .replace([Group.Member(rank: 2, addresses: [first.address, second.address])]),
                version: 1)
            let client = try rig.makeContext()
            try client.group.apply(
                .replace([Group.Member(rank: 2, addresses: [first.address])]), version: 1)
            for number in 0..<3 {
                let answer = try await client.call(
                    TestProtocol.echo, Blob(number: UInt64(number)), to: .rank(2, tag: 1))
                #expect(answer.number == UInt64(number))
            }
            #expect(client.counters.lookUps == 1)
            #expect(
                await failure { () throws(RPCError) in
                    try await client.call(TestProtocol.echo, Blob(), to: .rank(2, tag: 2))
                } == .wrongTag)
        }
    }

    @Test(arguments: FabricKind.allCases)
    func refusesAnotherVersionOfTheGroup(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext { $0.rank = 1 })
            let state = serve(server)
            try Self.group([client, server], version: 4)
            for (version, error) in [(0, nil), (4, nil), (3, .groupVersion), (5, .groupVersion)]
                as [(UInt32, RPCError?)]
            {
                let found = await failure { () throws(RPCError) in
                    try await client.call(
                        TestProtocol.echo, Blob(), to: .rank(1, tag: 0),
                        options: CallOptions(groupVersion: version))
                }
                #expect(found == error)
            }
            #expect(state.started == 0)
        }
    }

    /// A call without a time-out goes on for as long as its peer is a member, and no longer.
    @Test(arguments: FabricKind.allCases)
    func callsWithoutATimeOutEndWithTheMember(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext { $0.rank = 1 })
            let state = serve(server)
            try Self.group([client, server])
            client.timeout = .milliseconds(1)
            for isEvicted in [true, false] {
                var ends: [RPCError?] = []
                let calls = 40
                for _ in 0..<calls {
                    client.xstream.spawn {
                        ends.append(
                            await failure { () throws(RPCError) in
                                try await client.call(
                                    TestProtocol.wait, Blob(), to: .rank(1, tag: 0),
                                    deadline: .unlimited)
                            })
                    }
                }
                // 32 have credits, the others wait for some.
                try await rig.wait("started") { state.started == 32 }
                #expect(client.counters.waiting == calls - 32)
                await client.xstream.sleep(for: .milliseconds(300))
                #expect(ends.isEmpty)
                if isEvicted {
                    client.evict(rank: 1)
                } else {
                    try client.group.apply(.remove([1]), version: 2)
                }
                try await rig.wait("ended") { ends.count == calls }
                #expect(ends.allSatisfy { $0 == .unreachable })
                #expect(client.usage.isIdle)
                state.started = 0
                state.held = []
                guard isEvicted else { break }
                // It is not gone after all: calls go on over another connection.
                client.timeout = .seconds(10)
                _ = try await client.call(TestProtocol.echo, Blob(), to: .rank(1, tag: 0))
            }
        }
    }

    @Test(arguments: FabricKind.allCases)
    func abortsOneRankOrAll(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            let servers = [
                try rig.makeContext { $0.rank = 1 }, try rig.makeContext { $0.rank = 2 },
            ]
            let states = servers.map { serve($0) }
            try Self.group([client] + servers)
            var ends: [UInt32: RPCError?] = [:]
            for rank in [1, 2] as [UInt32] {
                client.xstream.spawn {
                    ends[rank] = await failure { () throws(RPCError) in
                        try await client.call(TestProtocol.wait, Blob(), to: .rank(rank, tag: 0))
                    }
                }
            }
            try await rig.wait("started") { states.allSatisfy { $0.started == 1 } }
            client.abort(rank: 2)
            try await rig.wait("one ended") { !ends.isEmpty }
            #expect(ends == [2: .cancelled])
            try await rig.wait("the server hears of it") { states[1].cancelled == 1 }
            #expect(states[0].cancelled == 0)
            client.abortAll()
            try await rig.wait("all ended") { ends.count == 2 }
            #expect(ends[1] == .cancelled)
            try await rig.wait("the other hears of it") { states[0].cancelled == 1 }
            for state in states { state.held = [] }
            _ = try await client.call(TestProtocol.echo, Blob(), to: .rank(1, tag: 0))
        }
    }

    /// A new life of a member ends what was under way to the old one.
    @Test func anotherIncarnationEndsCalls() async throws {
        try await withRig(.simulated) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext { $0.rank = 1 })
            let state = serve(server)
            try Self.group([client, server])
            var end: RPCError?
            client.xstream.spawn {
                end = await failure { () throws(RPCError) in
                    try await client.call(
                        TestProtocol.wait, Blob(), to: .rank(1, tag: 0), deadline: .unlimited)
                }
            }
            try await rig.wait("started") { state.started == 1 }
            // More contexts of the same life change nothing.
            let (place, other) = (server.address, client.address)
            try client.group.apply(
                .add([Group.Member(rank: 1, addresses: [place, other])]), version: 2)
            await client.xstream.sleep(for: .milliseconds(10))
            #expect(end == nil)
            try client.group.apply(
                .add([Group.Member(rank: 1, incarnation: 1, addresses: [place])]), version: 3)
            try await rig.wait("ended") { end != nil }
            #expect(end == .unreachable)
        }
    }
}
