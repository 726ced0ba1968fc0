import BIO
import DrayRuntime
import Testing

@Suite struct BlockStoreLogTests {
    @Test func recordsAndBlocksComeBackAfterAKill() {
        var faults = DeviceFaults()
        faults.crashOutcome = .lose
        let node = SimulatedNode(seed: 1, faults: faults)
        let finished = node.run {
            try await node.format()
            let store = try await node.openStore()
            #expect(try await store.replayed().isEmpty)
            let data = IOBuffer(copying: [UInt8](repeating: 7, count: 8192))
            let extents = try store.allocator.reserve(blocks: 2)
            try await store.write(UnsafeRawBufferPointer(data.bytes), to: extents)
            let check = BlockCheck(
                extent: extents[0], byteCount: 5000,
                checksum: CRC32C.checksum(
                    of: UnsafeRawBufferPointer(rebasing: data.bytes[0..<5000])))
            try await store.append([1, 2, 3], checks: [check]) { #expect($0 == 1) }
            #expect(try await store.append([]) == 2)
            #expect(store.appliedSequence == 2)
        }
        #expect(finished)
        node.restart()
        let again = node.run {
            let store = try await node.openStore()
            let records = try await store.replayed()
            #expect(records.map(\.0) == [1, 2])
            #expect(records.map(\.1) == [[1, 2, 3], []])
            let extent = BlockExtent(start: 0, count: 2)
            try store.allocator.markUsed(extent)
            let buffer = IOBuffer(count: 4096)
            try await store.read(into: buffer.bytes, from: [extent], firstBlock: 1)
            #expect(buffer.array(0..<4096).allSatisfy { $0 == 7 })
            #expect(try await store.append([9]) == 3)
            await store.close()
        }
        #expect(again)
    }
}

/// Logs that are longer than what is read of them at once.
@Suite struct LongLogTests {
    /// Groups of all sizes, so that they begin and end anywhere in what is read.
    @Test func everyRecordComesBack() {
        let node = SimulatedNode(seed: 4, blocks: 3000)
        var written: [[UInt8]] = []
        let finished = node.run {
            try await node.format(logBlocks: 2600)
            let store = try await node.openStore()
            _ = try await store.replayed()
            var entropy = Entropy(seed: 4)
            var total = 0
            while total < 9 << 20 {
                let most: UInt64 = entropy.chance(1, in: 4) ? 900_000 : 20_000
                let record = [UInt8](
                    repeating: UInt8(entropy.below(256)), count: Int(entropy.below(most)))
                _ = try await store.append(record)
                written.append(record)
                total += record.count + 4096
            }
        }
        #expect(finished)
        node.restart()
        let again = node.run {
            let store = try await node.openStore()
            let records = try await store.replayed()
            #expect(records.map(\.0) == Array(1...UInt64(written.count)))
            #expect(records.map(\.1) == written)
            await store.close()
        }
        #expect(again)
    }

    @Test func severalReadsAreUnderWayAtOnce() {
        var faults = DeviceFaults()
        faults.latencyMin = .milliseconds(1)
        faults.latencyMax = .milliseconds(1)
        let node = SimulatedNode(seed: 5, blocks: 2200, faults: faults)
        let finished = node.run {
            try await node.format(logBlocks: 2048)
            let start = node.xstream.now
            let store = try await node.openStore()
            // Two superblocks, and a log of 8 MiB: one MiB after the other takes eight.
            #expect(node.xstream.now.since(start) < .milliseconds(6))
            await store.close()
        }
        #expect(finished)
    }
}

/// Records that are appended while their blocks are being written.
@Suite struct RecordBesideWriteTests {
    private func check(_ extent: BlockExtent, _ data: IOBuffer) -> BlockCheck {
        BlockCheck(
            extent: extent, byteCount: data.count,
            checksum: CRC32C.checksum(of: UnsafeRawBufferPointer(data.bytes)))
    }

    /// The write ends long after the record is in the log: nothing is durable before.
    @Test(arguments: [false, true]) func waitsForTheWrite(isKilled: Bool) {
        var faults = DeviceFaults()
        faults.crashOutcome = .keep
        let node = SimulatedNode(seed: 3, faults: faults)
        let data = Ledger.pattern(7, blocks: 3)
        let finished = node.run {
            try await node.format()
            let store = try await node.openStore()
            _ = try await store.replayed()
            let extent = try store.allocator.reserve(blocks: 3)[0]
            let writing = Gather<BIOError?>(count: 1)
            var isApplied = false
            node.xstream.spawn {
                do {
                    try await store.append(
                        [1], checks: [check(extent, data)], writing: writing
                    ) { _ in isApplied = true }
                    #expect(isApplied)
                } catch { Issue.record("\(error)") }
            }
            await node.xstream.sleep(for: .seconds(1))
            #expect(!isApplied && !store.isLogQuiet)
            if isKilled { return }
            try await store.write(
                UnsafeRawBufferPointer(data.bytes), to: [extent], durable: true)
            writing.finish(0, with: nil)
            #expect(try await store.append([2]) == 2)
            #expect(isApplied && store.isLogQuiet)
        }
        #expect(finished)
        node.restart()
        let again = node.run {
            // The record is there, and what it says of the blocks is not so.
            let records = try await node.openStore().replayed()
            #expect(records.map(\.1) == (isKilled ? [] : [[1], [2]]))
        }
        #expect(again)
    }

    @Test func aFailedWriteFailsTheRecord() {
        let node = SimulatedNode(seed: 4)
        node.run {
            try await node.format()
            let store = try await node.openStore()
            _ = try await store.replayed()
            let extent = try store.allocator.reserve(blocks: 1)[0]
            let writing = Gather<BIOError?>(count: 1)
            let failure = BIOError.failed(path: "disk", offset: 0, code: 5, message: "no")
            writing.finish(0, with: failure)
            await #expect(throws: failure) {
                try await store.append(
                    [1], checks: [check(extent, Ledger.pattern(1, blocks: 1))], writing: writing
                ) { _ in Issue.record("applied") }
            }
            #expect(store.isOutOfService)
        }
    }
}

/// Opening, filling and failing.
@Suite struct BlockStoreTests {
    private func expectError(
        _ expected: (BIOError) -> Bool, _ body: () async throws -> Void,
        line: Int = #line
    ) async {
        do {
            try await body()
            Issue.record("line \(line): no error")
        } catch {
            let matches = (error as? BIOError).map(expected) ?? false
            #expect(matches, "line \(line): \(error)")
        }
    }

    @Test func theLogWrapsAndFillsAndIsFreed() {
        let node = SimulatedNode(seed: 3)
        var expected: [[UInt8]] = []
        let finished = node.run {
            try await node.format(logBlocks: 16)
            let store = try await node.openStore()
            _ = try await store.replayed()
            #expect(store.logSize == 65536 && store.logUsed == 0)
            var entropy = Entropy(seed: 1)
            var total = 0
            for round in 0..<30 {
                expected = []
                while true {
                    let record = [UInt8](
                        repeating: UInt8(truncatingIfNeeded: total),
                        count: Int(entropy.below(UInt64(store.recordBytesMax))))
                    do throws(BIOError) {
                        _ = try await store.append(record)
                    } catch {
                        guard case .full = error else { throw error }
                        break
                    }
                    total += 1
                    expected.append(record)
                }
                #expect(store.logUsed > store.logSize / 3)
                if round == 29 { break }
                let root = CheckpointRoot(
                    extents: try store.allocator.reserve(blocks: 1, privileged: true),
                    byteCount: 0, checksum: 0, logSequence: store.appliedSequence)
                try await store.publishCheckpoint(root)
                #expect(store.logUsed == 0)
                #expect(store.allocator.usedBlocks == 1)
            }
            await self.expectError({ if case .outOfRange = $0 { true } else { false } }) {
                _ = try await store.append(
                    [UInt8](repeating: 0, count: store.recordBytesMax + 1))
            }
        }
        #expect(finished)
        node.restart()
        node.run {
            let store = try await node.openStore()
            let records = try await store.replayed()
            #expect(records.map(\.1) == expected)
            #expect(store.allocator.usedBlocks == 1)
        }
    }

    /// A crash while a checkpoint is published leaves a superblock, also where one copy was damaged
    /// since the store was opened.
    @Test(arguments: [0, 1] as [UInt64]) func aCheckpointIsCutShort(damaged: UInt64) {
        var faults = DeviceFaults()
        faults.crashOutcome = .tear
        var published = 0
        for seed in 0..<8 as Range<UInt64> {
            for boundary in 0..<8 {
                let node = SimulatedNode(seed: seed, faults: faults)
                let finished = node.run {
                    try await node.format(logBlocks: 16)
                    let store = try await node.openStore()
                    _ = try await store.replayed()
                    _ = try await store.append([1])
                    node.store.damage(path: SimulatedNode.path, at: damaged * 4096 + 100)
                    let root = CheckpointRoot(
                        extents: try store.allocator.reserve(blocks: 1, privileged: true),
                        byteCount: 0, checksum: 0, logSequence: store.appliedSequence)
                    node.store.crash(atBoundary: boundary)
                    try await store.publishCheckpoint(root)
                }
                node.restart()
                node.store.crash(atBoundary: nil)
                node.run {
                    let store = try await node.openStore()
                    let records = try await store.replayed()
                    let isPublished = store.checkpoint != nil
                    #expect(records.map(\.1) == (isPublished ? [] : [[1]]))
                    #expect(isPublished || !finished)
                    if isPublished { published += 1 }
                    await store.close()
                }
            }
        }
        #expect(published > 0 && published < 64)
    }

    @Test func concurrentAppendsShareFlushes() {
        let node = SimulatedNode(seed: 4)
        node.run {
            try await node.format(logBlocks: 64)
            let store = try await node.openStore()
            _ = try await store.replayed()
            var order: [UInt64] = []
            var done = 0
            node.store.crash(atBoundary: nil)
            for number in 0..<200 {
                node.xstream.spawn {
                    do {
                        try await store.append([UInt8(number)], checks: []) { order.append($0) }
                    } catch { Issue.record("\(error)") }
                    done += 1
                }
            }
            while done < 200 { await node.xstream.sleep(for: .milliseconds(1)) }
            #expect(order == Array(1...200))
            // One group for the first, one for all that came while it was written.
            #expect(node.store.boundaryCount <= 8)
        }
    }

    @Test func aFailedFlushTakesTheStoreOutOfService() {
        let node = SimulatedNode(seed: 5)
        node.run {
            try await node.format()
            let store = try await node.openStore()
            _ = try await store.replayed()
            let data = Ledger.pattern(1, blocks: 1)
            let extents = try store.allocator.reserve(blocks: 1)
            try await store.write(UnsafeRawBufferPointer(data.bytes), to: extents)
            var faults = DeviceFaults()
            faults.flushErrorChance = 1_000_000
            node.store.setFaults(faults)
            let check = BlockCheck(extent: extents[0], byteCount: 0, checksum: 0)
            await self.expectError({ if case .failed(_, _, 5, _) = $0 { true } else { false } }) {
                try await store.append([1], checks: [check]) { _ in
                    Issue.record("applied without a flush")
                }
            }
            node.store.setFaults(DeviceFaults())
            #expect(store.isOutOfService)
            let out = BIOError.outOfService(path: SimulatedNode.path)
            await self.expectError({ $0 == out }) { _ = try await store.append([2]) }
            await self.expectError({ $0 == out }) {
                try await store.write(UnsafeRawBufferPointer(data.bytes), to: extents)
            }
            await self.expectError({ $0 == out }) {
                try await store.publishCheckpoint(
                    CheckpointRoot(extents: [], byteCount: 0, checksum: 0, logSequence: 0))
            }
            #expect(node.store.faultCounts(path: SimulatedNode.path).flushErrors == 1)
            await store.close()
        }
    }

    @Test func openRefusesWhatIsNotOurs() {
        let node = SimulatedNode(seed: 6)
        let path = SimulatedNode.path
        node.run {
            let foreign: (BIOError) -> Bool = { if case .foreign = $0 { true } else { false } }
            let mismatch: (BIOError) -> Bool = { if case .mismatch = $0 { true } else { false } }
            let corrupt: (BIOError) -> Bool = { if case .corrupt = $0 { true } else { false } }
            let range: (BIOError) -> Bool = { if case .outOfRange = $0 { true } else { false } }
            await self.expectError({ $0 == .missing(path: "none") }) {
                _ = try node.store.open(path: "none", on: node.xstream)
            }
            await self.expectError(foreign) { try node.store.create(path: path, size: 4096) }
            await self.expectError(foreign) { _ = try await node.openStore() }
            try await node.format()
            await self.expectError(foreign) { try await node.format() }
            try await node.format(overwrite: true)
            let device = try node.openDevice()
            let size = device.size
            var other = SimulatedNode.identity
            other.target += 1
            await self.expectError(mismatch) {
                _ = try await BlockStore.open(
                    device, partition: 0..<size, identity: other, on: node.xstream)
            }
            await self.expectError(mismatch) {
                _ = try await BlockStore.open(
                    device, partition: 0..<size - 4096, identity: nil, on: node.xstream)
            }
            for bounds in [0..<size + 4096, 1..<size, 4096..<4096] as [Range<UInt64>] {
                await self.expectError(range) {
                    _ = try await BlockStore.open(
                        device, partition: bounds, identity: nil, on: node.xstream)
                }
            }
            for logSize in [0, 4096, 65537, size - 8192, size] as [UInt64] {
                await self.expectError(range) {
                    try await BlockStore.format(
                        device, partition: 0..<size, identity: other, logSize: logSize,
                        overwrite: true)
                }
            }
            // The refused formats have changed nothing.
            let store = try await node.openStore()
            #expect(store.identity == SimulatedNode.identity)
            // Both superblocks damaged.
            node.store.damage(path: path, at: 100)
            _ = try await node.openStore()
            node.store.damage(path: path, at: 100)
            node.store.damage(path: path, at: 4096 + 3000)
            await self.expectError(corrupt) { _ = try await node.openStore() }
        }
        // Another process while this one lives.
        let intruder = node.simulation.world(node: 2).makeXStream(name: "intruder")
        var busy = false
        intruder.simulate {
            do {
                _ = try node.store.open(path: path, on: intruder)
            } catch { busy = error as? BIOError == .busy(path: path) }
        }
        node.simulation.run(for: .seconds(1), until: { busy })
        #expect(busy)
    }

    @Test func foreignDataIsNotOverwritten() {
        for place in [0, 4000, 70_000, 256 * 4096 - 1] as [UInt64] {
            let node = SimulatedNode(seed: place)
            node.store.damage(path: SimulatedNode.path, at: place, mask: 0x80)
            node.run {
                await self.expectError({ if case .foreign = $0 { true } else { false } }) {
                    try await node.format()
                }
                let buffer = IOBuffer(count: 4096)
                let device = try node.openDevice()
                try await device.read(into: buffer.bytes, at: place / 4096 * 4096)
                #expect(buffer.bytes[Int(place % 4096)] == 0x80)
            }
        }
    }

    @Test func sequencesRepeat() {
        func hash() -> UInt64 {
            let node = SimulatedNode(seed: 99)
            let ledger = Ledger()
            node.run {
                try await node.format()
                try await ledger.recover(try await node.openStore())
                for number in 0..<20 {
                    try await ledger.update(cell: UInt8(number % 6), blocks: 1, padding: 7)
                }
            }
            return node.simulation.eventHash
        }
        #expect(hash() == hash())
    }
}
