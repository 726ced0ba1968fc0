import DrayRuntime
import Testing

@testable import VOS

@Suite struct IndexTreeTests {
    /// The obvious ordered map.
    private struct Model {
        var keys: [[UInt8]] = []
        /// Of the entries, in the order they were inserted.
        var numbers: [UInt64] = []

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

    /// A tree, and the memory of its entries.
    private struct Tree {
        let arena = EntryArena()
        var tree = IndexTree()

        /// The number comes back in the stamp.
        mutating func insert(_ key: [UInt8], number: UInt64) {
            let record = IndexRecord(kind: .single, dkeyEnd: 0, akeyEnd: 0, epoch: 1)
            record.stamp = number
            tree.insert(arena.put(key, record))
        }

        func next(from key: [UInt8]) -> UInt64? {
            unsafe key.withUnsafeBytes { key in
                unsafe tree.position(from: key).map { $0.leaf.entries[$0.index].stamp }
            }
        }

        func previous(below key: [UInt8]) -> UInt64? {
            unsafe key.withUnsafeBytes { key in
                unsafe tree.position(below: key).map { $0.leaf.entries[$0.index].stamp }
            }
        }
    }

    /// With a spread of 0: keys that share long beginnings, and may be such a beginning themselves.
    private func key(_ entropy: inout Entropy, spread: UInt64) -> [UInt8] {
        if spread == 0 {
            let shared = [UInt8](
                repeating: UInt8(entropy.below(3)), count: Int(entropy.below(4)) * 9)
            let bytes: [UInt8] = [0, 1, 254, 255]
            return shared + (0..<entropy.below(12)).map { _ in bytes[Int(entropy.below(4))] }
        }
        let number = entropy.below(spread)
        let length = 1 + Int(number % 3)
        return (0..<length).map { UInt8(truncatingIfNeeded: number >> UInt64(4 * $0)) }
    }

    @Test(arguments: [(1, 40), (2, 400), (3, 4000), (4, 0), (5, 0)])
    func behavesLikeASortedArray(seed: UInt64, spread: UInt64) {
        var entropy = Entropy(seed: seed)
        var tree = Tree()
        var model = Model()
        for step in 0..<2000 {
            let key = key(&entropy, spread: spread)
            let (index, found) = model.position(key)
            if !found {
                tree.insert(key, number: UInt64(step))
                model.keys.insert(key, at: index)
                model.numbers.insert(UInt64(step), at: index)
            }
            if step % 200 == 199 { check(tree, model, &entropy, spread: spread) }
        }
    }

    private func check(
        _ tree: Tree, _ model: Model, _ entropy: inout Entropy, spread: UInt64
    ) {
        tree.tree.checkInvariants()
        var keys: [[UInt8]] = []
        tree.tree.forEach { entry in
            unsafe keys.append([UInt8](copying: entry.key))
            return true
        }
        #expect(keys == model.keys)
        for _ in 0..<50 {
            let probe = key(&entropy, spread: spread * 2)
            let index = model.position(probe).index
            let next = tree.next(from: probe)
            let previous = tree.previous(below: probe)
            #expect(next == (index < model.keys.count ? model.numbers[index] : nil))
            #expect(previous == (index > 0 ? model.numbers[index - 1] : nil))
        }
    }

    @Test func ascendingKeysFillTheNodes() {
        var tree = Tree()
        for number in 0..<5000 as Range<UInt64> {
            var key: [UInt8] = []
            key.append(word: number)
            tree.insert(key, number: number)
        }
        tree.tree.checkInvariants()
        #expect(tree.tree.count == 5000)
    }
}
