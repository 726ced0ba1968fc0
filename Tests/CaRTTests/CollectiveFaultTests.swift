import DrayFabric
import DrayRuntime
import Testing

@testable import CaRT

/// Collectives under random faults. A failing seed is repeated by its number.
@Suite struct CollectiveFaultTests {
    /// What the handlers of all lives of all ranks did, by collective.
    final class Ledger {
        var handled: [UInt64: [UInt32: Int]] = [:]
        var sums: [UInt64: UInt32] = [:]
        var wrongBytes = 0
    }

    struct Attempt {
        var number: UInt64
        var ranks: Set<UInt32>
        var node: CollectiveCluster.Node
        var incarnation: Int
        var run: CollectiveCluster.Run
        var start: Instant
        var deadline: Duration
        var hasBulk: Bool
        var isFailFast: Bool
        var isCancelled = false
        var end: Instant?
    }

    static func takePart(_ node: CollectiveCluster.Node, _ ledger: Ledger, _ entropy: Entropy) {
        var entropy = entropy
        let context = node.context!
        context.register(
            CollectiveTestProtocol.tally,
            preForward: { _, _ throws(RPCError) in
                guard entropy.chance(1, in: 8) else { return }
                await context.xstream.sleep(for: .milliseconds(Int64(entropy.below(20))))
                if entropy.chance(1, in: 4) { throw .application(code: 2, message: "refused") }
            }
        ) { blob, request throws(RPCError) in
            ledger.handled[blob.number, default: [:]][node.rank!, default: 0] += 1
            if let bulk = request.bulk {
                let sum = CRC32C.checksum(of: UnsafeRawBufferPointer(bulk.bytes))
                if sum != ledger.sums[blob.number] { ledger.wrongBytes += 1 }
            }
            switch entropy.below(20) {
            case 0: throw .application(code: 1, message: "failed")
            case 1...5: await context.xstream.sleep(for: .milliseconds(Int64(entropy.below(50))))
            case 6: await context.xstream.sleep(for: .milliseconds(Int64(entropy.below(3_000))))
            default: break
            }
            return Tally(sum: 1, ranks: [node.rank!])
        }
    }

    static func begin(
        _ cluster: CollectiveCluster, _ number: UInt64, _ ledger: Ledger,
        _ entropy: inout Entropy
    ) -> Attempt? {
        let count = cluster.nodes.count
        let all = Set((0..<count).map { UInt32($0) })
        let some = Set(all.sorted().filter { _ in entropy.chance(1, in: 2) })
        let (members, ranks): (CollectiveMembers, Set<UInt32>) =
            switch entropy.below(3) {
            case 0: (.all, all)
            case 1: (.including(some.sorted()), some)
            default: (.excluding(some.sorted()), all.subtracting(some))
            }
        var options = CollectiveOptions()
        options.tree =
            TreeTopologyTests.trees[
                Int(entropy.below(UInt64(TreeTopologyTests.trees.count)))]
        options.isFailFast = entropy.chance(1, in: 5)
        options.chunkSize = 4096
        let node =
            entropy.chance(1, in: 2)
            ? cluster.client : cluster.nodes[Int(entropy.below(UInt64(count)))]
        guard node.isAlive else { return nil }
        var bulk: IOBuffer?
        if entropy.chance(1, in: 3) {
            let buffer = IOBuffer(
                copying: pattern(1 + Int(entropy.below(100_000)), Int(number)))
            ledger.sums[number] = CRC32C.checksum(of: UnsafeRawBufferPointer(buffer.bytes))
            bulk = buffer
        }
        let deadline = Duration.milliseconds(50 + Int64(entropy.below(2_000)))
        let start = cluster.simulation.now
        let run = cluster.broadcast(
            Blob(number: number), from: node, to: members, bulk: bulk, deadline: deadline,
            options: options)
        return Attempt(
            number: number, ranks: ranks, node: node, incarnation: node.incarnation, run: run,
            start: start, deadline: deadline, hasBulk: bulk != nil,
            isFailFast: options.isFailFast)
    }

    static func disturb(_ cluster: CollectiveCluster, _ entropy: inout Entropy) {
        let node = cluster.nodes[Int(entropy.below(UInt64(cluster.nodes.count)))]
        switch entropy.below(8) {
        case 0: if node.isAlive { cluster.kill(node) }
        case 1, 2: cluster.restart(node)
        case 3:
            let other = cluster.nodes[Int(entropy.below(UInt64(cluster.nodes.count)))]
            cluster.fabric.partition(
                [CollectiveCluster.number(node)], [CollectiveCluster.number(other)])
        case 4:
            cluster.fabric.partitionOneWay(
                from: [CollectiveCluster.number(node)],
                to: Set((cluster.nodes + [cluster.client]).map(CollectiveCluster.number)))
        case 5, 6: cluster.fabric.heal()
        default: break
        }
    }

    static func check(_ attempt: Attempt, _ ledger: Ledger) {
        let label = "collective \(attempt.number)"
        guard let outcome = attempt.run.result, let end = attempt.end else { return }
        // Exposed memory is waited for a while longer.
        let grace = Duration.milliseconds(attempt.hasBulk ? 6_000 : 100)
        #expect(end.since(attempt.start) < attempt.deadline + grace, "\(label)")
        switch outcome {
        case .failure(let error):
            #expect(error == .cancelled && attempt.isCancelled, "\(label): \(error)")
        case .success(let result):
            let listed = result.failures.map(\.rank)
            #expect(result.succeeded + result.failed == attempt.ranks.count, "\(label)")
            #expect(Set(listed).count == listed.count, "\(label)")
            #expect(attempt.ranks.isSuperset(of: listed), "\(label)")
            let replied = result.reply?.ranks ?? []
            #expect(replied.count == result.succeeded, "\(label)")
            #expect(Set(replied).count == replied.count, "\(label)")
            #expect(result.reply?.sum ?? 0 == UInt64(replied.count), "\(label)")
            #expect(attempt.ranks.isSuperset(of: replied), "\(label)")
            if attempt.isFailFast, result.failed > 0 {
                #expect(result.failed == attempt.ranks.count, "\(label)")
            } else {
                #expect(Set(replied).isDisjoint(with: listed), "\(label)")
                #expect(
                    Set(replied).union(listed) == attempt.ranks, "\(label): who is missing")
            }
            for rank in replied {
                #expect(ledger.handled[attempt.number]?[rank] == 1, "\(label)")
            }
        }
    }

    @Test(arguments: 1...80)
    func everyCollectiveEndsAndNoHandlerRunsTwice(seed: UInt64) {
        var entropy = Entropy(seed: seed)
        let cluster = CollectiveCluster(
            seed: seed, count: 1 + Int(entropy.below(30)),
            faults: seed % 3 == 0 ? .none : .harsh)
        let ledger = Ledger()
        cluster.onOpen = { node in
            guard node.rank != nil else { return }
            Self.takePart(node, ledger, Entropy(seed: seed &* 1000 &+ UInt64(node.incarnation)))
        }
        cluster.startAll()
        var attempts: [Attempt] = []
        func note() {
            for index in attempts.indices
            where attempts[index].end == nil && attempts[index].run.result != nil {
                attempts[index].end = cluster.simulation.now
            }
        }
        for number in 1...25 as ClosedRange<UInt64> {
            if let attempt = Self.begin(cluster, number, ledger, &entropy) {
                attempts.append(attempt)
            }
            for _ in 0..<entropy.below(40) {
                cluster.simulation.run(for: .milliseconds(Int64(entropy.below(6))))
                note()
            }
            if entropy.chance(2, in: 3) { Self.disturb(cluster, &entropy) }
            if entropy.chance(1, in: 5), let index = attempts.indices.last {
                attempts[index].isCancelled = true
                attempts[index].run.task?.cancel()
            }
        }
        for _ in 0..<900 {
            cluster.simulation.run(for: .milliseconds(10))
            note()
        }
        for attempt in attempts {
            // A killed initiator learns nothing.
            guard attempt.node.isAlive, attempt.node.incarnation == attempt.incarnation
            else { continue }
            #expect(attempt.end != nil, "collective \(attempt.number) did not end")
            Self.check(attempt, ledger)
        }
        for (number, handled) in ledger.handled {
            #expect(handled.values.allSatisfy { $0 == 1 }, "collective \(number): \(handled)")
        }
        #expect(ledger.wrongBytes == 0)
        #expect(cluster.fabric.counts.regionsLost == 0)
        cluster.fabric.heal()
        cluster.fabric.faults = .none
        for node in cluster.nodes where !node.isAlive { cluster.restart(node) }
        cluster.simulation.run(for: .seconds(60))
        for node in cluster.nodes + [cluster.client] {
            #expect(node.context.usage.isIdle, "\(node.context.usage)")
            #expect(node.context.relays.isEmpty)
            #expect(node.context.pulledBytes == 0)
            node.context.tracker.checkInvariants()
        }
        Self.checkItStillWorks(cluster)
    }

    /// When all faults are over, every rank is reached again, once its peers have noticed whom they
    /// lost meanwhile.
    static func checkItStillWorks(_ cluster: CollectiveCluster) {
        var others: [CollectiveFailure] = []
        for number in 1000..<1020 as Range<UInt64> {
            let last = cluster.broadcast(Blob(number: number))
            cluster.simulation.run(for: .seconds(20), until: { last.result != nil })
            guard case .success(let result) = last.result else {
                Issue.record("\(String(describing: last.result))")
                return
            }
            #expect(result.succeeded + result.failed == cluster.nodes.count)
            others = result.failures.filter {
                if case .application = $0.error { false } else { true }
            }
            if others.isEmpty { return }
        }
        Issue.record("\(others)")
    }
}
