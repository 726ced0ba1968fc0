import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

/// What every fabric must do with remote reads and writes.
@Suite(.serialized) struct RemoteMemoryTests {
    static let sizes = [1, 8, 64, 1000, 4096, 65_537, 300_000]

    @Test(arguments: FabricKind.allCases) func reads(kind: FabricKind) async throws {
        try await withFabric(kind) { rig in
            let (client, server) = try rig.makePair()
            for (index, size) in Self.sizes.enumerated() {
                server.fill(777, size, seed: UInt8(index))
                client.fill(0, size, seed: 99)
                var remote = server.remote
                remote.address += 777
                try await client.read(0, size, remote: remote, token: UInt64(index))
                let done = try await client.completion(UInt64(index))
                #expect(done.kind == .read)
                #expect(done.error == nil)
                #expect(client.holds(0, size, seed: UInt8(index)), "size \(size)")
            }
            #expect(server.completions.isEmpty)
        }
    }

    @Test(arguments: FabricKind.allCases) func writes(kind: FabricKind) async throws {
        try await withFabric(kind) { rig in
            let (client, server) = try rig.makePair()
            for (index, size) in Self.sizes.enumerated() {
                client.fill(100, size, seed: UInt8(index))
                server.fill(5000, size + 1, seed: 99)
                var remote = server.remote
                remote.address += 5000
                try await client.write(100, size, remote: remote, token: UInt64(index))
                let done = try await client.completion(UInt64(index))
                #expect(done.kind == .written)
                #expect(done.error == nil)
                // The completion says that the bytes are there: no waiting.
                #expect(server.holds(5000, size, seed: UInt8(index)), "size \(size)")
                #expect(
                    server.memory.bytes[5000 + size] == UInt8(truncatingIfNeeded: size &* 7) &+ 99)
            }
            #expect(server.completions.isEmpty)
        }
    }

    @Test(arguments: FabricKind.allCases) func manyAtOnce(kind: FabricKind) async throws {
        try await withFabric(kind) { rig in
            let (client, server) = try rig.makePair()
            let (count, size) = (64, 16_384)
            server.fill(0, count * size, seed: 1)
            for index in 0..<count {
                var remote = server.remote
                remote.address += UInt64(index * size)
                try await client.read(index * size, size, remote: remote, token: UInt64(index))
            }
            try await rig.wait(for: "reads") { client.completions.count == count }
            #expect(client.completions.allSatisfy { $0.error == nil && $0.kind == .read })
            #expect(client.holds(0, count * size, seed: 1))
        }
    }

    enum Wrong: String, CaseIterable {
        case key, bounds, start, access
    }

    /// A wrong key, range or access touches nothing. TCP providers break the connection, and the
    /// endpoints go on. Shared memory never reports the operation, and both endpoints may stall.
    @Test(arguments: FabricKind.allCases, Wrong.allCases)
    func wrong(kind: FabricKind, what: Wrong) async throws {
        try await withFabric(kind) { rig in
            let (client, server) = try rig.makePair()
            server.fill(0, 8192, seed: 1)
            client.fill(0, 8192, seed: 2)
            let second = try server.expose(
                4096, 4096, access: what == .access ? .remoteRead : .remoteWrite)
            var remote = second.remote
            switch what {
            case .key: remote.key ^= 0x5555
            case .bounds: remote.address += 4096 - 63
            case .start: remote.address &-= 1
            case .access: break
            }
            try await client.write(0, 64, remote: remote, token: 1)
            try await client.expectRefusal(1, kind: .written)
            #expect(server.holds(0, 8192, seed: 1))
            // A right one afterwards.
            guard kind != .libfabricSharedMemory else { return }
            var isDone = false
            for token in 10..<30 where !isDone {
                try await client.read(0, 64, remote: server.remote, token: UInt64(token))
                isDone = try await client.completion(UInt64(token)).error == nil
                await rig.run(for: .milliseconds(5))
            }
            #expect(isDone)
            #expect(client.holds(0, 64, seed: 1))
        }
    }

    @Test(arguments: FabricKind.allCases) func deregistered(kind: FabricKind) async throws {
        try await withFabric(kind) { rig in
            let (client, server) = try rig.makePair()
            let region = try server.expose(0, 4096, access: [.remoteRead, .remoteWrite])
            let remote = region.remote
            try await client.read(0, 64, remote: remote, token: 1)
            #expect(try await client.completion(1).error == nil)
            server.hide(region)
            server.fill(0, 64, seed: 3)
            try await client.write(0, 64, remote: remote, token: 2)
            try await client.expectRefusal(2, kind: .written)
            #expect(server.holds(0, 64, seed: 3))
        }
    }

    /// Keys come from the world's entropy: they are not small numbers and do not repeat. Those of
    /// RDMA adapters are the adapter's.
    @Test(arguments: FabricKind.allCases) func keysAreNotGuessable(kind: FabricKind) async throws {
        try await withFabric(kind) { rig in
            let node = try rig.makeNode()
            var keys: Set<UInt64> = []
            for _ in 0..<32 {
                let region = try node.endpoint.register(node.slice(0, 64), access: .remoteRead)
                keys.insert(region.key)
                node.endpoint.deregister(region)
            }
            #expect(keys.count == 32)
            if kind != .verbs { #expect(keys.filter { $0 > 1 << 40 }.count > 24) }
        }
    }
}

extension Node {
    /// Sees the operation of `token` end as this fabric ends those with a wrong key.
    func expectRefusal(_ token: UInt64, kind: CompletionKind) async throws {
        switch rig.kind {
        case .sharedMemory, .simulated:
            let done = try await completion(token)
            #expect(done.kind == kind)
            #expect(done.error == .badKey)
        case .tcp, .layeredTCP, .verbs:
            let done = try await completion(token)
            #expect(done.kind == kind)
            guard case .unreachable = done.error else {
                Issue.record("\(String(describing: done.error))")
                return
            }
        case .libfabricSharedMemory:
            await rig.run(for: .milliseconds(30))
            #expect(completions.isEmpty)
        }
    }
}
