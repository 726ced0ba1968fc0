import DrayFabric
import DrayRuntime
import DrayTestSupport
import Glibc
import Testing

/// Endpoints as poll sources of xstreams that block.
@Suite(.serialized) struct IdleTests {
    /// The descriptor of an endpoint that is idle does not become readable, before and after
    /// traffic; and becomes so when a message arrives.
    @Test(arguments: FabricKind.connected) func descriptor(kind: FabricKind) async throws {
        try await withFabric(kind) { rig in
            let (client, server) = try rig.makePair()
            for round in 0..<20 {
                try server.postReceive(0, 64, token: 1)
                try await client.send(0, 64, token: 2)
                try await server.completion(1)
                try await client.completion(2)
                guard round % 10 == 9 else { continue }
                for node in [client, server] {
                    var readiness = node.endpoint.prepareToBlock()
                    for _ in 0..<100 {
                        guard case .busy = readiness else { break }
                        node.poll()
                        readiness = node.endpoint.prepareToBlock()
                    }
                    guard case .descriptor(let descriptor) = readiness else {
                        Issue.record("\(readiness)")
                        return
                    }
                    #expect(!isReadable(descriptor, milliseconds: 50))
                }
            }
            try server.postReceive(0, 64, token: 3)
            guard case .descriptor(let descriptor) = server.endpoint.prepareToBlock() else {
                Issue.record("not ready to block")
                return
            }
            #expect(!isReadable(descriptor, milliseconds: 0))
            try await client.persist("send") { () throws(FabricError) in
                try client.trySend(0, 64, token: 4)
            }
            client.poll()
            #expect(isReadable(descriptor, milliseconds: 5000))
            try await server.completion(3)
        }
    }

    /// An endpoint of shared memory sleeps when nothing has happened for a while, and its bell
    /// wakes it however long a peer has done nothing.
    @Test func theBellOfSharedMemory() async throws {
        try await withFabric(.libfabricSharedMemory) { rig in
            let (client, server) = try rig.makePair()
            for round in 0..<12 {
                try server.postReceive(0, 64, token: 1)
                let bell = try await self.bell(of: server)
                #expect(!isReadable(bell, milliseconds: 0))
                if round % 3 == 0 { usleep(UInt32(round) * 10_000) }
                try await client.persist("send") { () throws(FabricError) in
                    try client.trySend(0, 64, token: 2)
                }
                #expect(isReadable(bell, milliseconds: 1_000), "round \(round)")
                try await server.completion(1)
                try await client.completion(2)
                // Who was rung looks for a while: what comes next need not ring.
                guard case .pause = server.endpoint.prepareToBlock() else {
                    Issue.record("it sleeps at once")
                    return
                }
            }
            // Who waits for something does not sleep.
            let large = 16_384
            try await client.persist("send") { () throws(FabricError) in
                try client.trySend(0, large, token: 3)
            }
            // The other one has nothing to do yet, and sleeps; but it may have to take part in it.
            let bell = try await self.bell(of: server)
            #expect(!isReadable(bell, milliseconds: 0))
            client.poll()
            #expect(isReadable(bell, milliseconds: 1_000))
            guard case .pause = client.endpoint.prepareToBlock() else {
                Issue.record("it sleeps while it sends")
                return
            }
            try server.postReceive(0, large, token: 4)
            try await server.completion(4)
            try await client.completion(3)
        }
    }

    /// Polls until the node would sleep, and gives what wakes it.
    private func bell(of node: Node) async throws -> Int32 {
        for _ in 0..<10_000 {
            node.poll()
            if case .descriptor(let descriptor) = node.endpoint.prepareToBlock() {
                return descriptor
            }
            usleep(1_000)
        }
        throw FabricError.badAddress("it never sleeps")
    }

    private func isReadable(_ descriptor: Int32, milliseconds: Int32) -> Bool {
        var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        return poll(&entry, 1, milliseconds) == 1
    }

    /// Two xstreams that block between messages answer each other; idle, they do not poll.
    @Test(arguments: FabricKind.real) func acrossBlockingXStreams(kind: FabricKind) async throws {
        var world = World.real()
        world.fabric = LibfabricFabric(entropy: world.entropy.fork("fabric"))
        let (here, there) = (world.makeXStream(name: "here"), world.makeXStream(name: "there"))
        defer {
            here.stop()
            there.stop()
        }
        let finished = world
        let server = await there.run { () -> EchoBox in EchoBox(Echo(kind, finished, there)) }
        let address = server.address
        let counts = try await here.run { () async throws -> (Int, Int) in
            let echo = Echo(kind, finished, here)
            let peer = try echo.endpoint.insert(address)
            for _ in 0..<20 {
                try await echo.roundTrip(to: peer)
                await here.sleep(for: .milliseconds(2))
            }
            let before = echo.pollCount
            await here.sleep(for: .milliseconds(300))
            let idlePolls = echo.pollCount - before
            echo.close()
            return (echo.answers, idlePolls)
        }
        #expect(counts.0 == 20)
        // A wake-up or two; over shared memory, growing pauses until it sleeps.
        #expect(counts.1 < 500, "\(counts.1) polls in 300 ms")
        await there.run { server.close() }
    }
}

/// Hands an echo from its xstream to the test and back.
final class EchoBox: @unchecked Sendable {
    private let echo: Echo
    let address: FabricAddress

    init(_ echo: Echo) {
        self.echo = echo
        address = echo.endpoint.address
    }

    func close() { echo.close() }
}

/// Answers messages, and asks.
final class Echo: PollSource {
    let endpoint: Endpoint
    let xstream: XStream
    private let memory = IOBuffer(count: 65_536)
    private let region: RegionBox
    private let scratch = {
        let buffer = UnsafeMutableBufferPointer<Completion>.allocate(capacity: 64)
        buffer.initialize(repeating: Completion(token: 0, kind: .sent))
        return buffer
    }()
    private var peers: [[UInt8]: Peer] = [:]
    private var waiting: CheckedContinuation<Void, Never>?
    private var outgoing: [(peer: Peer, offset: Int, count: Int)] = []
    private var isRetryArmed = false
    private(set) var answers = 0
    private(set) var pollCount = 0

    init(_ kind: FabricKind, _ world: World, _ xstream: XStream) {
        self.xstream = xstream
        endpoint = must { try world.fabric.makeEndpoint(kind.address, on: xstream) }
        let (local, bytes) = (endpoint, memory.bytes)
        region = RegionBox(must { try local.register(bytes, access: []) })
        scratch.initialize(repeating: Completion(token: 0, kind: .sent))
        for index in 0..<16 { must { try postReceive(index) } }
        xstream.addSource(self)
    }

    func close() {
        xstream.removeSource(self)
        endpoint.deregister(region.take())
        endpoint.close()
        scratch.deallocate()
    }

    private func postReceive(_ index: Int) throws {
        try region.use { region throws(FabricError) in
            try endpoint.postReceive(
                UnsafeMutableRawBufferPointer(
                    rebasing: memory.bytes[(index * 512)..<(index * 512 + 512)]),
                in: region, token: UInt64(index))
        }
    }

    func roundTrip(to peer: Peer) async throws {
        let offset = 20_000
        memory.bytes[offset] = 1
        let bytes = endpoint.address.bytes
        for (index, byte) in bytes.enumerated() { memory.bytes[offset + 1 + index] = byte }
        outgoing.append((peer, offset, bytes.count + 1))
        await withCheckedContinuation { continuation in
            waiting = continuation
            flush()
        }
    }

    private func flush() {
        while let first = outgoing.first {
            do throws(FabricError) {
                try region.use { region throws(FabricError) in
                    try endpoint.send(
                        UnsafeRawBufferPointer(
                            rebasing: memory.bytes[first.offset..<(first.offset + first.count)]),
                        in: region, to: first.peer, token: 1 << 40)
                }
                outgoing.removeFirst()
            } catch {
                retryLater()
                return
            }
        }
    }

    /// The connection may come about while the endpoint looks whether it may block: nothing wakes
    /// who was refused, so a timer does.
    private func retryLater() {
        guard !isRetryArmed else { return }
        isRetryArmed = true
        xstream.schedule(at: xstream.now + .milliseconds(1)) { [self] in
            isRetryArmed = false
            flush()
        }
    }

    func poll() -> Int {
        pollCount += 1
        let count = endpoint.poll(into: scratch)
        for index in 0..<count where scratch[index].kind == .received {
            let offset = Int(scratch[index].token) * 512
            if memory.bytes[offset] == 1 {
                let bytes = memory.array((offset + 1)..<(offset + scratch[index].length))
                let provider = endpoint.address.provider
                let peer =
                    peers[bytes]
                    ?? must {
                        try endpoint.insert(FabricAddress(provider: provider, bytes: bytes))
                    }
                peers[bytes] = peer
                memory.bytes[30_000] = 2
                outgoing.append((peer, 30_000, 1))
            } else {
                answers += 1
                waiting?.resume()
                waiting = nil
            }
            must { try postReceive(Int(scratch[index].token)) }
        }
        flush()
        return count
    }

    func prepareToBlock() -> BlockReadiness { endpoint.prepareToBlock() }
}
