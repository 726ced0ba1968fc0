import DrayRuntime
import Glibc
import Testing

@testable import BIO

/// Tests of whatever devices the environment names, of which everything is overwritten:
/// `DRAY_TEST_DEVICES`, paths separated by commas. Without it, of a file in
/// each way that a file can be used.
@Suite(.serialized) struct GivenDeviceTests {
    private static var given: [String] {
        guard let text = getenv("DRAY_TEST_DEVICES") else { return [] }
        return String(cString: text).split(separator: ",").map(String.init)
    }

    static var devices: [String] { given.isEmpty ? modes.keys.sorted() : given }

    private static let modes: [String: RealDeviceStore.Mode] = [
        "a file": .automatic, "a file by threads": .threads, "a mapped file": .memory,
    ]

    /// Runs `body` with the opened device.
    private func with<Result: Sendable>(
        _ path: String,
        _ body: @escaping @Sendable (BlockDevice, RealDeviceStore, XStream) async throws -> Result
    ) async throws -> Result {
        let folder = TemporaryFolder()
        let store = RealDeviceStore(mode: Self.modes[path] ?? .automatic)
        var path = path
        if Self.given.isEmpty {
            path = folder.path + "/disk"
            try store.create(path: path, size: 64 << 20)
        }
        let (opened, xstream) = (path, World.real().makeXStream(name: "bio-test"))
        defer { xstream.stop() }
        return try await xstream.run { () async throws -> Result in
            let device = try store.open(path: opened, on: xstream)
            do {
                let result = try await body(device, store, xstream)
                await device.close()
                return result
            } catch {
                await device.close()
                throw error
            }
        }
    }

    /// Bytes that tell where they belong.
    private static func fill(_ buffer: IOBuffer, _ range: Range<Int>, seed: UInt64) {
        var entropy = Entropy(seed: seed)
        for place in stride(from: range.lowerBound, to: range.upperBound, by: 8) {
            buffer.store(entropy.next(), at: place)
        }
    }

    @Test(arguments: devices)
    func transfersOfAllSizesReadBack(path: String) async throws {
        let wrong = try await with(path) { device, _, _ in
            // The last are more than one command of most controllers.
            let sizes = [4096, 8192, 65536, 131_072, 520_192, 524_288, (3 << 20) + 4096, 8 << 20]
            var wrong: [Int] = []
            var offset: UInt64 = 0
            for (index, size) in sizes.enumerated() {
                let (source, target) = (IOBuffer(count: size), IOBuffer(count: size))
                Self.fill(source, 0..<size, seed: UInt64(size))
                let bytes = UnsafeRawBufferPointer(source.bytes)
                switch index % 3 {
                case 0: try await device.write(bytes, at: offset, durable: false)
                case 1: try await device.write(bytes, at: offset, durable: true)
                default: try await device.writeAndFlush(bytes, at: offset)
                }
                try await device.read(into: target.bytes, at: offset)
                if source.array(0..<size) != target.array(0..<size) { wrong.append(size) }
                offset += UInt64(size)
            }
            try await device.flush()
            // The very end, and what is beyond it.
            let (last, found) = (IOBuffer(count: 8192), IOBuffer(count: 8192))
            Self.fill(last, 0..<8192, seed: 1)
            try await device.write(
                UnsafeRawBufferPointer(last.bytes), at: device.size - 8192, durable: true)
            try await device.read(into: found.bytes, at: device.size - 8192)
            if last.array(0..<8192) != found.array(0..<8192) { wrong.append(-1) }
            for beyond in [device.size - 4096, device.size, .max - 4095] as [UInt64] {
                do throws(BIOError) {
                    try await device.read(into: found.bytes, at: beyond)
                    wrong.append(-2)
                } catch {
                    if case .outOfRange = error { continue }
                    wrong.append(-3)
                }
            }
            if device.statistics.errors != 0 { wrong.append(-4) }
            return wrong
        }
        #expect(wrong.isEmpty)
    }

    @Test(arguments: devices)
    func manyTransfersAtOnceReadBack(path: String) async throws {
        let good = try await with(path) { device, _, xstream in
            let count = 700
            var left = count
            var good = 0
            for index in 0..<count {
                xstream.spawn {
                    let size = index % 7 == 0 ? 65536 : 4096
                    let (source, target) = (IOBuffer(count: size), IOBuffer(count: size))
                    Self.fill(source, 0..<size, seed: UInt64(index + 1))
                    do {
                        let offset = UInt64(index) * 65536
                        try await device.write(
                            UnsafeRawBufferPointer(source.bytes), at: offset,
                            durable: index % 5 == 0)
                        if index % 50 == 0 { try await device.flush() }
                        try await device.read(into: target.bytes, at: offset)
                        if source.array(0..<size) == target.array(0..<size) { good += 1 }
                    } catch { Issue.record("\(error)") }
                    left -= 1
                }
            }
            while left > 0 { await xstream.sleep(for: .milliseconds(1)) }
            return good
        }
        #expect(good == 700)
    }

    @Test(arguments: devices)
    func aDeviceInUseIsBusyForOthers(path: String) async throws {
        let error = try await with(path) { device, _, xstream in
            do throws(BIOError) {
                // As another process: a store with locks of its own.
                let other = try RealDeviceStore().open(path: device.name, on: xstream)
                await other.close()
                return BIOError?.none
            } catch {
                return error
            }
        }
        guard case .busy = error else {
            Issue.record("\(String(describing: error))")
            return
        }
    }

    @Test(arguments: devices)
    func discardedBlocksCanBeWrittenAgain(path: String) async throws {
        let wrong = try await with(path) { device, _, _ in
            let (source, target) = (IOBuffer(count: 1 << 20), IOBuffer(count: 1 << 20))
            Self.fill(source, 0..<1 << 20, seed: 5)
            let bytes = UnsafeRawBufferPointer(source.bytes)
            try await device.write(bytes, at: 0, durable: true)
            try await device.discard(65536..<1 << 19)
            try await device.read(into: target.bytes, at: 0)
            var wrong = 0
            for range in [0..<65536, 1 << 19..<1 << 20]
            where source.array(range) != target.array(range) { wrong += 1 }
            print("\(device.name): discards \(device.canDiscard)")
            try await device.write(bytes, at: 0, durable: true)
            try await device.read(into: target.bytes, at: 0)
            if source.array(0..<1 << 20) != target.array(0..<1 << 20) { wrong += 1 }
            return wrong
        }
        #expect(wrong == 0)
    }

    @Test(arguments: devices)
    func aStoreComesBack(path: String) async throws {
        let recoveries = try await with(path) { device, store, xstream in
            let ledger = Ledger()
            let partition = 0..<device.size / 4096 * 4096
            try await BlockStore.format(
                device, partition: partition, identity: SimulatedNode.identity, logSize: 1 << 20,
                overwrite: true)
            for round in 0..<3 {
                let blocks = try await BlockStore.open(
                    device, partition: partition, identity: SimulatedNode.identity, on: xstream)
                try await ledger.recover(blocks)
                for step in 0..<60 {
                    try await ledger.update(
                        cell: UInt8(step % Ledger.cellCount), blocks: UInt32(1 + step % 40),
                        padding: step * 37)
                    if step % 25 == 24 { try await ledger.checkpoint() }
                }
                if round == 1 { await ledger.close() } else { await blocks.abandon() }
            }
            let isSynchronous = (device as? MemoryDevice)?.isSynchronous
            print("\(device.name): \(type(of: device))", isSynchronous == true ? "MAP_SYNC" : "")
            // What foreign data is guarded against.
            do throws(BIOError) {
                try await BlockStore.format(
                    device, partition: partition, identity: SimulatedNode.identity,
                    logSize: 1 << 20)
                Issue.record("a store was overwritten")
            } catch {
                guard case .foreign = error else { throw error }
            }
            return ledger.recoveries
        }
        #expect(recoveries == 3)
    }
}

/// What a controller answers, as an error that says it.
@Suite struct NVMeStatusTests {
    @Test(arguments: [
        (0x0281, EIO, "NVMe: unrecovered read error (status 0x281)"),
        (0x4281, EIO, "NVMe: unrecovered read error (status 0x281)"),
        (0x0020, EROFS, "NVMe: namespace is write-protected (status 0x20)"),
        (0x0081, ENOSPC, "NVMe: capacity exceeded (status 0x81)"),
        (0x0371, EIO, "NVMe: error of the path to the device (status 0x371)"),
        (-EPERM, EPERM, "Operation not permitted"),
    ])
    func statusesAreErrors(value: Int32, code: Int32, message: String) {
        #expect(
            NVMeStatus(value).error("ng", offset: 4096)
                == .failed(path: "ng", offset: 4096, code: code, message: message))
    }

    @Test func outOfRangeIsTheCallersError() {
        guard case .outOfRange = NVMeStatus(0x4080).error("ng", offset: 0) else {
            Issue.record("a status that says so is no such error")
            return
        }
    }

    @Test func onlyWhatMayPassIsTemporary() {
        for value in [-EINTR, -EAGAIN, 0x0082, 0x0007, 0x0371] as [Int32] {
            #expect(NVMeStatus(value).isTemporary)
        }
        for value in [0, -EIO, 0x4082, 0x4371, 0x0281, 0x0080] as [Int32] {
            #expect(!NVMeStatus(value).isTemporary)
        }
    }
}
