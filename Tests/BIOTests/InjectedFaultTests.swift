import BIO
import DrayRuntime
import Glibc
import Testing

/// Faults of a `FaultTable` on the way to the device.
@Suite struct InjectedFaultTests {
    private static func set(_ store: BlockStore, _ rules: String...) throws {
        let table = FaultTable(entropy: Entropy(seed: 1))
        table.set(try rules.map { try FaultRule(parsing: $0) })
        store.faults = table
    }

    /// The errno that `body` fails with; nil when it does not, or not with one.
    private static func code(_ body: () async throws(BIOError) -> Void) async -> Int32? {
        do throws(BIOError) {
            try await body()
            return nil
        } catch {
            guard case .failed(_, _, let code, let message) = error else { return nil }
            #expect(message.hasSuffix("(injected)"))
            return code
        }
    }

    @Test(arguments: [
        ("bio.read", EIO), ("bio.read,error=io", EIO), ("bio.read,error=timed-out", ETIMEDOUT),
        ("bio.write", EIO), ("bio.write,error=no-space", ENOSPC),
        ("bio.write,error=timed-out", ETIMEDOUT),
    ])
    func theDeviceFailsAsTheRuleSays(rule: String, code: Int32) {
        let node = SimulatedNode(seed: 1)
        let finished = node.run {
            try await node.format()
            let store = try await node.openStore()
            _ = try await store.replayed()
            let extents = try store.allocator.reserve(blocks: 2)
            let data = Ledger.pattern(7, blocks: 2)
            let bytes = UnsafeRawBufferPointer(data.bytes)
            try await store.write(bytes, to: extents)
            try Self.set(store, rule)
            let back = IOBuffer(count: data.count)
            let isRead = rule.hasPrefix("bio.read")
            let read = await Self.code { () throws(BIOError) in
                try await store.read(into: back.bytes, from: extents)
            }
            #expect(read == (isRead ? code : nil))
            let written = await Self.code { () throws(BIOError) in
                try await store.write(bytes, to: extents)
            }
            #expect(written == (isRead ? nil : code))
            // What is on a device after a failed write nobody knows.
            #expect(store.isOutOfService == !isRead)
            await store.close()
        }
        #expect(finished)
    }
}
