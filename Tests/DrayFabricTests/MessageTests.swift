import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

/// What every fabric must do with messages.
@Suite(.serialized) struct MessageTests {
    @Test(arguments: FabricKind.allCases) func manySizes(kind: FabricKind) async throws {
        try await withFabric(kind) { rig in
            let (client, server) = try rig.makePair()
            let sizes = [0, 1, 7, 64, 128, 1000, 4096, 4097, 16_384, 65_536, 131_072, 262_145]
            for (index, size) in sizes.enumerated() where size <= client.endpoint.messageSizeMax {
                let token = UInt64(index * 2 + 1)
                let seed = UInt8(index + 3)
                client.fill(0, size, seed: seed)
                server.fill(0, size, seed: 0)
                try server.postReceive(0, 1 << 20, token: token)
                try await client.send(0, size, token: token + 1)
                let received = try await server.completion(token)
                #expect(received.kind == .received)
                #expect(received.error == nil)
                #expect(received.length == size)
                #expect(server.holds(0, size, seed: seed), "size \(size)")
                let sent = try await client.completion(token + 1)
                #expect(sent.kind == .sent)
                #expect(sent.error == nil)
                #expect(sent.length == 0)
            }
        }
    }

    @Test(arguments: FabricKind.allCases) func largerThanTheFabricsLimit(
        kind: FabricKind
    ) async throws {
        try await withFabric(kind) { rig in
            let (client, server) = try rig.makePair()
            // Over RDMA no more than goes in one piece.
            #expect(client.endpoint.messageSizeMax >= (kind == .verbs ? 24 << 10 : 128 << 10))
            guard client.endpoint.messageSizeMax < Node.memorySize else { return }
            #expect(throws: FabricError.messageTooLong) {
                try client.trySend(0, client.endpoint.messageSizeMax + 1, token: 1)
            }
            try server.postReceive(0, 64, token: 2)
            try await client.send(0, 64, token: 3)
            try await server.completion(2)
        }
    }

    /// All connected at the same time, half of them by the one and half by themselves.
    @Test(arguments: FabricKind.allCases) func manyPeers(kind: FabricKind) async throws {
        try await withFabric(kind, limit: .seconds(90)) { rig in
            let hub = try rig.makeNode()
            for number in 0..<24 {
                let other = try rig.makeNode(memorySize: 4096)
                other.peer = try other.endpoint.insert(hub.endpoint.address)
                hub.peer = try hub.endpoint.insert(other.endpoint.address)
                let (first, second) = number % 2 == 0 ? (hub, other) : (other, hub)
                try first.postReceive(0, 64, token: 1)
                try second.postReceive(0, 64, token: 2)
                try await first.send(64, 64, token: 3)
                try await second.completion(2)
                try await second.send(64, 64, token: 4)
                let answer = try await first.completion(1)
                #expect(answer.error == nil, "peer \(number)")
                try await first.completion(3)
                try await second.completion(4)
            }
        }
    }

    @Test(arguments: FabricKind.allCases) func manyInFlightBothWays(kind: FabricKind) async throws {
        try await withFabric(kind) { rig in
            let (first, second) = try rig.makePair()
            let (count, size) = (200, 512)
            for index in 0..<count {
                try first.postReceive(index * size, size, token: UInt64(index))
                try second.postReceive(index * size, size, token: UInt64(index))
            }
            let out = count * size
            for index in 0..<count {
                let length = 1 + index * 2
                first.fill(out + index * size, length, seed: UInt8(truncatingIfNeeded: index))
                second.fill(out + index * size, length, seed: UInt8(truncatingIfNeeded: index))
            }
            for index in 0..<count {
                try await first.send(out + index * size, 1 + index * 2, token: 1_000)
                try await second.send(out + index * size, 1 + index * 2, token: 1_000)
            }
            try await rig.wait(for: "all messages") {
                first.completions.count == 2 * count && second.completions.count == 2 * count
            }
            for node in [first, second] {
                #expect(node.completions.allSatisfy { $0.error == nil })
                let received = node.completions.filter { $0.kind == .received }
                #expect(Set(received.map(\.token)).count == count)
                // Every message once, in whatever order.
                #expect(received.map(\.length).sorted() == (0..<count).map { 1 + $0 * 2 })
                for one in received {
                    let index = (one.length - 1) / 2
                    let seed = UInt8(truncatingIfNeeded: index)
                    #expect(node.holds(Int(one.token) * size, one.length, seed: seed))
                }
            }
        }
    }

    /// Sends until the fabric has had enough, then drains: nothing is lost or doubled.
    @Test(arguments: FabricKind.allCases) func tryAgainPressure(kind: FabricKind) async throws {
        try await withFabric(kind) { rig in
            let (client, server) = try rig.makePair()
            let size = 8192
            var refusals = 0
            var sent = 0
            var received = 0
            let total = 3000
            var posted = 0
            var accepted = 0
            // The server does not listen at first.
            while accepted < total {
                do {
                    try client.trySend(0, size, token: 7)
                    accepted += 1
                } catch let error as FabricError {
                    guard error == .tryAgain else { throw error }
                    refusals += 1
                    while posted < received + 64 {
                        try server.postReceive((posted % 64) * size, size, token: 9)
                        posted += 1
                    }
                    client.poll()
                    server.poll()
                    await rig.xstream.yield()
                    received += server.completions.count
                    server.completions = []
                }
                guard rig.xstream.now < rig.deadline else { throw TestTimeOut(waitingFor: "sends") }
            }
            #expect(refusals > 0)
            while received < total || sent < total {
                while posted < received + 64 {
                    try server.postReceive((posted % 64) * size, size, token: 9)
                    posted += 1
                }
                client.poll()
                server.poll()
                await rig.xstream.yield()
                received += server.completions.count
                sent += client.completions.count
                #expect(client.completions.allSatisfy { $0.error == nil })
                server.completions = []
                client.completions = []
                guard rig.xstream.now < rig.deadline else {
                    throw TestTimeOut(waitingFor: "\(total): received \(received), sent \(sent)")
                }
            }
            #expect(received == total)
            #expect(sent == total)
        }
    }

    /// A message waits for its receive, without being lost.
    @Test(arguments: FabricKind.allCases) func messageBeforeReceive(kind: FabricKind) async throws {
        try await withFabric(kind) { rig in
            let (client, server) = try rig.makePair()
            client.fill(0, 300, seed: 5)
            try await client.send(0, 300, token: 1)
            await rig.run(for: .milliseconds(20))
            #expect(server.completions.isEmpty)
            try server.postReceive(0, 300, token: 2)
            let received = try await server.completion(2)
            #expect(received.error == nil)
            #expect(server.holds(0, 300, seed: 5))
        }
    }

    @Test(arguments: FabricKind.allCases) func messageTooLong(kind: FabricKind) async throws {
        try await withFabric(kind) { rig in
            let (client, server) = try rig.makePair()
            try server.postReceive(0, 64, token: 1)
            try await client.send(0, 1000, token: 2)
            let received = try await server.completion(1)
            #expect(received.kind == .received)
            #expect(received.error == .messageTooLong)
            // The endpoint goes on, with a new connection where the old one broke.
            try server.postReceive(64, 1000, token: 3)
            client.fill(0, 1000, seed: 9)
            var answered = false
            for attempt in 0..<20 where !answered {
                try await client.send(0, 1000, token: UInt64(100 + attempt))
                await rig.run(for: .milliseconds(20))
                answered = server.completions.contains { $0.token == 3 }
            }
            #expect(server.completions.first { $0.token == 3 }?.error == nil)
            #expect(answered)
            #expect(server.holds(64, 1000, seed: 9))
        }
    }

    @Test(arguments: FabricKind.allCases) func toOneself(kind: FabricKind) async throws {
        try await withFabric(kind) { rig in
            let node = try rig.makeNode()
            node.peer = try node.endpoint.insert(node.endpoint.address)
            node.fill(0, 100, seed: 1)
            try node.postReceive(4096, 100, token: 1)
            try await node.send(0, 100, token: 2)
            try await node.completion(1)
            try await node.completion(2)
            #expect(node.holds(4096, 100, seed: 1))
        }
    }

    @Test(arguments: FabricKind.allCases) func closeWithOperationsPosted(
        kind: FabricKind
    ) async throws {
        try await withFabric(kind) { rig in
            let (client, server) = try rig.makePair()
            for index in 0..<16 { try server.postReceive(index * 64, 64, token: 1) }
            try await client.send(0, 64, token: 2)
            for _ in 0..<8 {
                // Some of these are under way when both ends close.
                try? client.trySend(0, 1 << 20, token: 3)
                try? client.tryRead(0, 1 << 20, remote: server.remote, token: 4)
            }
            server.close()
            client.close()
            // The fabric still works.
            let (third, fourth) = try rig.makePair()
            try fourth.postReceive(0, 64, token: 5)
            try await third.send(0, 64, token: 6)
            try await fourth.completion(5)
        }
    }

    @Test(arguments: FabricKind.allCases) func severalPeers(kind: FabricKind) async throws {
        try await withFabric(kind) { rig in
            let server = try rig.makeNode()
            for index in 0..<32 { try server.postReceive(index * 64, 64, token: UInt64(index)) }
            var clients: [Node] = []
            for index in 0..<4 {
                let client = try rig.makeNode()
                client.peer = try client.endpoint.insert(server.endpoint.address)
                // Twice is the same as once, but for removal.
                let again = try client.endpoint.insert(server.endpoint.address)
                client.endpoint.remove(client.peer)
                client.peer = again
                client.fill(0, 64, seed: UInt8(index))
                clients.append(client)
            }
            for client in clients { try await client.send(0, 64, token: 100) }
            for client in clients { try await client.completion(100) }
            try await rig.wait(for: "4 messages") { server.completions.count == 4 }
            let seeds = Set(server.completions.map { server.memory.bytes[Int($0.token) * 64] })
            #expect(seeds == [0, 1, 2, 3])
        }
    }
}
