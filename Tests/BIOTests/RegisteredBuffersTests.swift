import DrayRuntime
import Testing

@testable import BIO

@Suite struct RegisteredBuffersTests {
    /// Parts are found whatever the order of the addresses, and nothing that is not all in one.
    @Test func aTransferIsFoundInTheBufferThatHasAllOfIt() throws {
        var table = RegisteredBuffers()
        let whole = IOBuffer(count: 64 << 10)
        let others = (0..<20).map { _ in IOBuffer(count: 4096) }
        var numbers: [Int32] = []
        for buffer in others.prefix(10) + [whole] + others.suffix(10) {
            let number = try #require(table.next(count: buffer.count, sparingly: false))
            table.add(buffer)
            numbers.append(number)
        }
        #expect(numbers == Array(0..<21))
        for (index, buffer) in others.enumerated() {
            let number = table.number(of: buffer.bytes.baseAddress, count: 4096)
            #expect(number == Int32(index < 10 ? index : index + 1))
        }
        let start = try #require(whole.bytes.baseAddress)
        #expect(table.number(of: start, count: 64 << 10) == 10)
        #expect(table.number(of: start + 4096, count: 60 << 10) == 10)
        #expect(table.number(of: start + (60 << 10), count: 4096) == 10)
        let stranger = IOBuffer(count: 4096)
        #expect(table.number(of: stranger.bytes.baseAddress, count: 4096) == -1)
    }

    @Test func whatIsRegisteredSparinglyLeavesRoom() {
        var table = RegisteredBuffers()
        let half = IOBuffer(count: 4 << 20)
        #expect(table.next(count: half.count, sparingly: true) == 0)
        table.add(half)
        #expect(table.next(count: 4 << 20, sparingly: true) == 1)
        #expect(table.next(count: (4 << 20) + 4096, sparingly: true) == nil)
        #expect(table.next(count: (4 << 20) + 4096, sparingly: false) == 1)
        for _ in 1..<RegisteredBuffers.sparingCountMax { table.add(IOBuffer(count: 4096)) }
        #expect(table.next(count: 4096, sparingly: true) == nil)
        #expect(table.next(count: 4096, sparingly: false) != nil)
    }

    /// A refusal of what need not be registered says nothing about the rest.
    @Test func whatTheKernelRefusesIsNotTriedAgain() {
        var table = RegisteredBuffers()
        table.refused(sparingly: true)
        #expect(table.next(count: 4096, sparingly: true) == nil)
        #expect(table.next(count: 4096, sparingly: false) == 0)
        table.refused(sparingly: false)
        #expect(table.next(count: 4096, sparingly: false) == nil)
    }

    /// More than are kept are lent: those that the device has are taken first again, and all kept.
    @Test func registeredMemoryIsUsedFirst() {
        var room = 4
        let buffers = TransferBuffers { _ in
            room -= 1
            return room >= 0
        }
        let taken = (0..<40).map { _ in buffers.take(4096) }
        for buffer in taken { buffers.give(buffer) }
        let again = (0..<40).map { _ in ObjectIdentifier(buffers.take(3000)) }
        #expect(Set(again.prefix(4)) == Set(taken.prefix(4).map { ObjectIdentifier($0) }))
        let large = buffers.take(TransferBuffers.keptBytesMax + 1)
        #expect(large.count > TransferBuffers.keptBytesMax)
        buffers.give(large)
        #expect(buffers.take(TransferBuffers.keptBytesMax + 1) !== large)
    }

    /// A buffer that the ring has is not registered again.
    @Test func aBufferIsRegisteredOnce() async throws {
        let folder = TemporaryFolder()
        let path = folder.path + "/disk"
        let store = RealDeviceStore(mode: .ring)
        try store.create(path: path, size: 1 << 20)
        let xstream = World.real().makeXStream(name: "bio-test")
        defer { xstream.stop() }
        let answers = try await xstream.run { () async throws(BIOError) -> [Bool] in
            let device = try store.open(path: path, on: xstream)
            let buffer = IOBuffer(count: 4096)
            let answers = (0..<300).map { _ in device.register(buffer, sparingly: true) }
            await device.close()
            return answers
        }
        // All, or none where the kernel refuses.
        #expect(Set(answers).count == 1)
    }
}
