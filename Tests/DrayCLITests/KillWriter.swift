import Dray
import DrayRuntime
import Testing

/// Changes keys of its own and writes down what was acknowledged. Confined to the client's
/// xstream.
final class KillWriter {
    /// What is known of one key. A version stands for the value that `value` makes of it.
    struct Entry {
        /// What stands there for certain, unless one of `uncertain` does. Nil: nothing.
        var acknowledged: UInt32?
        /// What attempts without an answer may have left there.
        var uncertain: [UInt32?] = []
        /// Of the last attempt.
        var version: UInt32 = 0

        var states: [UInt32?] { [acknowledged] + uncertain }

        mutating func settle(_ version: UInt32?) {
            acknowledged = version
            uncertain.removeAll()
        }
    }

    struct Tally: Sendable {
        var acknowledged = 0
        var uncertain = 0
        var removed = 0
        var refused = 0
        var toBlocks = 0
        var checked = 0
        var problems: [String] = []

        static func += (left: inout Tally, right: Tally) {
            left.acknowledged += right.acknowledged
            left.uncertain += right.uncertain
            left.removed += right.removed
            left.refused += right.refused
            left.toBlocks += right.toBlocks
            left.checked += right.checked
            left.problems += right.problems
        }
    }

    private let index: Int
    private let map: KeyValue
    private let arrays: DrayObject
    private var entropy: Entropy
    private var entries: [Entry]
    var tally = Tally()

    static let keyCount = 24
    static let akey = Array("data".utf8)
    /// What goes into an array: below the limit of what is written as a whole.
    static let arraySize = 200_000
    /// Values from this size on go to blocks.
    static let blockSize = 4096

    init(index: Int, container: Container, entropy: Entropy) {
        self.index = index
        self.entropy = entropy
        map = KeyValue(container: container)
        arrays = container.object(container.wellKnownObjectID(2))
        entries = Array(repeating: Entry(), count: KillWriter.keyCount)
    }

    // MARK: - Keys and values

    private func isArray(_ slot: Int) -> Bool { slot % 6 == 5 }

    private func key(_ slot: Int) -> [UInt8] { Array("writer \(index) key \(slot)".utf8) }

    /// What a version of a key is: different for each, and of a size that follows from it.
    func value(_ slot: Int, _ version: UInt32) -> [UInt8] {
        let stamp = UInt64(index) << 48 | UInt64(slot) << 32 | UInt64(version)
        var entropy = Entropy(seed: stamp)
        let size: Int
        if isArray(slot) {
            size = KillWriter.arraySize
        } else {
            switch entropy.below(16) {
            case 0...8: size = 8 + Int(entropy.below(200))
            case 9...11: size = 1000 + Int(entropy.below(3000))
            case 12...13: size = 4096 + Int(entropy.below(16_000))
            case 14: size = 20_000 + Int(entropy.below(80_000))
            default: size = DrayObject.valueMax - Int(entropy.below(2))
            }
        }
        var bytes = [UInt8](repeating: 0, count: size)
        let step = entropy.next() | 1
        bytes.withUnsafeMutableBytes { buffer in
            var word = stamp
            for offset in stride(from: 0, through: size - 8, by: 8) {
                buffer.storeBytes(of: word, toByteOffset: offset, as: UInt64.self)
                word &+= step
            }
        }
        return bytes
    }

    /// What stands under a key. Nil: nothing.
    private func read(_ slot: Int) async throws(DrayError) -> [UInt8]? {
        guard isArray(slot) else { return try await map.get(key(slot)) }
        let end = try await arrays.arrayEnd(dkey: key(slot), akey: KillWriter.akey)
        guard end > 0 else { return nil }
        let buffer = IOBuffer(count: Int(end))
        try await arrays.read(
            dkey: key(slot), akey: KillWriter.akey, offset: 0, into: buffer, range: 0..<Int(end))
        return buffer.array(0..<Int(end))
    }

    private func put(
        _ slot: Int, _ bytes: [UInt8], _ condition: DrayObject.Condition
    ) async throws(DrayError) {
        guard isArray(slot) else {
            return try await map.put(key(slot), bytes, condition: condition)
        }
        try await arrays.write(
            dkey: key(slot), akey: KillWriter.akey, offset: 0, buffer: IOBuffer(copying: bytes),
            range: 0..<bytes.count)
    }

    private func remove(_ slot: Int) async throws(DrayError) {
        guard isArray(slot) else { return try await map.remove(key(slot)) }
        try await arrays.remove(dkey: key(slot), condition: .update)
    }

    // MARK: - Changes

    func step() async {
        let slot = Int(entropy.below(UInt64(KillWriter.keyCount)))
        switch entropy.below(12) {
        case 0...5: await change(slot, .none)
        case 6...7: await change(slot, isArray(slot) ? .none : .insert)
        case 8: await change(slot, isArray(slot) ? .none : .update)
        case 9...10: await take(slot)
        default: await check(slot)
        }
    }

    private func change(_ slot: Int, _ condition: DrayObject.Condition) async {
        entries[slot].version += 1
        let version = entries[slot].version
        let bytes = value(slot, version)
        do throws(DrayError) {
            try await put(slot, bytes, condition)
            if condition == .insert { expect(slot, "insert succeeded") { $0 == nil } }
            if condition == .update { expect(slot, "update succeeded") { $0 != nil } }
            entries[slot].settle(version)
            tally.acknowledged += 1
            if bytes.count >= KillWriter.blockSize { tally.toBlocks += 1 }
        } catch {
            failed(slot, error, leaving: version, condition)
        }
    }

    private func take(_ slot: Int) async {
        do throws(DrayError) {
            try await remove(slot)
            expect(slot, "removal succeeded") { $0 != nil }
            entries[slot].settle(nil)
            tally.acknowledged += 1
            tally.removed += 1
        } catch {
            failed(slot, error, leaving: nil, .update)
        }
    }

    private func failed(
        _ slot: Int, _ error: DrayError, leaving version: UInt32?,
        _ condition: DrayObject.Condition
    ) {
        switch error.code {
        case .exists where condition == .insert:
            expect(slot, "insert was refused") { $0 != nil }
            tally.refused += 1
        case .notFound where condition == .update:
            expect(slot, "update or removal was refused") { $0 == nil }
            tally.refused += 1
        case .unavailable, .timedOut:
            entries[slot].uncertain.append(version)
            tally.uncertain += 1
        default:
            problem(slot, "\(error)")
        }
    }

    /// An answer must fit one of the states that the key may be in.
    private func expect(_ slot: Int, _ what: String, _ holds: (UInt32?) -> Bool) {
        guard !entries[slot].states.contains(where: holds) else { return }
        problem(slot, "\(what) although there is \(describe(entries[slot].states))")
    }

    // MARK: - Checks

    /// Reads a key and compares every byte. What is read is what stands there from now on: an
    /// attempt without an answer happens before its deadline, or never.
    func check(_ slot: Int) async {
        let found: [UInt8]?
        do throws(DrayError) {
            found = try await read(slot)
        } catch {
            if error.code != .unavailable, error.code != .timedOut { problem(slot, "\(error)") }
            return
        }
        tally.checked += 1
        let match = entries[slot].states.first { $0.map { value(slot, $0) } == found }
        guard let match else {
            let bytes = found.map { "\($0.count) bytes beginning \($0.prefix(16))" } ?? "nothing"
            return problem(slot, "found \(bytes) instead of \(describe(entries[slot].states))")
        }
        entries[slot].settle(match)
    }

    func checkAll() async {
        for slot in entries.indices { await check(slot) }
    }

    /// The keys of the map that must be listed: right after `checkAll`.
    var listed: [[UInt8]] {
        entries.indices.filter { !isArray($0) && entries[$0].acknowledged != nil }.map(key)
    }

    private func problem(_ slot: Int, _ what: String) {
        tally.problems.append("\(String(decoding: key(slot), as: UTF8.self)): \(what)")
    }

    private func describe(_ states: [UInt32?]) -> String {
        states.map { $0.map { "version \($0)" } ?? "nothing" }.joined(separator: " or ")
    }
}
