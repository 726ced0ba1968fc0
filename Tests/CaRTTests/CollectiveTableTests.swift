import DrayRuntime
import Testing

@testable import CaRT

@Suite struct CollectiveTableTests {
    final class Part: CollectiveParticipant {
        func join(_ reply: DeferredReply<CollectiveAnswer>, bulk: CollectiveBulk?) {}
    }

    static func answer(_ size: Int) -> CollectiveAnswer {
        var answer = CollectiveAnswer()
        answer.succeeded = 1
        answer.reply = Array(repeating: 1, count: size)
        return answer
    }

    /// Against a model: what runs is found, what is answered is found until its deadline, and the
    /// oldest answers are dropped when there is no room for a new one.
    @Test(arguments: 1...20)
    func agreesWithAModel(seed: UInt64) {
        struct Known {
            var id: CollectiveID
            var deadline: UInt64 = .max
            /// Which of the answered ones it is; nil while it runs.
            var order: Int?
            /// Nil when there is no answer (any more).
            var size: Int?
        }
        var entropy = Entropy(seed: seed)
        var table = CollectiveTable()
        var model: [Known] = []
        var now: UInt64 = 0
        for number in 0..<300 as Range<UInt64> {
            now += entropy.below(10)
            let id = CollectiveID(initiator: seed, stamp: number)
            let isNew = table.begin(id, Part(), now: now)
            #expect(isNew)
            model.removeAll { $0.deadline <= now }
            model.append(Known(id: id))
            let running = model.indices.filter { model[$0].order == nil }
            if entropy.chance(4, in: 5) {
                let index = running[Int(entropy.below(UInt64(running.count)))]
                let answer = Self.answer(Int(entropy.below(200_000)))
                model[index].deadline = now + 1 + entropy.below(1000)
                model[index].order = Int(number)
                model[index].size = answer.size
                table.end(model[index].id, answer, deadline: model[index].deadline, now: now)
            }
            func kept() -> Int { model.reduce(0) { $0 + ($1.size ?? 0) } }
            while kept() > CollectiveTable.keptBytesMax {
                let oldest = model.indices.filter { model[$0].size != nil }
                    .min { model[$0].order! < model[$1].order! }
                model[oldest!].size = nil
            }
            #expect(table.keptBytes == kept())
            #expect(table.count == model.count)
            for known in model {
                switch table.find(known.id) {
                case .running?: #expect(known.order == nil)
                case .answered(let answer)?:
                    #expect(known.order != nil && answer?.size == known.size)
                case nil: Issue.record("a collective is not known")
                }
            }
        }
        table.expire(now: .max - 1)
        #expect(table.keptBytes == 0)
        #expect(table.count == model.count { $0.order == nil })
    }

    @Test func barriersTellGatheringsApart() {
        let ranks = RankSet([1, 2])
        var table = BarrierTable()
        func gathering(_ attempt: UInt64) -> BarrierProtocol.Gathering {
            BarrierProtocol.Gathering(number: 7, attempt: attempt)
        }
        func expect(_ found: BarrierTable.Presence, _ wanted: BarrierTable.Presence) {
            #expect(found == wanted)
        }
        func release(_ attempt: UInt64, _ error: RPCError? = nil) -> BarrierProtocol.Release {
            BarrierProtocol.Release(
                number: 7, attempt: attempt,
                failure: error.map { .init(position: 0, error: $0) })
        }
        expect(table.gather(gathering(5), ranks), .absent)
        table.arrive(7, ranks, stamp: 10)
        expect(table.gather(gathering(11), RankSet([1])), .elsewhere)
        // Releases of an earlier barrier do not matter, whatever they say.
        table.release(release(5))
        table.release(release(5, .timedOut))
        // Nor that of a gathering that has not found us here.
        table.release(release(12))
        #expect(table.outcome(7) == .waiting)
        expect(table.gather(gathering(12), ranks), .here)
        table.release(release(12))
        #expect(table.outcome(7) == .released)
        // The first word counts.
        table.release(release(12, .timedOut))
        #expect(table.outcome(7) == .released)
        table.leave(7)
        table.arrive(7, ranks, stamp: 20)
        expect(table.gather(gathering(12), ranks), .here)
        table.release(release(21, .unreachable))
        #expect(table.outcome(7) == .failed(.unreachable))
        table.leave(7)
        #expect(table.isEmpty)
    }
}
