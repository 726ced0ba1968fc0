/// Which transaction must come before which, and why.
struct DependencyGraph {
    /// Why one transaction comes before another. Adya, "Weak consistency" (1999).
    enum Reason: Hashable {
        /// It wrote a version that the other one's version follows.
        case writeWrite(key: Int)
        /// It wrote what the other one read.
        case writeRead(key: Int)
        /// It read a version that the other one's version follows.
        case readWrite(key: Int)
        /// It had ended when the other one began.
        case realTime
    }

    struct Edge {
        var target: Int
        var reason: Reason
    }

    /// How many nodes are transactions. Nodes above them are moments: `count + n` stands behind
    /// every transaction that had ended by moment n and before all that began later, which keeps
    /// the number of edges small.
    let count: Int
    private(set) var edges: [[Edge]]

    init(count: Int, moments: Int) {
        self.count = count
        edges = Array(repeating: [], count: count + moments)
    }

    var nodeCount: Int { edges.count }

    /// Whether the edge is new.
    @discardableResult
    mutating func add(_ source: Int, _ target: Int, _ reason: Reason) -> Bool {
        guard source != target else { return false }
        for edge in edges[source] where edge.target == target && edge.reason == reason {
            return false
        }
        edges[source].append(Edge(target: target, reason: reason))
        return true
    }

    // MARK: - Order

    /// Every node after all that come before it; nil when there is a cycle.
    func topologicalOrder() -> [Int]? {
        var missing = Array(repeating: 0, count: nodeCount)
        for list in edges {
            for edge in list { missing[edge.target] += 1 }
        }
        var order = missing.indices.filter { missing[$0] == 0 }
        var next = 0
        while next < order.count {
            for edge in edges[order[next]] {
                missing[edge.target] -= 1
                if missing[edge.target] == 0 { order.append(edge.target) }
            }
            next += 1
        }
        return order.count == nodeCount ? order : nil
    }

    /// For each transaction, the transactions that come after it. `order` is topological.
    func reachable(_ order: [Int]) -> [BitRow] {
        var rows = Array(repeating: BitRow(count: count), count: nodeCount)
        for node in order.reversed() {
            var row = BitRow(count: count)
            for edge in edges[node] {
                row.formUnion(rows[edge.target])
                if edge.target < count { row.insert(edge.target) }
            }
            rows[node] = row
        }
        return Array(rows[0..<count])
    }

    // MARK: - Cycles

    /// The shortest way from a node back to itself, as nodes with the edge that leaves each; nil
    /// when there is none of at most `limit` steps.
    private func shortestCycle(through start: Int, within limit: Int) -> [(Int, Edge)]? {
        var cameFrom: [Int: (node: Int, edge: Edge)] = [:]
        var front = [start]
        var length = 0
        while !front.isEmpty, length < limit {
            length += 1
            var next: [Int] = []
            for node in front {
                for edge in edges[node] {
                    if edge.target == start {
                        var path = [(node, edge)]
                        var current = node
                        while current != start, let step = cameFrom[current] {
                            path.append((step.node, step.edge))
                            current = step.node
                        }
                        return path.reversed()
                    }
                    guard cameFrom[edge.target] == nil else { continue }
                    cameFrom[edge.target] = (node, edge)
                    next.append(edge.target)
                }
            }
            front = next
        }
        return nil
    }

    /// A cycle with as few steps as any, as transactions with the edge to the next one each; steps
    /// of real time are one edge. Nil when there is none.
    func findCycle() -> [(transaction: Int, reason: Reason)]? {
        var best: [(Int, Edge)]?
        for start in 0..<count {
            let limit = best.map { $0.count - 1 } ?? nodeCount
            if let cycle = shortestCycle(through: start, within: limit) { best = cycle }
        }
        return best.map { cycle in
            cycle.filter { $0.0 < count }.map { ($0.0, $0.1.reason) }
        }
    }
}

/// A row of bits.
struct BitRow {
    private var words: [UInt64]

    init(count: Int) { words = Array(repeating: 0, count: (count + 63) / 64) }

    func contains(_ index: Int) -> Bool { words[index >> 6] >> UInt64(index & 63) & 1 == 1 }

    mutating func insert(_ index: Int) { words[index >> 6] |= 1 << UInt64(index & 63) }

    mutating func formUnion(_ other: BitRow) {
        for index in words.indices { words[index] |= other.words[index] }
    }
}
