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
