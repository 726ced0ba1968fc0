import DrayRuntime
import Testing

@testable import CaRT

@Suite struct TreeTopologyTests {
    static let trees: [TreeTopology] =
        [.flat] + [2, 3, 4, 5, 8, 17, 32, 64].flatMap { [.kAry($0), .kNomial($0)] }

    /// Walks the whole tree by `children` and checks all else against the walk.
    static func check(_ tree: TreeTopology, count: Int, root: Int, subtrees: Bool) {
        var levels = [Int](repeating: -1, count: count)
        levels[root] = 0
        var queue = [root]
        var next = 0
        var isConsistent = tree.parent(of: root, count: count, root: root) == nil
        while next < queue.count {
            let position = queue[next]
            next += 1
            for child in tree.children(of: position, count: count, root: root) {
                isConsistent = isConsistent && levels[child] == -1
                isConsistent =
                    isConsistent && tree.parent(of: child, count: count, root: root) == position
                levels[child] = levels[position] + 1
                queue.append(child)
            }
        }
        #expect(isConsistent, "\(tree) \(count) \(root)")
        #expect(queue.count == count, "\(tree) \(count) \(root): not all are reached")
        #expect(levels.max() == tree.depth(count: count), "\(tree) \(count) \(root)")
        guard subtrees else { return }
        // From the leaves up: a subtree is the position and its children's subtrees.
        var members = (0..<count).map { Set([$0]) }
        for position in queue.reversed() where position != root {
            members[tree.parent(of: position, count: count, root: root)!]
                .formUnion(members[position])
        }
        for position in 0..<count {
            let ranges = tree.subtree(of: position, count: count, root: root)
            let listed = ranges.flatMap { Array($0) }
            #expect(listed.count == members[position].count, "\(tree) \(count) \(root)")
            #expect(Set(listed) == members[position], "\(tree) \(count) \(root) \(position)")
        }
    }

    @Test(arguments: trees)
    func reachesEachPositionOnce(tree: TreeTopology) {
        for count in 1...130 {
            for root in Set([0, 1, count / 2, count - 1]) where root < count {
                Self.check(tree, count: count, root: root, subtrees: count < 70)
            }
        }
        for count in [200, 255, 256, 257, 511, 512, 513, 700, 10_000] {
            Self.check(tree, count: count, root: count / 3, subtrees: false)
        }
    }

    @Test func depthIsLogarithmic() {
        #expect(TreeTopology.flat.depth(count: 1) == 0)
        #expect(TreeTopology.flat.depth(count: 10_000) == 1)
        #expect(TreeTopology.kNomial(2).depth(count: 1024) == 10)
        #expect(TreeTopology.kNomial(2).depth(count: 1025) == 10)
        #expect(TreeTopology.kNomial(2).depth(count: 10_000) == 13)
        #expect(TreeTopology.kNomial(4).depth(count: 10_000) == 7)
        #expect(TreeTopology.kNomial(32).depth(count: 10_000) == 3)
        #expect(TreeTopology.kAry(2).depth(count: 1023) == 9)
        #expect(TreeTopology.kAry(2).depth(count: 1024) == 10)
        #expect(TreeTopology.kAry(32).depth(count: 10_000) == 3)
        for ratio in TreeTopology.ratios {
            for count in [1, 2, 63, 64, 65, 4095, 4096, 4097, 1 << 20] {
                var (digits, rest) = (0, count - 1)
                while rest > 0 {
                    digits += 1
                    rest /= ratio
                }
                #expect(TreeTopology.kNomial(ratio).depth(count: count) <= digits)
                #expect(TreeTopology.kAry(ratio).depth(count: count) <= digits)
            }
        }
    }

    /// Those with the largest subtrees are sent to first.
    @Test func childrenComeLargestFirst() {
        #expect(
            TreeTopology.kNomial(4).children(of: 0, count: 64) == [16, 32, 48, 4, 8, 12, 1, 2, 3])
        #expect(TreeTopology.kNomial(2).children(of: 3, count: 9, root: 3) == [2, 7, 5, 4])
        #expect(TreeTopology.kAry(3).children(of: 1, count: 100) == [4, 5, 6])
        #expect(TreeTopology.flat.children(of: 1, count: 4, root: 1) == [2, 3, 0])
        #expect(TreeTopology.flat.children(of: 0, count: 4, root: 1) == [])
    }

    @Test func travels() throws {
        for tree in Self.trees {
            #expect(try TreeTopology(decoding: tree.encoded()) == tree)
        }
        for bytes in [[3, 2], [1, 1], [1, 65], [2, 0], [1]] as [[UInt8]] {
            #expect(throws: DecodingFailure.self) { try TreeTopology(decoding: bytes) }
        }
    }
}
