import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

/// The sum of what ranks reply, and who they are.
struct Tally: Message, Equatable {
    var sum: UInt64 = 0
    var ranks: [UInt32] = []

    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&sum)
        try coder.code(&ranks, max: 1 << 20)
    }
}

enum CollectiveTestProtocol {
    static let id = ProtocolID(base: 0x22, version: 1)
    static let tally = CollectiveProcedure<Blob, Tally>(id, index: 1, name: "test.tally") {
        $0.sum += $1.sum
        $0.ranks += $1.ranks
    }
    static let unknown = CollectiveProcedure<Blob, EmptyMessage>(
        id, index: 2, name: "test.unknown")
}

/// What one member of a test's group did.
final class MemberState {
    var handled = 0
    var prepared = 0
    var posted = 0
    var cancelled = 0
    var sums: [UInt32] = []
    /// How this member behaves: waits first, fails, refuses.
    var delay: Duration = .zero
    var error: RPCError?
    var refusal: RPCError?
}

/// Lets a context take part in `tally`.
func takePart(_ context: Context) -> MemberState {
    let state = MemberState()
    context.register(
        CollectiveTestProtocol.tally,
        preForward: { _, _ throws(RPCError) in
            state.prepared += 1
            if let error = state.refusal { throw error }
        },
        postReply: { _, _ in state.posted += 1 }
    ) { blob, request throws(RPCError) in
        state.handled += 1
        let limit = context.xstream.now + state.delay
        while context.xstream.now < limit {
            if request.isCancelled {
                state.cancelled += 1
                throw .cancelled
            }
            await context.xstream.sleep(for: .milliseconds(1))
        }
        if let error = state.error { throw error }
        if let bulk = request.bulk {
            state.sums.append(CRC32C.checksum(of: UnsafeRawBufferPointer(bulk.bytes)))
        }
        return Tally(sum: blob.number + UInt64(context.rank!), ranks: [context.rank!])
    }
    return state
}

/// Members of a group, and a client that knows it.
struct GroupRig {
    let client: Context
    let members: [Context]
    let states: [MemberState]

    static let ranks: [UInt32] = [0, 1, 2, 5, 6, 7, 8, 20, 21, 22, 23, 24, 40]

    init(_ rig: Rig, ranks: [UInt32] = ranks) throws(RPCError) {
        client = try rig.makeContext()
        var members: [Context] = []
        for rank in ranks { members.append(try rig.makeContext { $0.rank = rank }) }
        self.members = members
        states = members.map { takePart($0) }
        apply(version: 1, ranks: ranks)
    }

    func apply(version: UInt32, ranks: [UInt32] = ranks) {
        let list = members.map { Group.Member(rank: $0.rank!, addresses: [$0.address]) }
            .filter { ranks.contains($0.rank) }
        for context in [client] + members {
            do throws(GroupError) {
                try context.group.apply(.replace(list), version: version)
            } catch {
                Issue.record("\(error)")
            }
        }
    }

    func expectIdle() {
        for context in [client] + members {
            #expect(context.usage.isIdle, "\(context.usage)")
            #expect(context.pulledBytes == 0)
            #expect(context.relays.isEmpty)
        }
    }
}

@Suite struct CollectiveTests {
    static let tally = CollectiveTestProtocol.tally

    static func options(_ tree: TreeTopology, failFast: Bool = false) -> CollectiveOptions {
        var options = CollectiveOptions()
        options.tree = tree
        options.isFailFast = failFast
        return options
    }

    @Test(arguments: FabricKind.allCases)
    func reachesEveryMemberAlongEveryTree(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let group = try GroupRig(rig)
            var rounds = 0
            for tree in [TreeTopology.flat, .kAry(2), .kAry(3), .kNomial(2), .kNomial(4)] {
                for initiator in [group.client, group.members[0], group.members[7]] {
                    rounds += 1
                    let result = try await initiator.broadcast(
                        Self.tally, Blob(number: 100), options: Self.options(tree))
                    let reply = try result.complete()
                    #expect(reply.ranks.sorted() == GroupRig.ranks)
                    #expect(reply.sum == GroupRig.ranks.reduce(0) { $0 + 100 + UInt64($1) })
                    #expect(result.succeeded == GroupRig.ranks.count)
                    #expect(result.failed == 0)
                }
            }
            for state in group.states {
                #expect(state.handled == rounds)
                #expect(state.prepared == rounds)
                #expect(state.posted == rounds)
            }
            group.expectIdle()
        }
    }

    @Test(arguments: FabricKind.allCases)
    func keepsToTheLists(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let group = try GroupRig(rig)
            let client = group.client
            let some = try await client.broadcast(
                Self.tally, Blob(), to: .including([40, 5, 22])
            ).complete()
            #expect(some.ranks.sorted() == [5, 22, 40])
            let others = try await group.members[3].broadcast(
                Self.tally, Blob(), to: .excluding([0, 5, 99])
            ).complete()
            #expect(others.ranks.sorted() == GroupRig.ranks.filter { $0 != 0 && $0 != 5 })
            #expect(group.states[3].handled == 1)
            let none = try await client.broadcast(Self.tally, Blob(), to: .including([]))
            #expect(none.reply == nil && none.succeeded == 0 && none.failed == 0)
            #expect(
                await failure { () throws(RPCError) in
                    try await client.broadcast(Self.tally, Blob(), to: .including([1, 3]))
                } == .staleGroup)
            group.expectIdle()
        }
    }

    @Test(arguments: FabricKind.allCases)
    func collectsFailures(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let group = try GroupRig(rig)
            let broken = RPCError.application(code: 9, message: "broken")
            group.states[4].error = broken
            group.states[12].error = .noReply
            let result = try await group.client.broadcast(
                Self.tally, Blob(), options: Self.options(.kNomial(2)))
            #expect(result.failed == 2)
            #expect(
                Set(result.failures) == [
                    CollectiveFailure(rank: 6, error: broken),
                    CollectiveFailure(rank: 40, error: .noReply),
                ])
            #expect(result.succeeded == 11)
            #expect(result.reply?.ranks.sorted() == GroupRig.ranks.filter { $0 != 6 && $0 != 40 })
            #expect(group.states.allSatisfy { $0.posted == 1 })
            // Everybody fails.
            for state in group.states { state.error = broken }
            let nothing = try await group.client.broadcast(Self.tally, Blob())
            #expect(nothing.reply == nil)
            #expect(nothing.failed == 13 && nothing.failures.count == 13)
            group.expectIdle()
        }
    }

    /// A hook that refuses keeps the collective from its subtree.
    @Test(arguments: FabricKind.allCases)
    func aRefusalStopsTheSubtree(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let group = try GroupRig(rig)
            let tree = TreeTopology.kNomial(2)
            group.states[8].refusal = .application(code: 1, message: "not here")
            let result = try await group.client.broadcast(
                Self.tally, Blob(), options: Self.options(tree))
            let below = tree.subtree(of: 8, count: 13).flatMap { Array($0) }
            #expect(below.count == 5)
            #expect(result.failed == 5)
            #expect(Set(result.failures.map(\.rank)) == Set(below.map { GroupRig.ranks[$0] }))
            #expect(
                result.failures.allSatisfy {
                    $0.error == .application(code: 1, message: "not here")
                })
            for position in 0..<13 {
                #expect(group.states[position].handled == (below.contains(position) ? 0 : 1))
                let reached = !below.contains(position) || position == 8
                #expect(group.states[position].prepared == (reached ? 1 : 0))
            }
            group.expectIdle()
        }
    }

    @Test(arguments: FabricKind.allCases)
    func theFirstFailureEndsIt(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let group = try GroupRig(rig)
            for state in group.states { state.delay = .seconds(8) }
            group.states[5].delay = .milliseconds(20)
            group.states[5].error = .application(code: 5, message: "first")
            let start = rig.xstream.now
            let result = try await group.client.broadcast(
                Self.tally, Blob(), options: Self.options(.kNomial(2), failFast: true))
            #expect(rig.xstream.now.since(start) < .seconds(4))
            #expect(
                result.failures == [
                    CollectiveFailure(rank: 7, error: .application(code: 5, message: "first"))
                ])
            #expect(result.failed == 13 && result.succeeded == 0 && result.reply == nil)
            try await rig.wait("the others hear of it") {
                group.states.enumerated().allSatisfy { $0 == 5 || $1.cancelled == $1.handled }
            }
            try await rig.wait("the end") {
                group.members.allSatisfy { $0.usage.isIdle } && group.client.usage.isIdle
            }
            group.expectIdle()
        }
    }

    @Test(arguments: FabricKind.allCases)
    func cancellationReachesEveryRank(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let group = try GroupRig(rig)
            for state in group.states { state.delay = .seconds(9) }
            var end: RPCError??
            let task = rig.xstream.spawnCancellable {
                end = await failure { () throws(RPCError) in
                    try await group.client.broadcast(Self.tally, Blob())
                }
            }
            try await rig.wait("all handlers") { group.states.allSatisfy { $0.handled == 1 } }
            task.cancel()
            try await rig.wait("the end") { end != nil }
            #expect(end == .some(.cancelled))
            try await rig.wait("cancellations") { group.states.allSatisfy { $0.cancelled == 1 } }
            try await rig.wait("answers") { group.members.allSatisfy { $0.usage.isIdle } }
            #expect(group.states.allSatisfy { $0.posted == 1 })
            group.expectIdle()
        }
    }

    /// A rank that is silent costs its own reply and no other, although all have one deadline.
    @Test(arguments: FabricKind.allCases)
    func aSlowRankFailsAlone(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let group = try GroupRig(rig)
            // Connections first: an adapter that is emulated takes long to make them.
            _ = try await group.members[0].broadcast(
                Self.tally, Blob(), options: Self.options(.kNomial(2)))
            // An inner rank: its children answer in time.
            group.states[8].delay = .seconds(9)
            let start = rig.xstream.now
            let result = try await group.members[0].broadcast(
                Self.tally, Blob(), deadline: .after(.seconds(1)),
                options: Self.options(.kNomial(2)))
            #expect(rig.xstream.now.since(start) < .seconds(3))
            #expect(result.failures == [CollectiveFailure(rank: 21, error: .timedOut)])
            if let failure = result.failures.first, result.failures.count == 1 {
                #expect(GroupRig.ranks[8] == 21 && failure.rank == 21)
            }
            #expect(result.succeeded == 12)
            #expect(result.reply?.ranks.sorted() == GroupRig.ranks.filter { $0 != 21 })
            try await rig.wait("its handler hears of it") { group.states[8].cancelled == 1 }
            try await rig.wait("answers") { group.members.allSatisfy { $0.usage.isIdle } }
            group.expectIdle()
        }
    }

    /// Ranks that take no part fail by themselves: those below them are reached all the same.
    @Test(arguments: FabricKind.allCases)
    func adoptsTheChildrenOfTheLost(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let group = try GroupRig(rig)
            // The root, a child of it with four below, and a child of that one.
            for position in [0, 8, 10] { await group.members[position].close() }
            let lost = [0, 8, 10].map { GroupRig.ranks[$0] }
            let result = try await group.client.broadcast(
                Self.tally, Blob(), deadline: .after(.seconds(8)),
                options: Self.options(.kNomial(2)))
            if kind == .libfabricSharedMemory {
                // Who is gone there is only silent, so that time decides.
                #expect(result.succeeded + result.failed == 13)
                return
            }
            #expect(Set(result.failures.map(\.rank)) == Set(lost))
            #expect(result.failed == 3 && result.succeeded == 10)
            #expect(
                result.reply?.ranks.sorted() == GroupRig.ranks.filter { !lost.contains($0) })
            for position in 0..<13 where ![0, 8, 10].contains(position) {
                #expect(group.states[position].handled == 1)
            }
        }
    }

    @Test(arguments: FabricKind.allCases)
    func otherVersionsOfTheGroupAreRefused(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let group = try GroupRig(rig)
            let list = group.members[0].group.members
            try group.members[8].group.apply(.replace(list), version: 2)
            let result = try await group.client.broadcast(
                Self.tally, Blob(), options: Self.options(.kNomial(2)))
            #expect(result.failures == [CollectiveFailure(rank: 21, error: .groupVersion)])
            #expect(result.succeeded == 12)
            // The one that has moved on agrees with nobody.
            let alone = try await group.members[8].broadcast(
                Self.tally, Blob(), options: Self.options(.kNomial(2)))
            #expect(alone.succeeded == 1 && alone.failed == 12)
            #expect(alone.failures.allSatisfy { $0.error == .groupVersion })
            group.expectIdle()
        }
    }

    @Test(arguments: FabricKind.allCases)
    func saysWhyNothingCanBegin(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let group = try GroupRig(rig, ranks: [1, 2, 3])
            let result = try await group.client.broadcast(
                CollectiveTestProtocol.unknown, Blob())
            #expect(result.failed == 3)
            #expect(result.failures.allSatisfy { $0.error == .unknownProcedure })
            await group.client.close()
            #expect(
                await failure { () throws(RPCError) in
                    try await group.client.broadcast(Self.tally, Blob())
                } == .closed)
        }
    }

    /// Bodies and replies that are too large to travel inline.
    @Test(arguments: FabricKind.allCases)
    func largeMessagesTravelToo(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let group = try GroupRig(rig)
            let result = try await group.client.broadcast(
                Self.tally, Blob(number: 3, bytes: pattern(300_000)))
            #expect(try result.complete().ranks.count == 13)
        }
    }

    /// One trace, and one deadline but for the little that answers take on their way back.
    @Test(arguments: FabricKind.allCases)
    func traceAndDeadlineAreInherited(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let group = try GroupRig(rig, ranks: [1, 2, 3, 4, 5, 6, 7, 8])
            let probe = CollectiveProcedure<Blob, EmptyMessage>(
                CollectiveTestProtocol.id, index: 3, name: "test.probe")
            var seen: [CollectiveContext] = []
            for member in group.members {
                member.register(probe) { _, request throws(RPCError) in
                    seen.append(request)
                    return EmptyMessage()
                }
            }
            var options = CollectiveOptions()
            options.trace = 77
            options.tree = .kNomial(2)
            let wall = group.client.world.clock.wallNanoseconds
            let result = try await group.client.broadcast(
                probe, Blob(), deadline: .after(.seconds(8)), options: options)
            #expect(result.succeeded == 8)
            #expect(seen.count == 8)
            for request in seen {
                #expect(request.trace == 77)
                #expect(request.initiatorInstance == group.client.instance)
                #expect(request.ranks.ranks == [1, 2, 3, 4, 5, 6, 7, 8])
                #expect(request.deadline < wall + 8_100_000_000)
                #expect(request.deadline > wall + 7_000_000_000)
            }
        }
    }

    /// A parent that is no good: requests that make no sense, and the same one again.
    @Test(arguments: FabricKind.allCases)
    func answersStrangeParents(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let group = try GroupRig(rig, ranks: [1, 2, 3, 4])
            let (client, member) = (group.client, group.members[1])
            func ask(
                _ change: (inout CollectiveRequest) -> Void
            ) async -> Result<CollectiveAnswer, RPCError> {
                var request = CollectiveRequest()
                request.id = CollectiveID(initiator: 5, stamp: client.clock.now())
                request.tree = .kNomial(2)
                request.ranks = RankSet([1, 2, 3, 4])
                request.position = 1
                request.body = Blob(number: 10).encoded()
                change(&request)
                do throws(RPCError) {
                    return .success(
                        try await client.call(
                            Self.tally.procedure, request, to: .address(member.address),
                            deadline: .after(.seconds(4))))
                } catch {
                    return .failure(error)
                }
            }
            #expect(await ask { $0.position = 2 } == .failure(.wrongRank))
            #expect(
                await ask {
                    $0.ranks = RankSet([7]); $0.position = 0
                } == .failure(.wrongRank))
            #expect(await ask { $0.body = [1] } == .failure(.badMessage))
            #expect(await ask { $0.position = 9 } == .failure(.badMessage))
            #expect(await ask { $0.id.stamp = 1 } == .failure(.peerRestarted))
            #expect(
                await ask {
                    $0.bulk = CollectiveBulk()
                    $0.bulk?.chunkSize = 4096
                    $0.bulk?.memory.owner = client.address
                    $0.bulk?.memory.length = 1 << 40
                } == .failure(.messageTooLong))
            // Memory that is not there: time decides.
            let late = await ask {
                $0.bulk = CollectiveBulk()
                $0.bulk?.chunkSize = 4096
                $0.bulk?.memory.owner = client.address
                $0.bulk?.memory.length = 100
            }
            #expect((try? late.get())?.failures.listed.map(\.error) == [.timedOut])
            #expect(group.states[1].handled == 0)
            // The same collective from two parents, at a time and later.
            group.states[1].delay = .milliseconds(50)
            let id = CollectiveID(initiator: 6, stamp: client.clock.now())
            var answers: [Result<CollectiveAnswer, RPCError>] = []
            await concurrently(rig.xstream, 3) { index in
                await rig.xstream.sleep(for: .milliseconds(Int64(index) * 10))
                answers.append(await ask { $0.id = id })
            }
            answers.append(await ask { $0.id = id })
            var expected = CollectiveAnswer()
            expected.succeeded = 1
            expected.reply = Tally(sum: 12, ranks: [2]).encoded()
            #expect(answers == Array(repeating: .success(expected), count: 4))
            #expect(group.states[1].handled == 1)
            try await rig.wait("the end") { member.usage.isIdle }
            group.expectIdle()
        }
    }

    /// A child that is no good: answers that account for others, or for nobody.
    @Test(arguments: FabricKind.allCases)
    func doubtsStrangeChildren(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            let child = try rig.makeContext { $0.rank = 0 }
            let members = [Group.Member(rank: 0, addresses: [child.address])]
            for context in [client, child] {
                try context.group.apply(.replace(members), version: 1)
            }
            var answer = CollectiveAnswer()
            child.registerDeferred(Self.tally.procedure) { _, reply in reply.reply(answer) }
            var absurd: [CollectiveAnswer] = []
            for (succeeded, total, positions, reply) in [
                (2, 0, [], Tally().encoded()), (0, 0, [], nil), (1, 1, [0], Tally().encoded()),
                (0, 1, [3], nil), (0, 1, [], nil), (1, 0, [], [1, 2]),
            ] as [(UInt32, Int, [Int], [UInt8]?)] {
                var answer = CollectiveAnswer()
                answer.succeeded = succeeded
                answer.reply = reply
                answer.failures = CollectiveFailures(
                    listed: positions.map { .init(position: $0, error: .noReply) }, total: total)
                absurd.append(answer)
            }
            for next in absurd {
                answer = next
                let result = try await client.broadcast(Self.tally, Blob())
                #expect(
                    result.failures == [CollectiveFailure(rank: 0, error: .badMessage)], "\(next)")
                #expect(result.succeeded == 0 && result.reply == nil)
            }
        }
    }
}
