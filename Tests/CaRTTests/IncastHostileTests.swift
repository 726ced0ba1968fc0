import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

/// What a namespace does with messages that no namespace sends.
@Suite struct IncastHostileTests {
    private static func address(_ cluster: IncastCluster) -> IncastProtocol.Address {
        IncastProtocol.Address(
            namespace: 3, number: 7, groupVersion: cluster.version, owner: 0,
            key: NoteKey().encoded())
    }

    /// Each thing that can be wrong with where a request belongs.
    @Test(arguments: FabricKind.allCases)
    func requestsThatDoNotBelong(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 4, tree: .flat)
            try await cluster.variables[0].update(
                NoteKey(), Blob(number: 1), sync: .eager(.update))
            let client = try rig.makeContext()
            let good = Self.address(cluster)
            var cases: [(IncastProtocol.Address, RPCError)] = []
            func bad(_ error: RPCError, _ change: (inout IncastProtocol.Address) -> Void) {
                var address = good
                change(&address)
                cases.append((address, error))
            }
            bad(.unknownProcedure) { $0.namespace = 4 }
            bad(.unknownProcedure) { $0.number = 8 }
            bad(.groupVersion) { $0.groupVersion += 1 }
            bad(.groupVersion) { $0.groupVersion = 0 }
            bad(.wrongRank) { $0.owner = 1 }
            bad(.wrongRank) { $0.owner = .max }
            bad(.badMessage) { $0.key = [1, 2, 3] }
            bad(.badMessage) { $0.key = [] }
            bad(.badMessage) { $0.key += [0] }
            for rank in [0, 2] {
                let there = Destination.address(cluster.contexts[rank].address)
                for (address, error) in cases {
                    #expect(
                        await failure { () throws(RPCError) in
                            try await client.call(
                                IncastProtocol.fetch,
                                IncastProtocol.FetchRequest(address: address), to: there)
                        } == error)
                    #expect(
                        await failure { () throws(RPCError) in
                            try await client.call(
                                IncastProtocol.update,
                                IncastProtocol.UpdateRequest(
                                    address: address, expires: .max,
                                    value: Blob().encoded()),
                                to: there)
                        } == error)
                    #expect(
                        await failure { () throws(RPCError) in
                            try await client.call(
                                IncastProtocol.refresh,
                                IncastProtocol.RefreshRequest(address: address, version: 9),
                                to: there)
                        } == error)
                }
            }
            #expect(cluster.notes[0].stored == [1])
            for rank in 1..<4 { #expect(cluster.copy(rank) == 1) }
            try await cluster.settle()
        }
    }

    @Test(arguments: FabricKind.allCases)
    func valuesThatMakeNoSense(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 4, tree: .flat)
            try await cluster.variables[0].update(
                NoteKey(), Blob(number: 1), sync: .eager(.update))
            let client = try rig.makeContext()
            let address = Self.address(cluster)
            let (owner, other) = (
                Destination.address(cluster.contexts[0].address),
                Destination.address(cluster.contexts[2].address)
            )
            func update(
                _ there: Destination, value: [UInt8]?, expires: UInt64
            ) async -> RPCError? {
                await failure { () throws(RPCError) in
                    try await client.call(
                        IncastProtocol.update,
                        IncastProtocol.UpdateRequest(
                            address: address, expires: expires, value: value),
                        to: there)
                }
            }
            #expect(await update(owner, value: [9, 9], expires: .max / 2) == .badMessage)
            #expect(await update(other, value: [9, 9], expires: .max / 2) == .badMessage)
            // An update whose time is over is not stored any more.
            #expect(await update(owner, value: Blob().encoded(), expires: 5) == .timedOut)
            // Nor does one that lives for ever stay for ever.
            #expect(await update(owner, value: Blob(number: 2).encoded(), expires: .max) == nil)
            #expect(cluster.notes[0].stored == [1, 2])
            // The first was an honest one.
            #expect(cluster.variables[0].updates.count == 2)
            var updates = cluster.variables[0].updates
            updates.expire(now: (rig.xstream.now + .seconds(3610)).nanoseconds)
            #expect(updates.count == 0)
            for (value, version) in [([9, 9], 1 << 62), ([], 7), (nil, .max)]
                as [([UInt8]?, UInt64)]
            {
                #expect(
                    await failure { () throws(RPCError) in
                        try await client.call(
                            IncastProtocol.refresh,
                            IncastProtocol.RefreshRequest(
                                address: address, version: version, value: value),
                            to: other)
                    } == .badMessage)
            }
            // Nobody spreads news to the owner.
            #expect(
                await failure { () throws(RPCError) in
                    try await client.call(
                        IncastProtocol.refresh,
                        IncastProtocol.RefreshRequest(address: address, version: 9), to: owner)
                } == .wrongRank)
            #expect(cluster.copy(2) == 1)
            try await cluster.settle()
        }
    }

    /// An owner and a child that answer nonsense.
    @Test(arguments: FabricKind.allCases)
    func answersThatMakeNoSense(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 3, tree: .flat)
            cluster.namespaces[0].close()
            let server = FalseServer()
            serve(server, on: cluster.contexts[0])
            for (reply, error) in [
                (IncastProtocol.FetchReply(version: 1, value: [1]), RPCError.badMessage),
                (IncastProtocol.FetchReply(version: .max, value: []), .badMessage),
            ] {
                server.fetchReply = reply
                #expect(
                    await incastFailure { () throws(IncastError) in
                        try await cluster.variables[1].fetch(NoteKey())
                    } == .call(error))
            }
            server.updateReply.value = [3]
            #expect(
                await incastFailure { () throws(IncastError) in
                    try await cluster.variables[1].update(NoteKey(), Blob())
                } == .call(.badMessage))
            #expect(cluster.variables[1].isIdle)
        }
    }

    /// A child that accounts for more than those below it counts as missed, with all of those.
    @Test(arguments: FabricKind.allCases)
    func falseAccountsAreNotBelieved(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 13)
            cluster.namespaces[3].close()
            let server = FalseServer()
            serve(server, on: cluster.contexts[3])
            for reached in [0, 3, 5, 1 << 20] {
                server.refreshReply.reach.reached = reached
                let outcome = try await cluster.variables[0].update(
                    NoteKey(), Blob(number: 1), sync: .eager(.update))
                // It is missed; those below it are sent the news by the owner.
                #expect(outcome.missed.ranks == [3])
                #expect(outcome.reached == 11)
            }
        }
    }

    private func serve(_ server: FalseServer, on context: Context) {
        let namespace = IncastNamespace(on: context, number: 3)
        namespace.adopt(server, number: 7)
        server.namespace = namespace
    }

    /// Any bytes decode, or fail with an error.
    @Test func decodersNeverCrash() {
        let address = IncastProtocol.Address(
            namespace: 1, number: 2, groupVersion: 3, owner: 4, key: [5, 6])
        var reach = IncastProtocol.Reach(reached: 7)
        reach.missed.add(3)
        checkDecoding(of: IncastProtocol.FetchRequest(address: address, minimum: 9))
        checkDecoding(of: IncastProtocol.FetchReply(version: 3, value: [1, 2]))
        checkDecoding(
            of: IncastProtocol.UpdateRequest(
                address: address, instance: 1, update: 2, expires: 3, sync: .eager(.notify),
                isBidirectional: true, value: [4]))
        checkDecoding(of: IncastProtocol.UpdateReply(version: 3, value: [1], reach: reach))
        checkDecoding(of: IncastProtocol.RefreshRequest(address: address, version: 3, value: [1]))
        checkDecoding(of: IncastProtocol.RefreshReply(reach: reach))
        for sync in [
            IncastSync.none, .lazy(.notify), .lazy(.update), .eager(.notify), .eager(.update),
        ] {
            #expect((try? IncastSync(decoding: sync.encoded())) == sync)
        }
        for bytes in [[0, 1], [0, 2], [1, 0], [2, 0], [2, 3], [3, 1], [255, 255]] as [[UInt8]] {
            #expect(throws: DecodingFailure.invalidValue) { _ = try IncastSync(decoding: bytes) }
        }
    }
}

/// A member's namespace that answers what a test wants.
final class FalseServer: IncastServer {
    var namespace: IncastNamespace?
    var fetchReply = IncastProtocol.FetchReply()
    var updateReply = IncastProtocol.UpdateReply()
    var refreshReply = IncastProtocol.RefreshReply()

    func serve(
        _ request: IncastProtocol.FetchRequest, _ operation: IncastOperation
    ) async throws(RPCError) -> IncastProtocol.FetchReply { fetchReply }

    func serve(
        _ request: IncastProtocol.UpdateRequest, _ operation: IncastOperation
    ) async throws(RPCError) -> IncastProtocol.UpdateReply { updateReply }

    func serve(
        _ request: IncastProtocol.RefreshRequest, _ operation: IncastOperation
    ) async throws(RPCError) -> IncastProtocol.RefreshReply { refreshReply }

    func groupChanged(_ event: Group.Event, wasAbsent: Bool) {}
    func interrupt(_ error: RPCError) {}
    var isIdle: Bool { true }
}
