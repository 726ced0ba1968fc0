import DrayRuntime
import Testing

@testable import BIO

/// Superblocks and log groups with anything in them, behind checksums that are right: opening the
/// store fails with an error or succeeds, and never traps.
@Suite struct DecodingTests {
    private static let unit = BlockDevice.blockSize

    /// A store with some groups in its log, one of them with checks of blocks, and a checkpoint.
    private func image() -> DeviceImage {
        let node = SimulatedNode(seed: 3, blocks: 64)
        let ledger = Ledger()
        node.run {
            try await node.format()
            try await ledger.recover(try await node.openStore())
            for number in 0..<6 {
                try await ledger.update(
                    cell: UInt8(number % 3), blocks: UInt32(1 + number % 2), padding: number * 50)
                if number == 2 { try await ledger.checkpoint() }
            }
        }
        return node.store.image(path: SimulatedNode.path)
    }

    /// Puts one of the numbers that decoders stumble over, or any, somewhere in `range`.
    private func mutate(_ buffer: IOBuffer, _ range: Range<Int>, _ random: inout Entropy) {
        for _ in 0...random.below(3) {
            let numbers: [UInt64] = [
                0, 1, 0xff, 0xffff_ffff, .max, .max - 1, 1 << 63, random.next(),
            ]
            let number = numbers[Int(random.below(UInt64(numbers.count)))]
            let place = range.lowerBound + Int(random.below(UInt64(range.count)))
            switch random.below(3) {
            case 0: buffer.bytes[place] = UInt8(truncatingIfNeeded: number)
            case 1:
                let place = min(place / 4 * 4, range.upperBound - 4)
                buffer.store(UInt32(truncatingIfNeeded: number), at: place)
            default:
                let place = min(place / 8 * 8, range.upperBound - 8)
                buffer.store(number, at: place)
            }
        }
    }

    /// Opens and replays the image after `change` of the block number `block`. Returns whether
    /// that succeeded.
    private func opens(
        _ image: DeviceImage, block: Int, seed: UInt64, _ change: @escaping (IOBuffer) -> Void
    ) -> Bool {
        let node = SimulatedNode(seed: seed, blocks: nil)
        node.store.restore(image, path: SimulatedNode.path)
        var opened = false
        let finished = node.run {
            let device = try node.openDevice()
            let buffer = IOBuffer(count: Self.unit)
            try await device.read(into: buffer.bytes, at: UInt64(block * Self.unit))
            change(buffer)
            for copy in block < 2 ? [0, 1] : [block] {
                try await device.write(
                    UnsafeRawBufferPointer(buffer.bytes), at: UInt64(copy * Self.unit),
                    durable: true)
            }
            do throws(BIOError) {
                let store = try await BlockStore.open(
                    device, partition: 0..<device.size, identity: nil, on: node.xstream)
                try await store.replay { (_, _) throws(BIOError) in }
                opened = true
            } catch {
                switch error {
                case .corrupt, .mismatch, .foreign, .outOfRange, .full: break
                default: Issue.record("seed \(seed): \(error)")
                }
            }
        }
        #expect(finished, "seed \(seed)")
        return opened
    }

    @Test func superblocks() {
        let image = image()
        #expect(opens(image, block: 0, seed: 0) { _ in })
        var refused = 0
        for seed in 1..<400 as Range<UInt64> {
            var random = Entropy(seed: seed)
            let opened = opens(image, block: 0, seed: seed) { buffer in
                self.mutate(buffer, 0..<320, &random)
                buffer.store(
                    buffer.checksum(0..<Superblock.checksumOffset), at: Superblock.checksumOffset)
            }
            if !opened { refused += 1 }
        }
        #expect(refused > 50 && refused < 399)
    }

    @Test func groups() {
        let image = image()
        var refused = 0
        for seed in 1..<400 as Range<UInt64> {
            var random = Entropy(seed: seed)
            let block = 2 + Int(random.below(10))
            let opened = opens(image, block: block, seed: seed) { buffer in
                self.mutate(buffer, 8..<200, &random)
                self.seal(buffer)
            }
            if !opened { refused += 1 }
        }
        #expect(refused > 50 && refused < 399)
    }

    /// Makes the checksums of the group in `buffer` right, as far as its lengths allow.
    private func seal(_ buffer: IOBuffer) {
        let payload = Int(buffer.load(UInt32.self, at: 48))
        if payload <= Self.unit - GroupHeader.byteCount {
            let range = GroupHeader.byteCount..<GroupHeader.byteCount + payload
            buffer.store(buffer.checksum(range), at: 52)
        }
        buffer.store(UInt32(0), at: 4)
        buffer.store(buffer.checksum(0..<GroupHeader.byteCount), at: 4)
    }

    /// Whatever stands in a block, decoding it says what it is.
    @Test func blocksOfNoise() {
        var random = Entropy(seed: 5)
        let buffer = IOBuffer(count: Self.unit)
        for _ in 0..<300 {
            for place in stride(from: 0, to: Self.unit, by: 8) {
                buffer.store(random.next(), at: place)
            }
            if case .valid = Superblock.decode(buffer) { Issue.record("noise is no superblock") }
            #expect(GroupHeader.decode(buffer, at: 0) == nil)
            buffer.store(Superblock.magic, at: 0)
            guard case .damaged = Superblock.decode(buffer) else {
                Issue.record("noise behind a magic number is damage")
                continue
            }
        }
    }
}
