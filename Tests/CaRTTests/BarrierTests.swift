import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

@Suite struct BarrierTests {
    /// Nobody leaves before all have arrived, whoever is the last.
    @Test(arguments: FabricKind.allCases)
    func nobodyLeavesBeforeAllHaveArrived(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let group = try GroupRig(rig)
            for last in [0, 5, 12] {
                var arrived = 0
                var left = 0
                var early = 0
                var errors: [RPCError] = []
                await concurrently(rig.xstream, group.members.count) { index in
                    let pause = index == last ? 60 : (index * 7) % 20
                    await rig.xstream.sleep(for: .milliseconds(Int64(pause)))
                    arrived += 1
                    do throws(RPCError) {
                        // The same number again.
                        try await group.members[index].barrier(4, deadline: .after(.seconds(8)))
                    } catch {
                        errors.append(error)
                    }
                    if arrived < group.members.count { early += 1 }
                    left += 1
                }
                #expect(errors == [])
                #expect(early == 0)
                #expect(left == 13)
            }
            #expect(group.members.allSatisfy { $0.barriers.isEmpty })
            group.expectIdle()
        }
    }

    /// Members run ahead as far as barriers let them: never more than one round.
    @Test(arguments: FabricKind.allCases)
    func roundsStayTogether(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let group = try GroupRig(rig, ranks: [3, 4, 5, 9, 11])
            var rounds = Array(repeating: 0, count: 5)
            var spread = 0
            await concurrently(rig.xstream, 5) { index in
                for round in 0..<30 {
                    do throws(RPCError) {
                        try await group.members[index].barrier(UInt64(round % 2))
                    } catch {
                        Issue.record("\(error)")
                    }
                    rounds[index] += 1
                    spread = max(spread, rounds.max()! - rounds.min()!)
                }
            }
            #expect(rounds == Array(repeating: 30, count: 5))
            #expect(spread == 1)
        }
    }

    @Test(arguments: FabricKind.allCases)
    func aMissingMemberFailsAll(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let group = try GroupRig(rig)
            for missing in [0, 6] {
                let start = rig.xstream.now
                var errors: [RPCError?] = []
                await concurrently(rig.xstream, group.members.count) { index in
                    guard index != missing else { return }
                    errors.append(
                        await failure { () throws(RPCError) in
                            try await group.members[index].barrier(
                                1, deadline: .after(.milliseconds(600)))
                        })
                }
                #expect(errors == Array(repeating: .timedOut, count: 12))
                #expect(rig.xstream.now.since(start) < .seconds(4))
            }
            try await rig.wait("answers") { group.members.allSatisfy { $0.usage.isIdle } }
            // The late one finds nobody.
            let error = await failure { () throws(RPCError) in
                try await group.members[6].barrier(1, deadline: .after(.milliseconds(200)))
            }
            #expect(error == .timedOut)
            // All together it works again.
            var passed = 0
            await concurrently(rig.xstream, group.members.count) { index in
                let error = await failure { () throws(RPCError) in
                    try await group.members[index].barrier(1)
                }
                #expect(error == nil)
                passed += 1
            }
            #expect(passed == 13)
            #expect(group.members.allSatisfy { $0.barriers.isEmpty })
            group.expectIdle()
        }
    }

    @Test(arguments: FabricKind.allCases)
    func refusesWhatCannotBe(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let group = try GroupRig(rig, ranks: [1, 2, 3])
            #expect(
                await failure { () throws(RPCError) in try await group.client.barrier(1) }
                    == .wrongRank)
            #expect(
                await failure { () throws(RPCError) in
                    try await group.members[0].barrier(1, of: .including([2, 3]))
                } == .wrongRank)
            // They do not agree on whom they wait for, and are connected when their time begins.
            await concurrently(rig.xstream, 2) { index in
                let error = await failure { () throws(RPCError) in
                    try await group.members[index].barrier(1, of: .including([1, 2]))
                }
                #expect(error == nil)
            }
            var errors: [Int: RPCError?] = [:]
            await concurrently(rig.xstream, 2) { index in
                errors[index] = await failure { () throws(RPCError) in
                    try await group.members[index].barrier(
                        1, of: index == 0 ? .including([1, 2]) : .all,
                        deadline: .after(.milliseconds(500)))
                }
            }
            #expect(errors[0] == .some(.badMessage))
            #expect(errors[1] == .some(.timedOut))
            // A barrier of one.
            try await group.members[1].barrier(9, of: .including([2]))
        }
    }

    @Test(arguments: FabricKind.allCases)
    func cancellationAndClosingEndTheWait(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let group = try GroupRig(rig, ranks: [1, 2, 3])
            var ends: [Int: RPCError?] = [:]
            var tasks: [Task<Void, Never>] = []
            for index in 0..<3 {
                tasks.append(
                    rig.xstream.spawnCancellable {
                        ends[index] = await failure { () throws(RPCError) in
                            try await group.members[index].barrier(1, of: .all)
                        }
                    })
                // The last one does not come.
                if index == 1 { break }
            }
            await rig.xstream.sleep(for: .milliseconds(50))
            #expect(ends.isEmpty)
            for task in tasks { task.cancel() }
            try await rig.wait("the ends") { ends.count == 2 }
            #expect(ends[0] == .some(.cancelled) && ends[1] == .some(.cancelled))
            rig.xstream.spawn {
                ends[2] = await failure { () throws(RPCError) in
                    try await group.members[2].barrier(1)
                }
            }
            await rig.xstream.sleep(for: .milliseconds(20))
            await group.members[2].close()
            try await rig.wait("the end") { ends.count == 3 }
            #expect(ends[2] == .some(.closed))
        }
    }

    /// What a test over simulated processes sees of one number.
    private final class Ends {
        var byRank: [UInt32: RPCError?] = [:]

        func wait(
            _ node: CollectiveCluster.Node, deadline: Deadline = .unlimited
        ) {
            node.xstream.simulate { [self] in
                byRank[node.rank!] = .some(
                    await failure { () throws(RPCError) in
                        try await node.context.barrier(3, deadline: deadline)
                    })
            }
        }
    }

    private func tell(
        _ node: CollectiveCluster.Node, of members: [CollectiveCluster.Node], version: UInt32
    ) {
        let members = members.map { node in
            Group.Member(
                rank: node.rank!,
                incarnation: UInt64(node.incarnation),
                addresses: [
                    FabricAddress(
                        provider: "sim",
                        bytes: Array("node-\(CollectiveCluster.number(node))".utf8))
                ])
        }
        node.xstream.simulate {
            do throws(GroupError) {
                try node.context.group.apply(.replace(members), version: version)
            } catch {
                Issue.record("\(error)")
            }
        }
    }

    /// The leader, or another member, dies while all but one wait, without a limit. Everybody hears
    /// of it, by the failure detector or by a new version of the group, at a time of its own, and
    /// leaves; the others can wait again.
    @Test(arguments: UInt64(1)...40)
    func aDeadMemberEndsIt(seed: UInt64) {
        var entropy = Entropy(seed: seed)
        let count = 3 + Int(entropy.below(10))
        let cluster = CollectiveCluster(seed: seed, count: count)
        cluster.startAll()
        let victim = cluster.nodes[entropy.chance(1, in: 2) ? 0 : count - 1]
        let late = cluster.nodes[1]
        let ends = Ends()
        for node in cluster.nodes where node !== late { ends.wait(node) }
        cluster.simulation.run(for: .milliseconds(Int64(entropy.below(100))))
        cluster.kill(victim)
        let alive = cluster.nodes.filter(\.isAlive)
        let waiting = alive.filter { $0 !== late }
        cluster.simulation.run(for: .milliseconds(Int64(entropy.below(100))))
        #expect(victim.rank != 0 || ends.byRank.isEmpty)
        let isDetected = entropy.chance(1, in: 2)
        for node in alive {
            let time = cluster.simulation.now + .milliseconds(Int64(entropy.below(200)))
            cluster.simulation.schedule(at: time) { [self] in
                if isDetected {
                    node.xstream.simulate { node.context.evict(rank: victim.rank!) }
                } else {
                    tell(node, of: alive, version: 2)
                }
            }
        }
        cluster.simulation.run(
            for: .seconds(2), until: { ends.byRank.count == waiting.count })
        for node in waiting { #expect(ends.byRank[node.rank!] == .some(.unreachable)) }
        cluster.simulation.run(for: .milliseconds(400))
        // All that are left, each once it knows the new version.
        let again = Ends()
        for node in alive {
            again.wait(node)
            let time = cluster.simulation.now + .milliseconds(Int64(entropy.below(200)))
            guard isDetected else { continue }
            cluster.simulation.schedule(at: time) { [self] in
                tell(node, of: alive, version: 2)
            }
        }
        if isDetected {
            // They waited for the dead one until they heard of the new version.
            cluster.simulation.run(
                for: .seconds(2), until: { again.byRank.count == alive.count })
            #expect(again.byRank.values.allSatisfy { $0 == .some(.unreachable) })
            cluster.simulation.run(for: .milliseconds(300))
            again.byRank = [:]
            for node in alive { again.wait(node) }
        }
        cluster.simulation.run(for: .seconds(2), until: { again.byRank.count == alive.count })
        for node in alive { #expect(again.byRank[node.rank!] == .some(nil)) }
        cluster.simulation.run(for: .seconds(5))
        for node in alive {
            #expect(node.context.usage.isIdle, "\(node.context.usage)")
            #expect(node.context.barriers.isEmpty)
        }
    }

    /// A member that restarts is another one than that which was waited for.
    @Test func aRestartedMemberEndsIt() {
        let cluster = CollectiveCluster(seed: 4, count: 4)
        cluster.startAll()
        let ends = Ends()
        for node in cluster.nodes.dropLast() { ends.wait(node) }
        cluster.simulation.run(for: .milliseconds(50))
        let last = cluster.nodes[3]
        cluster.kill(last)
        cluster.start(last)
        for node in cluster.nodes { tell(node, of: cluster.nodes, version: 2) }
        cluster.simulation.run(for: .seconds(2), until: { ends.byRank.count == 3 })
        #expect(ends.byRank.count == 3)
        // The leader may have noticed it by itself, and told the others.
        #expect(
            ends.byRank.values.allSatisfy {
                $0 == .some(.peerRestarted) || $0 == .some(.unreachable)
            })
    }

    /// Members that come later, and versions that not all know yet, change nothing for a barrier
    /// of some.
    @Test(arguments: UInt64(1)...20)
    func otherChangesDoNotMatter(seed: UInt64) {
        var entropy = Entropy(seed: seed)
        let cluster = CollectiveCluster(seed: seed, count: 8)
        cluster.startAll()
        let ends = Ends()
        let members = CollectiveMembers.including([0, 1, 2, 3, 4, 5])
        for node in cluster.nodes.prefix(6) {
            let pause = Duration.milliseconds(Int64(entropy.below(300)))
            node.xstream.simulate {
                await node.xstream.sleep(for: pause)
                ends.byRank[node.rank!] = .some(
                    await failure { () throws(RPCError) in
                        try await node.context.barrier(3, of: members, deadline: .unlimited)
                    })
            }
            let time = cluster.simulation.now + .milliseconds(Int64(entropy.below(500)))
            cluster.simulation.schedule(at: time) { [self] in
                tell(node, of: Array(cluster.nodes.prefix(7)), version: 2)
            }
        }
        cluster.simulation.run(for: .seconds(2), until: { ends.byRank.count == 6 })
        #expect(ends.byRank.count == 6)
        #expect(ends.byRank.values.allSatisfy { $0 == .some(nil) })
    }

    /// A leader that gives up tells the others.
    @Test(arguments: FabricKind.allCases)
    func aLeaderThatGivesUpEndsIt(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let group = try GroupRig(rig, ranks: [1, 2, 3])
            var ends: [Int: RPCError?] = [:]
            var leader: Task<Void, Never>?
            for index in 0..<2 {
                let task = rig.xstream.spawnCancellable {
                    ends[index] = .some(
                        await failure { () throws(RPCError) in
                            try await group.members[index].barrier(1, deadline: .unlimited)
                        })
                }
                if index == 0 { leader = task }
            }
            try await rig.wait("the gathering") {
                group.members[1].counters.requestsReceived > 0
            }
            leader?.cancel()
            try await rig.wait("the ends") { ends.count == 2 }
            #expect(ends[0] == .some(.cancelled) && ends[1] == .some(.cancelled))
        }
    }

    /// Members die, at any time, or are cut off: who returns has seen all arrive, and everybody
    /// returns by the deadline.
    @Test(arguments: 1...60)
    func holdsUnderFaults(seed: UInt64) throws {
        var entropy = Entropy(seed: seed)
        let count = 2 + Int(entropy.below(14))
        let cluster = CollectiveCluster(
            seed: seed, count: count, faults: seed % 2 == 0 ? .none : .harsh)
        cluster.startAll()
        var arrived = 0
        var ends: [UInt32: RPCError?] = [:]
        var early = 0
        for node in cluster.nodes {
            let pause = Int64(entropy.below(400))
            node.xstream.simulate {
                await node.xstream.sleep(for: .milliseconds(pause))
                arrived += 1
                let start = node.xstream.now
                let error = await failure { () throws(RPCError) in
                    try await node.context.barrier(3, deadline: .after(.seconds(4)))
                }
                #expect(node.xstream.now.since(start) < .milliseconds(4_200))
                if error == nil, arrived < count { early += 1 }
                ends[node.rank!] = error
            }
        }
        for _ in 0..<entropy.below(3) {
            cluster.simulation.run(for: .milliseconds(Int64(entropy.below(300))))
            let victim = cluster.nodes[Int(entropy.below(UInt64(count)))]
            if entropy.chance(1, in: 2) {
                cluster.fabric.partition(
                    [CollectiveCluster.number(victim)],
                    Set(cluster.nodes.map(CollectiveCluster.number)))
            } else if victim.isAlive {
                cluster.kill(victim)
            }
        }
        let isOver = cluster.simulation.run(
            for: .seconds(10),
            until: { cluster.nodes.allSatisfy { !$0.isAlive || ends[$0.rank!] != nil } })
        #expect(isOver)
        #expect(early == 0)
        for error in ends.values.compactMap({ $0 }) {
            switch error {
            case .timedOut, .unreachable, .peerRestarted, .cancelled: break
            default: Issue.record("\(error)")
            }
        }
        cluster.fabric.heal()
        cluster.fabric.faults = .none
        cluster.simulation.run(for: .seconds(30))
        for node in cluster.nodes where node.isAlive {
            #expect(node.context.usage.isIdle, "\(node.context.usage)")
            #expect(node.context.barriers.isEmpty)
        }
    }
}
