import CSharedMemory
import DrayRuntime
import DrayTestSupport
import Glibc
import Testing

@testable import DrayFabric

/// The parts of shared memory: each against a model, and against a peer that keeps to no rule.
@Suite struct SharedMemoryTests {
    /// New memory, as a descriptor that `body` may map.
    private func withMemory<Result>(
        _ size: Int, _ body: (Int32) throws -> Result
    ) rethrows -> Result {
        let memory = dray_shm_make(size)
        precondition(memory >= 0)
        defer { dray_shm_close(memory) }
        return try body(memory)
    }

    // MARK: - Rings

    /// What is written is read, in order, whatever the sizes, at whatever pace.
    @Test(arguments: 1...8) func aRingIsAQueue(seed: UInt64) {
        withMemory(SharedRing.fileSize) { memory in
            var writer = SharedRingWriter(memory)!
            var reader = SharedRingReader(memory)!
            var entropy = Entropy(seed: seed)
            var queue: [(length: Int, first: UInt8)] = []
            var (sent, refused) = (0, 0)
            let bytes = UnsafeMutableRawBufferPointer.allocate(
                byteCount: SharedRing.messageSizeMax, alignment: 64)
            defer { bytes.deallocate() }
            for index in bytes.indices { bytes[index] = UInt8(truncatingIfNeeded: index &* 31) }
            for _ in 0..<20_000 {
                if entropy.below(2) == 0 {
                    let largest = [64, 200, 5_000, SharedRing.messageSizeMax + 1]
                    let length = Int(entropy.below(UInt64(largest[Int(entropy.below(4))])))
                    if length > 0 { bytes[0] = UInt8(truncatingIfNeeded: sent) }
                    if writer.write(UnsafeRawBufferPointer(rebasing: bytes[..<length])) {
                        queue.append((length, UInt8(truncatingIfNeeded: sent)))
                        sent += 1
                    } else {
                        refused += 1
                        #expect(!queue.isEmpty, "an empty ring takes any message")
                    }
                } else {
                    let isFilled = reader.isFilled
                    #expect(isFilled == !queue.isEmpty)
                    switch reader.next() {
                    case .nothing: #expect(queue.isEmpty)
                    case .broken: Issue.record("broken")
                    case .message(let message):
                        let expected = queue.removeFirst()
                        #expect(message.count == expected.length)
                        #expect(message.isEmpty || message[0] == expected.first)
                        if message.count > 1 {
                            let isEqual =
                                memcmp(
                                    message.baseAddress! + 1, bytes.baseAddress! + 1,
                                    message.count - 1) == 0
                            #expect(isEqual)
                        }
                        reader.consume()
                    }
                }
            }
            #expect(sent > 5_000 && refused > 100)
        }
    }

    /// A sender may write anything anywhere at any time: what is read stays within the ring.
    @Test func anyBytesMakeARing() {
        var entropy = Entropy(seed: 3)
        var kinds = [0, 0, 0]
        let copy = UnsafeMutableRawBufferPointer.allocate(
            byteCount: SharedRing.messageSizeMax, alignment: 64)
        defer { copy.deallocate() }
        for _ in 0..<200 {
            withMemory(SharedRing.fileSize) { memory in
                let start = dray_shm_map(memory, SharedRing.fileSize, 1)!
                defer { dray_shm_unmap(start, SharedRing.fileSize) }
                var reader = SharedRingReader(memory)!
                var position = 0
                for _ in 0..<200 {
                    var head = entropy.below(2) == 0 ? entropy.next() : entropy.below(1 << 18)
                    if entropy.below(2) == 0 { head |= SharedRing.isThere }
                    // Mostly where the reader looks next.
                    let line = entropy.below(4) == 0 ? Int(entropy.below(4096)) * 64 : position
                    let place = SharedRing.headSize + line % SharedRing.size
                    start.storeBytes(of: head, toByteOffset: place, as: UInt64.self)
                    switch reader.next() {
                    case .nothing: kinds[0] += 1
                    case .broken: kinds[1] += 1
                    case .message(let message):
                        kinds[2] += 1
                        #expect(message.count <= SharedRing.messageSizeMax)
                        copy.copyMemory(from: message)
                        position += SharedRing.room(for: message.count)
                        reader.consume()
                    }
                }
            }
        }
        #expect(kinds.allSatisfy { $0 > 100 }, "\(kinds)")
    }

    /// A receiver that says that it has read what was not written, or less than before, gets no
    /// more; and never makes the sender write over what it may read.
    @Test(arguments: [1, 1 << 20, UInt64.max, UInt64.max / 2])
    func aReceiverMayLie(position: UInt64) {
        withMemory(SharedRing.fileSize) { memory in
            let start = dray_shm_map(memory, SharedRing.fileSize, 1)!
            defer { dray_shm_unmap(start, SharedRing.fileSize) }
            var writer = SharedRingWriter(memory)!
            let bytes = [UInt8](repeating: 1, count: 1000)
            start.storeBytes(of: position, as: UInt64.self)
            var written = 0
            for _ in 0..<2_000 where bytes.withUnsafeBytes({ writer.write($0) }) { written += 1 }
            #expect(written <= SharedRing.size / SharedRing.room(for: 1000) + 1)
        }
    }

    /// Memory that its maker could make smaller, or that has another size, is not mapped.
    @Test func unsoundMemoryIsRefused() {
        func isMapped(_ descriptor: Int32) -> [Bool] {
            [
                SharedRingReader(descriptor) != nil, SharedInbox(descriptor) != nil,
                PeerSharedRegions(descriptor) != nil,
            ]
        }
        let sizes = [SharedRing.fileSize, SharedInbox.fileSize, SharedRegions.fileSize]
        for (index, size) in sizes.enumerated() {
            withMemory(size) { memory in
                #expect(isMapped(memory) == (0..<3).map { $0 == index })
            }
            withMemory(size - 1) { #expect(!isMapped($0).contains(true)) }
            let name = "/dray-test-\(getpid())"
            let open = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0o600)
            defer { close(open) }
            #expect(shm_unlink(name) == 0 && ftruncate(open, size) == 0)
            #expect(!isMapped(open).contains(true))
        }
        #expect(!isMapped(-1).contains(true))
    }

    // MARK: - Regions

    /// Beside a dictionary, with keys that want the same places.
    @Test func regionsAreFoundByTheirKeysOnly() {
        withMemory(SharedRegions.fileSize) { memory in
            let own = OwnSharedRegions(memory)!
            let peer = PeerSharedRegions(memory)!
            var entropy = Entropy(seed: 9)
            let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: 8192, alignment: 64)
            defer { bytes.deallocate() }
            let base = UInt64(UInt(bitPattern: bytes.baseAddress))
            var known: [UInt64: (handle: UInt, range: Range<Int>, access: MemoryAccess)] = [:]
            var full = 0
            for _ in 0..<20_000 {
                // The lowest bits are few.
                let key = entropy.below(4) << 20 | entropy.below(16) | 1 << 40
                if let old = known[key] {
                    let (start, end) = (old.range.lowerBound, old.range.upperBound)
                    let first = Int(entropy.below(8192)), count = 1 + Int(entropy.below(4096))
                    let access = MemoryAccess(rawValue: 1 + UInt8(entropy.below(2)))
                    let allowed = peer.allows(
                        RemoteMemory(address: base + UInt64(first), key: key), count: count, access)
                    let isInside = first >= start && first + count <= end
                    #expect(allowed == (isInside && old.access.contains(access)))
                    if entropy.below(2) == 0 {
                        own.remove(old.handle)
                        known[key] = nil
                    }
                } else {
                    let unknown = RemoteMemory(address: base, key: key)
                    let isKnown = peer.allows(unknown, count: 1, .remoteRead)
                    #expect(!isKnown)
                    let start = Int(entropy.below(4096)), count = 1 + Int(entropy.below(4096))
                    let access = MemoryAccess(rawValue: UInt8(1 + entropy.below(3)))
                    let slice = UnsafeMutableRawBufferPointer(
                        rebasing: bytes[start..<start + count])
                    if let handle = own.add(slice, key: key, access: access) {
                        known[key] = (handle, start..<start + count, access)
                    } else {
                        full += 1
                    }
                }
            }
            #expect(full > 0, "the places of a key never ran out")
            let overflow = RemoteMemory(address: .max, key: known.keys.first!)
            let none = RemoteMemory(address: base, key: 0)
            for remote in [overflow, none] {
                let isKnown = peer.allows(remote, count: 2, .remoteRead)
                #expect(!isKnown)
            }
        }
    }

    // MARK: - Endpoints

    /// Whoever connects and says nothing, nonsense, or hands over what is no ring costs nothing
    /// that stays, and nobody else a message.
    @Test func strangersAreTurnedAway() async throws {
        try await withFabric(.sharedMemory) { rig in
            let (client, server) = try rig.makePair()
            let name = String(decoding: server.endpoint.address.bytes, as: UTF8.self)
            try await self.exchange(client, server)
            let before = Self.descriptors()
            for round in 0..<200 {
                let socket = dray_shm_connect(name)
                #expect(socket >= 0)
                switch round % 4 {
                case 0: break
                case 1: _ = SharedGreeting(number: 0).send(over: socket, [socket, socket, socket])
                case 2: _ = SharedGreeting(number: 0).send(over: socket, [socket])
                default: #expect(write(socket, "nonsense", 8) == 8)
                }
                if round % 8 < 4 { await rig.run(for: .microseconds(100)) }
                dray_shm_close(socket)
                if round % 16 == 0 { try await self.exchange(client, server) }
            }
            await rig.run(for: .milliseconds(5))
            try await self.exchange(client, server)
            #expect(Self.descriptors() <= before)
        }
    }

    /// A sender whose ring makes no sense is heard no more; others are.
    @Test func aBrokenRingIsDropped() async throws {
        try await withFabric(.sharedMemory) { rig in
            let (client, server) = try rig.makePair()
            try await self.exchange(client, server)
            let name = String(decoding: server.endpoint.address.bytes, as: UTF8.self)
            let memory = dray_shm_make(SharedRing.fileSize)
            let start = dray_shm_map(memory, SharedRing.fileSize, 1)!
            defer { dray_shm_unmap(start, SharedRing.fileSize) }
            let socket = dray_shm_connect(name)
            defer { dray_shm_close(socket) }
            #expect(SharedGreeting(number: 0).send(over: socket, [memory]))
            dray_shm_close(memory)
            var answer = SharedGreeting.Received.nothing
            try await rig.wait(for: "an answer") {
                answer = SharedGreeting.receive(over: socket, count: 3)
                if case .greeting = answer { return true }
                return false
            }
            guard case .greeting(let greeting, let descriptors) = answer else { return }
            defer { for descriptor in descriptors { dray_shm_close(descriptor) } }
            let inbox = SharedInbox(descriptors[0])!
            try server.postReceive(0, 64, token: 8)
            start.storeBytes(of: 77, toByteOffset: SharedRing.headSize, as: UInt64.self)
            // It may also name rings that are not there.
            for ring in [Int(greeting.number), 63, 64, 1023] { inbox.mark(ring) }
            try await rig.wait(for: "the end of the connection") {
                if case .end = SharedGreeting.receive(over: socket, count: 3) { return true }
                return false
            }
            #expect(server.completions.isEmpty)
            try await client.send(0, 64, token: 9)
            try await server.completion(8)
        }
    }

    /// Endpoints come and go: nothing of them stays with those that they talked to.
    @Test func endpointsComeAndGo() async throws {
        try await withFabric(.sharedMemory, limit: .seconds(60)) { rig in
            let server = try rig.makeNode()
            var before = 0
            for round in 0..<300 {
                let client = try rig.makeNode(memorySize: 4096)
                client.peer = try client.endpoint.insert(server.endpoint.address)
                try await self.exchange(client, server)
                // What it has sent last is read, though it is gone.
                try server.postReceive(0, 64, token: 3)
                try await client.send(0, 64, token: 4)
                client.close()
                try await server.completion(3)
                if round == 50 { before = Self.descriptors() }
            }
            await rig.run(for: .milliseconds(5))
            #expect(Self.descriptors() <= before)
        }
    }

    private func exchange(_ client: Node, _ server: Node) async throws {
        try server.postReceive(0, 64, token: 1)
        try await client.send(0, 64, token: 2)
        try await server.completion(1)
        try await client.completion(2)
    }

    /// How many descriptors this process has open.
    private static func descriptors() -> Int {
        (0..<1024).count { fcntl(Int32($0), F_GETFD) >= 0 }
    }
}
