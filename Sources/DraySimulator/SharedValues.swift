internal import Dray
internal import DrayRuntime
internal import Synchronization

/// Keys and arrays that all clients change at once, and the history of what they did and saw.
///
/// Clients of a real cluster have threads of their own: what they do gets its place in a history
/// under a lock. A place taken before the call and one taken after its return are in the order of
/// real time, whichever threads took them.
package final class SharedValues: Sendable {
    /// Where they stand; all clients use the same.
    static let keyCount = 8
    static let arrayCount = 2
    static let cellCount = 12
    /// The whole array needs a bulk transfer, a few cells do not.
    static let cellSize = 2_500
    /// The well-known number of the object that holds the arrays.
    static let arrayObject: UInt32 = 2

    let keys = Mutex(History<Int, RegisterModel.Action>())
    let arrays = Mutex(History<Int, CellArrayModel.Action>())
    let transactions = Mutex(TransactionHistory())
    // Counters only: no other memory hangs on their order.
    private let valueCount = Atomic<UInt64>(0)
    private let writeCount = Atomic<UInt32>(0)

    package init() {}

    /// The number of the next value, which no other has.
    func nextValue() -> UInt64 { valueCount.add(1, ordering: .relaxed).newValue }

    /// The number of the next write to an array.
    func nextWrite() -> UInt32 { writeCount.add(1, ordering: .relaxed).newValue }

    /// The operations on keys and arrays that were begun.
    package var operationCount: Int {
        keys.withLock { $0.count } + arrays.withLock { $0.count }
    }

    /// What no order of the operations explains, in words.
    package func check() -> [Violation] {
        var problems: [Violation] = []
        func note(_ kind: Violation.Kind, _ subject: String, _ outcome: CheckOutcome) {
            guard let problem = outcome.problem else { return }
            let isChecked = if case .gaveUp = outcome { false } else { true }
            problems.append(Violation(isChecked ? kind : .unchecked, "\(subject): \(problem)"))
        }
        let (keys, arrays) = (keys.withLock { $0 }, arrays.withLock { $0 })
        for (key, outcome) in keys.check(RegisterModel.self) {
            note(.linearizability, "shared key \(key)", outcome)
        }
        for (array, outcome) in arrays.check(CellArrayModel.self) {
            note(.linearizability, "shared array \(array)", outcome)
        }
        note(.serialisability, "transactions", transactions.withLock { $0 }.check())
        return problems
    }

    // MARK: - Bytes

    static func key(_ index: Int) -> [UInt8] { Array("shared".utf8) + [0, UInt8(index)] }

    static func arrayKey(_ index: Int) -> [UInt8] { Array("array".utf8) + [UInt8(index)] }

    /// The bytes of a value: its number, then as many as the number says.
    static func bytes(of value: UInt64) -> [UInt8] {
        let sizes = [0, 56, 1_000, 4_088, 9_000, 24_000]
        var mixer = Entropy(seed: value)
        // Large ones are rare: they are for the way by bulk transfers.
        let size = min(mixer.below(6), mixer.below(6))
        var bytes: [UInt8] = []
        bytes.reserveCapacity(8 + sizes[Int(size)])
        for place in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: value >> UInt64(8 * place))) }
        for place in 0..<sizes[Int(size)] {
            bytes.append(UInt8(truncatingIfNeeded: value &* 31 &+ UInt64(place)))
        }
        return bytes
    }

    /// The number of the value with these bytes; nil for a mixture, or anything else.
    static func value(of bytes: [UInt8]) -> UInt64? {
        guard bytes.count >= 8 else { return nil }
        var value: UInt64 = 0
        for place in 0..<8 { value |= UInt64(bytes[place]) << UInt64(8 * place) }
        return bytes == SharedValues.bytes(of: value) ? value : nil
    }

    static func fill(_ buffer: IOBuffer, with write: UInt32) {
        for offset in 0..<buffer.count {
            unsafe buffer.bytes[offset] = byte(of: write, at: offset % cellSize)
        }
    }

    /// What a write puts into each cell: its number, then bytes that depend on it.
    private static func byte(of write: UInt32, at place: Int) -> UInt8 {
        if write == 0 { return 0 }
        if place < 4 { return UInt8(truncatingIfNeeded: write >> UInt32(8 * place)) }
        return UInt8(truncatingIfNeeded: write &* 31 &+ UInt32(place))
    }

    /// The write that filled each cell of the buffer, 0 for none; nil when a cell is a mixture.
    static func writes(in buffer: IOBuffer) -> [UInt32]? {
        let bytes = buffer.array(0..<buffer.count)
        var writes: [UInt32] = []
        for start in stride(from: 0, to: bytes.count, by: cellSize) {
            var write: UInt32 = 0
            for place in 0..<4 { write |= UInt32(bytes[start + place]) << UInt32(8 * place) }
            for place in 0..<cellSize where bytes[start + place] != byte(of: write, at: place) {
                return nil
            }
            writes.append(write)
        }
        return writes
    }
}
