import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

/// Runs `body` on an xstream of a world with the fabric of `kind`, for at most `limit`: of real
/// time, or of virtual time.
func withFabric(
    _ kind: FabricKind, seed: UInt64 = 1, limit: Duration = .seconds(20),
    _ body: @escaping @Sendable (Rig) async throws -> Void
) async throws {
    if kind == .simulated {
        let simulation = Simulation(seed: seed)
        let fabric = SimulatedFabric(simulation: simulation)
        var world = simulation.world(node: 1)
        world.fabric = fabric
        let xstream = world.makeXStream(name: "test")
        var result: Result<Void, any Error>?
        xstream.simulate {
            do {
                try await Rig(kind: kind, world: world, xstream: xstream, limit: limit).run(body)
                result = .success(())
            } catch {
                result = .failure(error)
            }
        }
        simulation.run(for: limit + .seconds(1), until: { result != nil })
        guard let result else { throw TestTimeOut(waitingFor: "the end of the simulation") }
        try result.get()
    } else {
        var world = World.real()
        world.fabric = LibfabricFabric(entropy: world.entropy.fork("fabric"))
        let xstream = world.makeXStream(name: "test")
        defer { xstream.stop() }
        let finished = world
        try await xstream.run { () async throws -> Void in
            try await Rig(kind: kind, world: finished, xstream: xstream, limit: limit).run(body)
        }
    }
}

/// The result of what cannot fail in a test.
func must<Value: ~Copyable>(_ body: () throws -> Value) -> Value {
    do {
        return try body()
    } catch {
        preconditionFailure("\(error)")
    }
}

struct TestTimeOut: Error {
    var waitingFor: String
}

/// What a test works with: it makes nodes and lets them all make progress.
final class Rig {
    let kind: FabricKind
    let world: World
    let xstream: XStream
    let deadline: Instant
    private(set) var nodes: [Node] = []

    init(kind: FabricKind, world: World, xstream: XStream, limit: Duration) {
        self.kind = kind
        self.world = world
        self.xstream = xstream
        deadline = xstream.now + limit
    }

    /// Runs a test, and closes the nodes that it leaves: they refer to the rig.
    func run(_ body: @Sendable (Rig) async throws -> Void) async throws {
        defer { for node in nodes { node.close() } }
        try await body(self)
    }

    func makeNode(
        _ address: String? = nil, memorySize: Int = Node.memorySize
    ) throws -> Node {
        let endpoint = try world.fabric.makeEndpoint(address ?? kind.address, on: xstream)
        let node = Node(rig: self, endpoint: endpoint, memorySize: memorySize)
        nodes.append(node)
        return node
    }

    /// Two nodes that know each other.
    func makePair() throws -> (Node, Node) {
        let (first, second) = (try makeNode(), try makeNode())
        first.peer = try first.endpoint.insert(second.endpoint.address)
        second.peer = try second.endpoint.insert(first.endpoint.address)
        return (first, second)
    }

    func forget(_ node: Node) {
        nodes.removeAll { $0 === node }
    }

    /// Polls all nodes until `condition` holds.
    func wait(for what: String, until condition: () -> Bool) async throws {
        while !condition() {
            for node in nodes { node.poll() }
            guard xstream.now < deadline else { throw TestTimeOut(waitingFor: what) }
            await xstream.yield()
        }
    }

    /// Polls all nodes for `duration`.
    func run(for duration: Duration) async {
        let end = xstream.now + duration
        while xstream.now < end {
            for node in nodes { node.poll() }
            await xstream.yield()
        }
    }
}

/// An endpoint with memory and the completions it has seen.
final class Node {
    let rig: Rig
    let endpoint: Endpoint
    let memory: IOBuffer
    private let region: RegionBox
    private let scratch = {
        let buffer = UnsafeMutableBufferPointer<Completion>.allocate(capacity: 64)
        buffer.initialize(repeating: Completion(token: 0, kind: .sent))
        return buffer
    }()
    var completions: [Completion] = []
    var peer = Peer(index: .max)
    private var closed = false
    private var exposed: [RegionBox] = []

    static let memorySize = 4 << 20

    init(rig: Rig, endpoint: Endpoint, memorySize: Int) {
        self.rig = rig
        self.endpoint = endpoint
        memory = IOBuffer(count: memorySize)
        scratch.initialize(repeating: Completion(token: 0, kind: .sent))
        do {
            region = RegionBox(
                try endpoint.register(memory.bytes, access: [.remoteRead, .remoteWrite]))
        } catch {
            preconditionFailure("no memory could be registered: \(error)")
        }
    }

    deinit {
        close()
        scratch.deallocate()
    }

    func close() {
        guard !closed else { return }
        closed = true
        for box in exposed { endpoint.deregister(box.take()) }
        endpoint.deregister(region.take())
        endpoint.close()
        rig.forget(self)
    }

    var remote: RemoteMemory { region.remote }

    /// Registers a part of the memory once more, until `hide` or `close`.
    func expose(_ offset: Int, _ count: Int, access: MemoryAccess) throws -> RegionBox {
        let box = RegionBox(try endpoint.register(slice(offset, count), access: access))
        exposed.append(box)
        return box
    }

    func hide(_ box: RegionBox) {
        exposed.removeAll { $0 === box }
        endpoint.deregister(box.take())
    }

    func poll() {
        guard !closed else { return }
        let count = endpoint.poll(into: scratch)
        for index in 0..<count { completions.append(scratch[index]) }
    }

    func slice(_ offset: Int, _ count: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(rebasing: memory.bytes[offset..<(offset + count)])
    }

    func fill(_ offset: Int, _ count: Int, seed: UInt8) {
        for index in 0..<count {
            memory.bytes[offset + index] = UInt8(truncatingIfNeeded: index &* 7) &+ seed
        }
    }

    func holds(_ offset: Int, _ count: Int, seed: UInt8) -> Bool {
        (0..<count).allSatisfy {
            memory.bytes[offset + $0] == UInt8(truncatingIfNeeded: $0 &* 7) &+ seed
        }
    }

    func postReceive(_ offset: Int, _ count: Int, token: UInt64) throws(FabricError) {
        try region.use { value throws(FabricError) in
            try endpoint.postReceive(slice(offset, count), in: value, token: token)
        }
    }

    func trySend(_ offset: Int, _ count: Int, token: UInt64) throws(FabricError) {
        try region.use { value throws(FabricError) in
            try endpoint.send(
                UnsafeRawBufferPointer(slice(offset, count)), in: value, to: peer, token: token)
        }
    }

    /// Whether a send was posted; false when it must be tried again, or nobody is there.
    func sends(_ offset: Int, _ count: Int, token: UInt64) throws -> Bool {
        do throws(FabricError) {
            try trySend(offset, count, token: token)
            return true
        } catch {
            if case .unreachable = error { return false }
            guard error == .tryAgain else { throw error }
            return false
        }
    }

    func tryRead(
        _ offset: Int, _ count: Int, remote: RemoteMemory, token: UInt64
    ) throws(FabricError) {
        try region.use { value throws(FabricError) in
            try endpoint.read(
                into: slice(offset, count), in: value, from: peer, remote: remote, token: token)
        }
    }

    func tryWrite(
        _ offset: Int, _ count: Int, remote: RemoteMemory, token: UInt64
    ) throws(FabricError) {
        try region.use { value throws(FabricError) in
            try endpoint.write(
                UnsafeRawBufferPointer(slice(offset, count)), in: value, to: peer,
                remote: remote, token: token)
        }
    }

    /// Repeats `post` while it is told to try again.
    func persist(_ what: String, _ post: () throws(FabricError) -> Void) async throws {
        while true {
            do throws(FabricError) {
                return try post()
            } catch {
                guard error == .tryAgain else { throw error }
            }
            var polled = false
            try await rig.wait(for: what) {
                defer { polled = true }
                return polled
            }
        }
    }

    func send(_ offset: Int, _ count: Int, token: UInt64) async throws {
        try await persist("send \(token)") { () throws(FabricError) in
            try trySend(offset, count, token: token)
        }
    }

    func read(_ offset: Int, _ count: Int, remote: RemoteMemory, token: UInt64) async throws {
        try await persist("read \(token)") { () throws(FabricError) in
            try tryRead(offset, count, remote: remote, token: token)
        }
    }

    func write(_ offset: Int, _ count: Int, remote: RemoteMemory, token: UInt64) async throws {
        try await persist("write \(token)") { () throws(FabricError) in
            try tryWrite(offset, count, remote: remote, token: token)
        }
    }

    /// Waits for the completion of `token` and takes it from the list.
    @discardableResult
    func completion(_ token: UInt64) async throws -> Completion {
        try await rig.wait(for: "completion \(token)") {
            completions.contains { $0.token == token }
        }
        let index = completions.firstIndex { $0.token == token }!
        return completions.remove(at: index)
    }
}

/// Holds a region in a class.
final class RegionBox {
    private var region: MemoryRegion?
    let remote: RemoteMemory

    init(_ region: consuming MemoryRegion) {
        remote = RemoteMemory(address: region.remoteAddress, key: region.key)
        self.region = consume region
    }

    func use(
        _ body: (borrowing MemoryRegion) throws(FabricError) -> Void
    ) throws(FabricError) {
        let region = take()
        let result: FabricError?
        do throws(FabricError) {
            try body(region)
            result = nil
        } catch {
            result = error
        }
        self.region = consume region
        if let result { throw result }
    }

    func take() -> MemoryRegion {
        region.take()!
    }
}
