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
        for step in 0..<2000 {
            let key = key(&entropy, spread: spread)
            let (index, found) = model.position(key)
            if !found {
                let record = record()
                tree.insert(key, record)
                model.keys.insert(key, at: index)
                model.records.insert(record, at: index)
            }
            if step % 200 == 199 { check(tree, model, &entropy, spread: spread) }
        }
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
        for _ in 0..<50 {
            let probe = key(&entropy, spread: spread * 2)
            let index = model.position(probe).index
            let next = tree.position(from: probe).map { $0.leaf.records[$0.index] }
            let previous = tree.position(below: probe).map { $0.leaf.records[$0.index] }
            #expect(next === (index < model.keys.count ? model.records[index] : nil))
            #expect(previous === (index > 0 ? model.records[index - 1] : nil))
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
