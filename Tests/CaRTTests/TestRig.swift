import DrayFabric
import DrayRuntime
import DrayTestSupport
import Glibc
import Testing

@testable import CaRT

/// Contexts of one test. Real ones share one xstream (each with an endpoint of its own, so that
/// every message takes the way through the kernel); simulated ones have a node each.
final class Rig {
    let kind: FabricKind
    let xstream: XStream
    private let makeWorld: (Int) -> (World, XStream)
    private(set) var contexts: [Context] = []
    private var nodes = 0

    init(kind: FabricKind, xstream: XStream, makeWorld: @escaping (Int) -> (World, XStream)) {
        self.kind = kind
        self.xstream = xstream
        self.makeWorld = makeWorld
    }

    func makeContext(
        _ address: String? = nil, _ change: (inout ContextOptions) -> Void = { _ in }
    ) throws(RPCError) -> Context {
        nodes += 1
        let (world, xstream) = makeWorld(1)
        var options = ContextOptions(clock: HybridLogicalClock(clock: world.clock))
        options.timeout = .seconds(10)
        change(&options)
        let context = try Context(
            world: world, xstream: xstream, address: address ?? kind.address, options: options)
        contexts.append(context)
        return context
    }

    func close() async {
        for context in contexts { await context.close() }
    }

    /// Waits until `condition` holds, for at most some seconds.
    func wait(_ what: String = "", until condition: () -> Bool) async throws {
        let limit = xstream.now + .seconds(20)
        while !condition() {
            guard xstream.now < limit else { throw RigError.timedOut(what) }
            await xstream.sleep(for: .milliseconds(1))
        }
    }
}

enum RigError: Error {
    case timedOut(String)
    case notFinished
}

/// Runs `body` with contexts over the fabric of `kind`.
func withRig(
    _ kind: FabricKind, seed: UInt64 = 1, _ body: @escaping (Rig) async throws -> Void
) async throws {
    nonisolated(unsafe) let body = body
    if kind == .simulated {
        let simulation = Simulation(seed: seed)
        var world = simulation.world(node: 1)
        world.fabric = SimulatedFabric(simulation: simulation)
        let xstream = world.makeXStream(name: "test")
        let made = world
        var result: Result<Void, any Error>?
        xstream.simulate {
            let rig = Rig(kind: kind, xstream: xstream) { _ in (made, xstream) }
            result = await outcome(of: rig, body)
        }
        simulation.run(for: .seconds(600), until: { result != nil })
        guard let result else { throw RigError.notFinished }
        try result.get()
    } else {
        var world = World.real()
        world.fabric = LibfabricFabric(entropy: world.entropy.fork("fabric"))
        let xstream = world.makeXStream(name: "test")
        defer { xstream.stop() }
        let made = world
        try await xstream.run { () async throws -> Void in
            let rig = Rig(kind: kind, xstream: xstream) { _ in (made, xstream) }
            try await outcome(of: rig, body).get()
        }
    }
}

private func outcome(
    of rig: Rig, _ body: (Rig) async throws -> Void
) async -> Result<Void, any Error> {
    do {
        try await body(rig)
        await rig.close()
        return .success(())
    } catch {
        await rig.close()
        return .failure(error)
    }
}

/// Bytes whose values depend on their position and a seed.
func pattern(_ count: Int, _ seed: Int = 0) -> [UInt8] {
    let period = (0..<1009).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ ($0 >> 8) &+ seed) }
    return [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
        period.withUnsafeBytes { source in
            var position = 0
            while position < count {
                let length = min(source.count, count - position)
                memcpy(buffer.baseAddress! + position, source.baseAddress!, length)
                position += length
            }
        }
        filled = count
    }
}

/// Runs all bodies at a time on the xstream and waits for them.
func concurrently(_ xstream: XStream, _ count: Int, _ body: @escaping (Int) async -> Void) async {
    var left = count
    await SuspendedTask.suspend { waiter in
        for index in 0..<count {
            xstream.spawn {
                await body(index)
                left -= 1
                if left == 0 { waiter.resume() }
            }
        }
    }
}

/// A context with the standard options; nil, and an issue, when it cannot be opened.
func opened(_ world: World, _ xstream: XStream, _ address: String) -> Context? {
    do throws(RPCError) {
        return try Context(
            world: world, xstream: xstream, address: address,
            options: ContextOptions(clock: HybridLogicalClock(clock: world.clock)))
    } catch {
        Issue.record("\(address): \(error)")
        return nil
    }
}

/// A context on each of several simulated nodes, from number 1 on; `prepare` gets each with its
/// number, where it belongs.
func simulatedContexts(
    _ count: Int, _ simulation: Simulation, _ fabric: SimulatedFabric,
    prepare: @escaping (Int, Context) -> Void = { _, _ in }
) -> [Context] {
    var contexts: [Context] = []
    for node in 1...count {
        var world = simulation.world(node: node)
        world.fabric = fabric
        let made = world
        let xstream = world.makeXStream(name: "n\(node)")
        xstream.simulate {
            guard let context = opened(made, xstream, "sim://n\(node)") else { return }
            prepare(node, context)
            contexts.append(context)
        }
        simulation.run(for: .seconds(1), until: { contexts.count == node })
    }
    return contexts
}

/// The error that `body` throws; nil when it does not.
func failure<Value>(_ body: () async throws(RPCError) -> Value) async -> RPCError? {
    do throws(RPCError) {
        _ = try await body()
        return nil
    } catch {
        return error
    }
}

// MARK: - A protocol for tests

struct Blob: Message, Equatable {
    var number: UInt64 = 0
    var bytes: [UInt8] = []

    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&number)
        try coder.code(&bytes, max: 32 << 20)
    }
}

struct Transfer: Message {
    var memory = BulkDescriptor()
    var number: UInt64 = 0

    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&memory)
        try coder.code(&number)
    }
}

enum TestProtocol {
    static let id = ProtocolID(base: 0x20, version: 1)
    static let echo = Procedure<Blob, Blob>(id, index: 1, name: "test.echo")
    static let wait = Procedure<Blob, Blob>(id, index: 2, name: "test.wait")
    static let drop = Procedure<Blob, Blob>(id, index: 3, name: "test.drop")
    static let fail = Procedure<Blob, Blob>(id, index: 4, name: "test.fail")
    static let pull = Procedure<Transfer, Blob>(id, index: 5, name: "test.pull")
    static let push = Procedure<Transfer, Blob>(id, index: 6, name: "test.push")
    static let synchronous = Procedure<Blob, Blob>(id, index: 7, name: "test.synchronous")
    static let payload = Procedure<Blob, Blob>(id, index: 8, name: "test.payload")
    static let unknown = Procedure<Blob, Blob>(id, index: 99, name: "test.unknown")
    static let later = Procedure<Blob, Blob>(
        ProtocolID(base: 0x20, version: 3), index: 1, name: "test.later")
    static let foreign = Procedure<Blob, Blob>(
        ProtocolID(base: 0x21, version: 1), index: 1, name: "test.foreign")
}

/// What the test server did.
final class ServerState {
    var held: [DeferredReply<Blob>] = []
    var cancelled = 0
    var started = 0
}

/// A context that answers `TestProtocol`.
@discardableResult
func serve(_ context: Context) -> ServerState {
    let state = ServerState()
    context.register(TestProtocol.echo) { blob, _ throws(RPCError) in blob }
    context.registerSynchronous(TestProtocol.synchronous) { blob, _ throws(RPCError) in blob }
    context.registerDeferred(TestProtocol.wait) { _, reply in
        state.started += 1
        reply.request.onCancel { state.cancelled += 1 }
        state.held.append(reply)
    }
    context.registerDeferred(TestProtocol.drop) { _, _ in state.started += 1 }
    context.register(TestProtocol.fail) { blob, _ throws(RPCError) in
        throw .application(code: UInt32(blob.number), message: "no: ünïcode")
    }
    context.register(TestProtocol.pull) { transfer, request throws(RPCError) in
        let buffer = try request.context.makeBuffer(count: Int(transfer.memory.length))
        try await request.context.bulkGet(transfer.memory, into: buffer, range: 0..<buffer.count)
        return Blob(number: UInt64(CRC32C.checksum(of: UnsafeRawBufferPointer(buffer.bytes))))
    }
    context.register(TestProtocol.push) { transfer, request throws(RPCError) in
        let count = Int(transfer.memory.length)
        let buffer = try request.context.makeBuffer(count: count)
        buffer.bytes.copyBytes(from: pattern(count, Int(transfer.number)))
        try await request.context.bulkPut(transfer.memory, from: buffer, range: 0..<count)
        return Blob()
    }
    context.register(TestProtocol.payload) { blob, request throws(RPCError) in
        let bytes = [UInt8](request.payload)
        request.releasePayload()
        await request.context.xstream.yield()
        let buffer = IOBuffer(copying: bytes)
        request.setReplyPayload(
            UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<bytes.count]), keeping: buffer)
        return blob
    }
    return state
}
