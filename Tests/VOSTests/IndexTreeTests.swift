import DrayRuntime
import Testing

@testable import VOS

@Suite struct IndexTreeTests {
    /// The obvious ordered map.
    private struct Model {
        var keys: [[UInt8]] = []
        var records: [IndexRecord] = []

        func position(_ key: [UInt8]) -> (index: Int, found: Bool) {
            var index = 0
            var high = keys.count
            while index < high {
                let middle = (index + high) / 2
                if keys[middle].lexicographicallyPrecedes(key) {
                    index = middle + 1
                } else {
                    high = middle
                }
            }
            return (index, index < keys.count && keys[index] == key)
        }
    }

    private func record() -> IndexRecord {
        IndexRecord(kind: .single, dkeyEnd: 0, akeyEnd: 0, epoch: 1)
    }

    private func key(_ entropy: inout Entropy, spread: UInt64) -> [UInt8] {
        let number = entropy.below(spread)
        let length = 1 + Int(number % 3)
        return (0..<length).map { UInt8(truncatingIfNeeded: number >> UInt64(4 * $0)) }
    }

    @Test(arguments: [(1, 40), (2, 400), (3, 4000)])
    func behavesLikeASortedArray(seed: UInt64, spread: UInt64) {
        var entropy = Entropy(seed: seed)
        var tree = IndexTree()
        var model = Model()
        var snapshots: [(IndexTree, Model)] = []
        for step in 0..<2000 {
            let key = key(&entropy, spread: spread)
            let (index, found) = model.position(key)
            // Grows for a while, then shrinks.
            if entropy.chance(step % 1000 < 500 ? 7 : 2, in: 10) {
                let record = record()
                let old = tree.insert(key, record)
                #expect((old != nil) == found)
                if found {
                    #expect(old === model.records[index])
                    model.records[index] = record
                } else {
                    model.keys.insert(key, at: index)
                    model.records.insert(record, at: index)
                }
            } else {
                let old = tree.remove(key)
                #expect((old != nil) == found)
                if found {
                    model.keys.remove(at: index)
                    model.records.remove(at: index)
                }
            }
            if step % 500 == 499 {
                check(tree, model, &entropy, spread: spread)
                snapshots.append((tree, model))
            }
        }
        for (tree, model) in snapshots { check(tree, model, &entropy, spread: spread) }
        for key in model.keys { #expect(tree.remove(key) != nil) }
        tree.checkInvariants()
        #expect(tree.count == 0)
    }

    private func check(
        _ tree: IndexTree, _ model: Model, _ entropy: inout Entropy, spread: UInt64
    ) {
        tree.checkInvariants()
        var keys: [[UInt8]] = []
        tree.forEach { key, _ in
            keys.append(key)
            return true
        }
        #expect(keys == model.keys)
        var reversed: [[UInt8]] = []
        tree.forEachReversed { key, _ in
            reversed.append(key)
            return true
        }
        #expect(reversed == model.keys.reversed())
        for _ in 0..<50 {
            let probe = key(&entropy, spread: spread * 2)
            let (index, found) = model.position(probe)
            #expect((tree[probe] != nil) == found)
            #expect(tree.first(from: probe)?.key == (index < keys.count ? keys[index] : nil))
            #expect(tree.last(below: probe)?.key == (index > 0 ? keys[index - 1] : nil))
        }
    }

    @Test func ascendingKeysFillTheNodes() {
        var tree = IndexTree()
        for number in 0..<5000 as Range<UInt64> {
            var key: [UInt8] = []
            key.append(word: number)
            tree.insert(key, record())
        }
        tree.checkInvariants()
        #expect(tree.count == 5000)
    }
}
