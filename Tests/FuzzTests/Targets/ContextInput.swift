import DrayFabric
import DrayRuntime

@testable import CaRT

/// A context on a simulated fabric that gets what a stranger makes of an input. It answers
/// requests and has calls under way to the stranger; an honest context is there, too, and must be
/// served all the same.
enum ContextInput {
    static func run(_ bytes: UnsafeRawBufferPointer) {
        let scene = Scene(HostileScript(bytes))
        scene.play()
    }

    /// Scripts of whole messages of each kind, alone and together.
    static var corpus: [[UInt8]] {
        var greeting = WireHeader()
        greeting.kind = .hello
        greeting.slot = 5
        greeting.requestID = 99
        var hello = HelloMessage(
            address: FabricAddress(provider: "sim", bytes: Array("stranger".utf8)))
        hello.instance = 1234
        hello.eagerLimit = 4096
        let first = HostileScript.step([], FuzzFrame.message(greeting, hello.encoded()))
        let whole: HostileScript.Mode = [.complete, .session]
        func step(
            _ kind: MessageKind, _ mode: HostileScript.Mode, _ body: [UInt8],
            _ change: (inout WireHeader) -> Void = { _ in }
        ) -> [UInt8] {
            var header = WireHeader()
            header.kind = kind
            header.opcode = TransportProcedures.echo.opcode
            header.deadline = .max / 2
            change(&header)
            return HostileScript.step(mode, FuzzFrame.message(header, body))
        }
        var memory = BulkDescriptor()
        memory.owner = hello.address
        memory.length = 3000
        memory.access = [.remoteRead]
        let spill = SpillDescriptor(memory: memory, bodyLength: 1000, payloadLength: 2000).encoded()
        let blob: [UInt8] = [4, 0, 0, 0, 1, 2, 3, 4]
        let answer: HostileScript.Mode = [.complete, .answer]
        let helloReply = HelloReply(instance: 5, credits: 2, eagerLimit: 4096).encoded()
        let steps: [[UInt8]] = [
            step(.request, whole, blob),
            step(.request, whole, spill) { $0.flags = .spilled },
            step(.request, whole, blob) { $0.flags = .oneWay },
            step(.request, whole, blob) { $0.flags = .traced },
            step(.request, whole, blob) { $0.opcode = InternalProtocol.lookUp.opcode },
            step(.request, whole, blob) { $0.opcode = CollectiveProtocol.chunks.opcode },
            step(.request, whole, blob) { $0.opcode = IncastProtocol.update.opcode },
            step(.cancel, whole, []), step(.release, whole, []), step(.goodbye, answer, []),
            step(.inquiry, whole, InquiryMessage(requests: [1, 2]).encoded()),
            step(.absent, answer, InquiryMessage(requests: [1, 2]).encoded()),
            step(.helloReply, answer, helloReply),
            step(.reply, answer, blob),
            step(.reply, answer, spill) { $0.flags = .spilled },
            step(.reply, answer, [14, 0]) { $0.status = 14 },
            step(.cancelled, answer, []),
            step(.recall, whole, InquiryMessage(requests: [1, 2]).encoded()),
            step(.recalled, answer, InquiryMessage(requests: [1, 2]).encoded()),
        ]
        return steps + steps.map { first + $0 }
            + [first + steps.joined(), steps[12] + steps[13] + steps[14]]
    }
}

/// The one procedure that the context under test has of its own.
enum TransportProcedures {
    struct Bytes: Message {
        var bytes: [UInt8] = []

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&bytes, max: 1 << 20)
        }
    }

    static let echo = Procedure<Bytes, Bytes>(
        ProtocolID(base: 0x20, version: 1), index: 1, name: "fuzz.echo")
}

/// What a stranger sends, read from an input: steps of a mode, a length and bytes.
struct HostileScript {
    struct Mode: OptionSet {
        var rawValue: UInt8

        /// With the right magic, lengths and checksums.
        static let complete = Mode(rawValue: 1)
        /// Within the session that the stranger was given.
        static let session = Mode(rawValue: 2)
        /// With slot and numbers of the last message that the stranger got.
        static let answer = Mode(rawValue: 4)
        /// After a while.
        static let later = Mode(rawValue: 8)
    }

    var steps: [(mode: Mode, bytes: [UInt8])] = []

    static let stepsMax = 24
    static let bytesMax = 4096

    static func step(_ mode: Mode, _ bytes: [UInt8]) -> [UInt8] {
        [mode.rawValue, UInt8(bytes.count & 0xff), UInt8(bytes.count >> 8)] + bytes
    }

    init(_ input: UnsafeRawBufferPointer) {
        var rest = input[...]
        while rest.count > 3, steps.count < HostileScript.stepsMax {
            let start = rest.startIndex
            let length = Int(rest[start + 1]) | Int(rest[start + 2]) << 8
            let end = min(rest.endIndex, start + 3 + min(length, HostileScript.bytesMax))
            steps.append((Mode(rawValue: rest[start]), Array(rest[start + 3..<end])))
            rest = rest[end...]
        }
    }
}

/// An endpoint whose owner keeps to no rules.
private final class Stranger: PollSource {
    let endpoint: Endpoint
    private let memory = IOBuffer(count: (HostileScript.stepsMax + 8) * HostileScript.bytesMax)
    private let registration: Registration
    private let target: Peer
    private let completions = UnsafeMutableBufferPointer<Completion>.allocate(capacity: 16)
    private var session = SessionID.none
    private var last = WireHeader()
    private var sent = 0

    private static let receivesFirst = HostileScript.stepsMax
    private static let receives = 8

    init(_ world: World, _ xstream: XStream, target: FabricAddress) throws {
        endpoint = try world.fabric.makeEndpoint("sim://stranger", on: xstream)
        completions.initialize(repeating: Completion(token: 0, kind: .sent))
        registration = try Registration(memory, at: endpoint, access: [.remoteRead])
        self.target = try endpoint.insert(target)
        for slot in 0..<Stranger.receives { try post(slot) }
        xstream.addSource(self)
    }

    private func slot(_ index: Int) -> UnsafeMutableRawBufferPointer {
        let start = index * HostileScript.bytesMax
        return UnsafeMutableRawBufferPointer(
            rebasing: memory.bytes[start..<start + HostileScript.bytesMax])
    }

    private func post(_ index: Int) throws {
        try endpoint.postReceive(
            slot(Stranger.receivesFirst + index), in: registration.pointer.pointee,
            token: UInt64(index))
    }

    func poll() -> Int {
        let count = endpoint.poll(into: completions)
        for completion in completions[0..<count] where completion.kind == .received {
            let memory = slot(Stranger.receivesFirst + Int(completion.token))
            let bytes = UnsafeRawBufferPointer(rebasing: memory[0..<completion.length])
            if let header = WireHeader(decoding: bytes) { note(header, bytes) }
            try? post(Int(completion.token))
        }
        return count
    }

    func prepareToBlock() -> BlockReadiness { endpoint.prepareToBlock() }

    private func note(_ header: WireHeader, _ bytes: UnsafeRawBufferPointer) {
        last = header
        let body = UnsafeRawBufferPointer(rebasing: bytes[WireHeader.size..<header.messageLength])
        if header.kind == .helloReply, let reply = try? HelloReply(decoding: body) {
            session = reply.session
        }
    }

    /// Sends one step of the script.
    func send(_ mode: HostileScript.Mode, _ bytes: [UInt8]) {
        guard !bytes.isEmpty, sent < HostileScript.stepsMax else { return }
        let memory = UnsafeMutableRawBufferPointer(rebasing: slot(sent)[0..<bytes.count])
        sent += 1
        memory.copyBytes(from: bytes)
        if memory.count >= WireHeader.size {
            func store<Value: FixedWidthInteger>(_ value: Value, _ offset: Int) {
                memory.storeBytes(of: value.littleEndian, toByteOffset: offset, as: Value.self)
            }
            if mode.contains(.session) {
                store(session.index, 32)
                store(session.generation, 36)
            }
            if mode.contains(.answer) {
                store(last.slot, 40)
                store(last.slotGeneration, 44)
                store(last.requestID, 56)
                store(last.stamp, 48)
            }
            if mode.contains(.complete) { FuzzFrame.complete(memory) }
        }
        try? endpoint.send(
            UnsafeRawBufferPointer(memory), in: registration.pointer.pointee, to: target, token: 99)
    }

    func close(_ xstream: XStream) {
        xstream.removeSource(self)
        registration.close(at: endpoint)
        endpoint.close()
        completions.deallocate()
    }
}

/// Three processes: the context under test, an honest one, and the stranger.
private final class Scene {
    private let simulation = Simulation(seed: 1)
    private let script: HostileScript
    private var victim: Context?
    private var honest: Context?
    private var stranger: Stranger?
    private var hasAnswered = false
    private var callsLeft = 0
    private var endsLeft = 2

    init(_ script: HostileScript) { self.script = script }

    func play() {
        let fabric = SimulatedFabric(simulation: simulation)
        let worlds = (1...3).map { node in
            var world = simulation.world(node: node)
            world.fabric = fabric
            return world
        }
        let streams = worlds.map { $0.makeXStream(name: "fuzz") }
        streams[0].simulate { [self] in victim = open(worlds[0], streams[0], "victim") }
        streams[1].simulate { [self] in honest = open(worlds[1], streams[1], "honest") }
        wait("contexts") { victim != nil && honest != nil }
        guard let victim, let honest else { return }
        streams[2].simulate { [self] in
            stranger = try? Stranger(worlds[2], streams[2], target: victim.address)
        }
        wait("the stranger") { stranger != nil }
        // Calls that the stranger may answer, one of them with memory.
        streams[0].simulate { [self] in beginCalls(victim) }
        simulation.run(for: .milliseconds(1))
        for step in script.steps {
            streams[2].simulate { [self] in stranger?.send(step.mode, step.bytes) }
            simulation.run(for: step.mode.contains(.later) ? .milliseconds(150) : .microseconds(30))
        }
        wait("the calls") { callsLeft == 0 }
        streams[1].simulate { [self] in
            let answer = try? await honest.call(
                TransportProcedures.echo, TransportProcedures.Bytes(bytes: [1, 2, 3]),
                to: .address(victim.address), deadline: .after(.seconds(20)))
            hasAnswered = answer?.bytes == [1, 2, 3]
        }
        wait("an answer to an honest call") { hasAnswered }
        // What it has not answered for is free when it is gone.
        streams[2].simulate { [self] in stranger?.close(streams[2]) }
        wait("the end of everything") { victim.usage.isComplete }
        victim.checkInvariants()
        streams[0].simulate { [self] in
            await victim.close()
            endsLeft -= 1
        }
        streams[1].simulate { [self] in
            await honest.close()
            endsLeft -= 1
        }
        wait("closing") { endsLeft == 0 }
        simulation.finish()
    }

    private func open(_ world: World, _ xstream: XStream, _ name: String) -> Context? {
        var options = ContextOptions(clock: HybridLogicalClock(clock: world.clock))
        options.eagerLimit = 4096
        options.receiveCount = 12
        options.heldReceivesMax = 8
        options.activeRequestsMax = 16
        options.messageSizeMax = 1 << 20
        let context = try? Context(
            world: world, xstream: xstream, address: "sim://\(name)", options: options)
        context?.register(TransportProcedures.echo) { message, _ throws(RPCError) in message }
        return context
    }

    private func beginCalls(_ context: Context) {
        let there = Destination.address(
            FabricAddress(provider: "sim", bytes: Array("stranger".utf8)))
        callsLeft = 3
        for size in [10, 100, 6000] {
            context.xstream.spawn { [self] in
                _ = try? await context.call(
                    TransportProcedures.echo,
                    TransportProcedures.Bytes(bytes: Array(repeating: 7, count: size)), to: there,
                    deadline: .after(.milliseconds(400)))
                callsLeft -= 1
            }
        }
    }

    private func wait(_ what: String, until condition: () -> Bool) {
        let holds = simulation.run(for: .seconds(70), until: condition)
        precondition(holds, "no end of waiting for \(what): \(String(describing: victim?.usage))")
    }
}
