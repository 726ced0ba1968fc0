/// An array of cells, written in ranges and read in ranges; each is atomic. Every write has a
/// number of its own, which stands in each cell that it wrote.
package enum CellArrayModel: SequentialModel {
    package enum Action: Hashable, Sendable {
        /// A read that returned these cells, from cell `first` on. 0: never written.
        case read(first: Int, [UInt32])
        case write(UInt32, Range<Int>)
    }

    package static func initialState(for operations: [RecordedOperation<Action>]) -> [UInt32] {
        let count = operations.reduce(0) { count, operation in
            switch operation.action {
            case .read(let first, let cells): max(count, first + cells.count)
            case .write(_, let range): max(count, range.upperBound)
            }
        }
        return Array(repeating: 0, count: count)
    }

    package static func apply(_ action: Action, to state: [UInt32]) -> [UInt32]? {
        switch action {
        case .read(let first, let cells):
            return state[first..<(first + cells.count)].elementsEqual(cells) ? state : nil
        case .write(let number, let range):
            var state = state
            for cell in range { state[cell] = number }
            return state
        }
    }

    package static func isReadOnly(_ action: Action) -> Bool {
        switch action {
        case .read: true
        case .write: false
        }
    }

    /// What stands in one cell.
    package struct Mark: Hashable {
        var cell: Int
        var number: UInt32
    }

    package static func marks(of action: Action) -> [Mark] {
        guard case .read(let first, let cells) = action else { return [] }
        return cells.enumerated().map { Mark(cell: first + $0.offset, number: $0.element) }
    }

    package static func marksLost(by action: Action, from state: [UInt32]) -> [Mark] {
        guard case .write(_, let range) = action else { return [] }
        return range.map { Mark(cell: $0, number: state[$0]) }
    }

    /// A write of unknown outcome that was seen in any cell has happened before that read
    /// returned; one that was not seen may as well never have happened.
    package static func prepare(
        _ operations: [RecordedOperation<Action>]
    ) -> [RecordedOperation<Action>] {
        var firstSeen: [UInt32: Int] = [:]
        for operation in operations {
            guard case .read(_, let cells) = operation.action, let end = operation.end else {
                continue
            }
            for number in cells { firstSeen[number] = min(firstSeen[number] ?? end, end) }
        }
        return operations.compactMap { operation in
            guard case .write(let number, _) = operation.action else { return operation }
            guard let seen = firstSeen[number] else {
                return operation.isCertain ? operation : nil
            }
            var operation = operation
            operation.narrow(to: seen)
            return operation
        }
    }

    package static func describe(_ action: Action) -> String {
        switch action {
        case .read(let first, let cells): "read \(describe(cells)) from cell \(first) on"
        case .write(let number, let range): "wrote w\(number) to cells \(range)"
        }
    }

    /// Equal neighbours together.
    package static func describe(_ state: [UInt32]) -> String {
        var parts: [String] = []
        var start = 0
        while start < state.count {
            let end = state[start...].firstIndex { $0 != state[start] } ?? state.count
            parts.append("w\(state[start])" + (end - start > 1 ? " x\(end - start)" : ""))
            start = end
        }
        return "[" + parts.joined(separator: ", ") + "]"
    }
}
