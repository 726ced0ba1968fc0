internal import DrayRuntime
internal import Glibc

/// What a simulated device holds: which bytes are durable, which are not yet, and what a crash
/// makes of the latter. A value without time or tasks, so that tests can copy it.
struct SimulatedMedium: Sendable {
    static let sectorSize = 512
    private static let sectorsPerBlock = BlockDevice.blockSize / sectorSize
    private static let zeroes = [UInt8](repeating: 0, count: BlockDevice.blockSize)

    struct Version: Sendable {
        /// When its write ended, in the order of completion.
        var sequence: UInt64
        var bytes: [UInt8]
    }

    struct Write: Sendable {
        var id: UInt64
        var block: UInt64
        var blocks: [[UInt8]]
        /// Nobody wrote it: the blocks are given back.
        var isDiscard = false

        func meets(_ other: Write) -> Bool {
            block < other.block + UInt64(other.blocks.count)
                && other.block < block + UInt64(blocks.count)
        }
    }

    /// What discarded blocks read as: nothing that anybody wrote.
    private static let discarded = [UInt8](repeating: 0xdb, count: BlockDevice.blockSize)

    let size: UInt64
    /// Durable blocks; one that is missing is zero.
    private var stable: [UInt64: [UInt8]] = [:]
    /// Versions of blocks that were written and not flushed, oldest first.
    private var pending: [UInt64: [Version]] = [:]
    /// Writes that have begun and not ended, in order.
    private var inFlight: [Write] = []
    private var nextID: UInt64 = 1
    private var completed: UInt64 = 0
    /// Sectors that cannot be read.
    private var unreadable: Set<UInt64> = []

    init(size: UInt64) { self.size = size }

    /// Whether everything that was written is durable.
    var isClean: Bool { pending.isEmpty && inFlight.isEmpty }

    /// Whether some sectors cannot be read.
    var hasUnreadable: Bool { !unreadable.isEmpty }

    private func visible(_ block: UInt64) -> [UInt8] {
        pending[block]?.last?.bytes ?? stable[block] ?? SimulatedMedium.zeroes
    }

    /// Copies what a read sees; false when it meets an unreadable sector.
    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) -> Bool {
        let unit = UInt64(BlockDevice.blockSize)
        for index in 0..<UInt64(buffer.count) / unit {
            let block = offset / unit + index
            if !unreadable.isEmpty {
                let first = block * UInt64(SimulatedMedium.sectorsPerBlock)
                for sector in first..<first + UInt64(SimulatedMedium.sectorsPerBlock)
                where unreadable.contains(sector) { return false }
            }
            let start = Int(index * unit)
            unsafe visible(block).withUnsafeBytes { bytes in
                unsafe UnsafeMutableRawBufferPointer(
                    rebasing: buffer[start..<start + BlockDevice.blockSize]
                ).copyMemory(from: bytes)
            }
        }
        return true
    }

    /// A write begins. Returns its identity for `end`.
    mutating func begin(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) -> UInt64 {
        let unit = BlockDevice.blockSize
        var blocks: [[UInt8]] = []
        for start in stride(from: 0, to: buffer.count, by: unit) {
            unsafe blocks.append(
                [UInt8](UnsafeRawBufferPointer(rebasing: buffer[start..<start + unit])))
        }
        return add(Write(id: nextID, block: offset / UInt64(unit), blocks: blocks))
    }

    /// A discard begins, which may end any time before the next flush.
    mutating func beginDiscard(_ range: Range<UInt64>) -> UInt64 {
        let unit = UInt64(BlockDevice.blockSize)
        let count = Int((range.upperBound - range.lowerBound) / unit)
        return add(
            Write(
                id: nextID, block: range.lowerBound / unit,
                blocks: Array(repeating: SimulatedMedium.discarded, count: count),
                isDiscard: true))
    }

    private mutating func add(_ write: Write) -> UInt64 {
        for other in inFlight where write.isDiscard || other.isDiscard {
            precondition(!write.meets(other), "blocks are written while they are discarded")
        }
        nextID += 1
        inFlight.append(write)
        return write.id
    }

    /// The bytes that the write began with equal those in `buffer` now.
    func isUnchanged(_ id: UInt64, _ buffer: UnsafeRawBufferPointer) -> Bool {
        guard let write = inFlight.first(where: { $0.id == id }) else { return true }
        for (index, bytes) in write.blocks.enumerated() {
            let start = index * BlockDevice.blockSize
            let current = unsafe buffer.baseAddress! + start
            let isEqual = unsafe bytes.withUnsafeBytes {
                unsafe memcmp($0.baseAddress!, current, $0.count) == 0
            }
            guard isEqual else { return false }
        }
        return true
    }

    /// The write is stored, `shift` blocks from its place; durably, or until a crash.
    mutating func end(_ id: UInt64, durable: Bool, shift: UInt64 = 0) {
        guard let index = inFlight.firstIndex(where: { $0.id == id }) else { return }
        let write = inFlight.remove(at: index)
        completed += 1
        for (index, bytes) in write.blocks.enumerated() {
            let block = (write.block + UInt64(index) + shift) % (size / UInt64(bytes.count))
            if !unreadable.isEmpty {
                for sector in 0..<UInt64(SimulatedMedium.sectorsPerBlock) {
                    unreadable.remove(block * UInt64(SimulatedMedium.sectorsPerBlock) + sector)
                }
            }
            if durable {
                stable[block] = bytes
                pending[block] = nil
            } else {
                pending[block, default: []].append(Version(sequence: completed, bytes: bytes))
            }
        }
    }

    /// The write fails and leaves nothing.
    mutating func abandon(_ id: UInt64) {
        inFlight.removeAll { $0.id == id }
    }

    /// A flush that begins now covers what `flush(upTo:)` is given back.
    var flushMark: UInt64 { completed }

    /// Everything written before the mark is durable.
    mutating func flush(upTo mark: UInt64) {
        for (block, versions) in pending {
            guard let last = versions.last(where: { $0.sequence <= mark }) else { continue }
            stable[block] = last.bytes
            let rest = versions.filter { $0.sequence > mark }
            pending[block] = rest.isEmpty ? nil : rest
        }
    }

    /// The power fails. Returns how many blocks lost their newest version.
    mutating func crash(_ outcome: CrashOutcome, entropy: inout Entropy) -> Int {
        for write in inFlight {
            for (index, bytes) in write.blocks.enumerated() {
                pending[write.block + UInt64(index), default: []].append(
                    Version(sequence: .max, bytes: bytes))
            }
        }
        inFlight.removeAll()
        var outcome = outcome
        if outcome == .random {
            outcome = [.lose, .keep, .reorder, .tear][Int(entropy.below(4))]
        }
        var lost = 0
        // Sorted: the order of a dictionary must not decide what is drawn.
        for block in pending.keys.sorted() {
            let old = stable[block] ?? SimulatedMedium.zeroes
            let versions = [old] + pending[block]!.map(\.bytes)
            let kept = SimulatedMedium.survivor(versions, outcome, &entropy)
            let newest = versions[versions.count - 1]
            let isNewest = unsafe kept.withUnsafeBytes { bytes in
                unsafe newest.withUnsafeBytes {
                    unsafe memcmp($0.baseAddress!, bytes.baseAddress!, $0.count) == 0
                }
            }
            if !isNewest { lost += 1 }
            stable[block] = kept
        }
        pending.removeAll()
        return lost
    }

    private static func survivor(
        _ versions: [[UInt8]], _ outcome: CrashOutcome, _ entropy: inout Entropy
    ) -> [UInt8] {
        switch outcome {
        case .lose: return versions[0]
        case .keep: return versions[versions.count - 1]
        case .reorder, .random: return versions[Int(entropy.below(UInt64(versions.count)))]
        case .tear:
            var bytes = versions[0]
            for sector in 0..<sectorsPerBlock {
                let range = sector * sectorSize..<(sector + 1) * sectorSize
                let chosen = versions[Int(entropy.below(UInt64(versions.count)))]
                unsafe bytes.withUnsafeMutableBytes { target in
                    unsafe chosen.withUnsafeBytes { source in
                        unsafe UnsafeMutableRawBufferPointer(rebasing: target[range])
                            .copyMemory(from: UnsafeRawBufferPointer(rebasing: source[range]))
                    }
                }
            }
            return bytes
        }
    }

    // MARK: - Damage

    /// Changes the bits of `mask` in the byte at `offset`, in every version.
    mutating func damage(at offset: UInt64, mask: UInt8) {
        let block = offset / UInt64(BlockDevice.blockSize)
        let place = Int(offset % UInt64(BlockDevice.blockSize))
        var bytes = stable[block] ?? SimulatedMedium.zeroes
        bytes[place] ^= mask
        stable[block] = bytes
        if let count = pending[block]?.count {
            for index in 0..<count { pending[block]![index].bytes[place] ^= mask }
        }
    }

    /// Puts `bytes` at `offset`, in every version.
    mutating func overwrite(at offset: UInt64, with bytes: [UInt8]) {
        for (index, byte) in bytes.enumerated() {
            let place = offset + UInt64(index)
            let block = place / UInt64(BlockDevice.blockSize)
            let old = visible(block)[Int(place % UInt64(BlockDevice.blockSize))]
            if old != byte { damage(at: place, mask: old ^ byte) }
        }
    }

    /// What stands in `count` bytes at `offset`.
    func bytes(at offset: UInt64, count: Int) -> [UInt8] {
        (0..<UInt64(count)).map { index in
            let place = offset + index
            return visible(place / UInt64(BlockDevice.blockSize))[
                Int(place % UInt64(BlockDevice.blockSize))]
        }
    }

    /// A checksum of all durable blocks that are not zero.
    var fingerprint: UInt64 {
        var sum: UInt64 = 0
        // Addition does not depend on the order.
        for (block, bytes) in stable {
            let checksum = unsafe bytes.withUnsafeBytes { unsafe CRC32C.checksum(of: $0) }
            guard checksum != SimulatedMedium.zeroChecksum else { continue }
            var mixer = Entropy(seed: block << 32 | UInt64(checksum))
            sum &+= mixer.next()
        }
        return sum
    }

    private static let zeroChecksum = unsafe zeroes.withUnsafeBytes {
        unsafe CRC32C.checksum(of: $0)
    }

    /// Puts what stands in the block at byte `source` into the one at byte `target`, durably.
    mutating func copy(from source: UInt64, to target: UInt64) {
        let unit = UInt64(BlockDevice.blockSize)
        stable[target / unit] = visible(source / unit)
        pending[target / unit] = nil
    }

    /// The offsets, in bytes and in order, of the blocks in `area` that hold anything.
    func blocks(in area: Range<UInt64>) -> [UInt64] {
        let unit = UInt64(BlockDevice.blockSize)
        return Set(stable.keys).union(pending.keys).map { $0 * unit }
            .filter { area.contains($0) }.sorted()
    }

    /// Reads of the sector at `offset` fail until it is written.
    mutating func makeUnreadable(at offset: UInt64) {
        unreadable.insert(offset / UInt64(SimulatedMedium.sectorSize))
    }
}
