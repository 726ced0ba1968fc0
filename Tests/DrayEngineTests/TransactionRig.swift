import CaRT
import Dray
import DrayEngine
import DrayFabric
import DrayPlacement
import DrayProtocol
import DrayRuntime
import DraySimulator
import DrayTransactions
import Testing

/// A simulated cluster with a container, and a client that makes its requests by hand: under
/// identities of its own, again when it likes, and those that engines send each other.
struct TransactionRig {
    let cluster: SimulatedCluster
    let xstream: XStream
    let container: Container
    let context: Context
    private let addresses: [UInt32: [String]]

    /// The dkey and akey of what transactions change.
    static let key: [UInt8] = [1]

    static func run(
        engines: Int = 3, seed: UInt64 = 1, location: SourceLocation = #_sourceLocation,
        _ body: @escaping (TransactionRig) async throws -> Void
    ) {
        do {
            let cluster = try SimulatedCluster(seed: seed, engineCount: engines, targetCount: 1)
            let world = cluster.world(client: 0)
            let xstream = world.makeXStream(name: "test")
            try cluster.run(on: xstream) {
                let client = try await Cluster.connect(
                    to: cluster.description(timeout: .seconds(5)), world: world)
                let pool = try await client.createPool(label: "tank", size: 256 << 20)
                let context = try Context(
                    world: world, xstream: xstream, address: "sim://raw",
                    options: ContextOptions(clock: HybridLogicalClock(clock: world.clock)))
                var addresses: [UInt32: [String]] = [:]
                for engine in await client.engines { addresses[engine.rank] = engine.addresses }
                let rig = TransactionRig(
                    cluster: cluster, xstream: xstream,
                    container: try await pool.createContainer(label: "data", objectClass: .s1),
                    context: context, addresses: addresses)
                try await body(rig)
                await context.close()
            }
        } catch {
            Issue.record("\(error)", sourceLocation: location)
        }
    }

    func sleep(_ duration: Duration) async { await xstream.sleep(for: duration) }

    /// An object whose first replica is on none of the engines `taken`.
    func makeObject(
        _ objectClass: ObjectClass, notLedBy taken: [UInt32] = []
    ) async throws -> DrayObject {
        while true {
            let id = try await container.makeObjectID(objectClass: objectClass)
            let object = container.object(id)
            if !taken.contains(try object.layout()[0].rank) { return object }
        }
    }

    // MARK: - What clients send

    /// A transaction that stores text in objects.
    struct Change {
        var request = ObjectUpdateRequest()
        var data: [UInt8] = []
        var leader: TargetAddress

        var id: UniqueID { request.transaction }
    }

    /// Stores `text` in each of the objects, which have one redundancy group.
    func change(_ objects: [DrayObject], _ text: String) throws -> Change {
        var change = Change(leader: try objects[0].layout()[0])
        change.request.transaction = UniqueID(high: 1, low: context.clock.now())
        for object in objects {
            var part = part(of: object)
            part.operations = [put(object, Self.key, text)]
            change.request.parts.append(part)
            change.data += Array(text.utf8)
        }
        return change
    }

    func part(of object: DrayObject) -> ObjectPart {
        let pool = object.container.pool
        var part = ObjectPart()
        part.target = ObjectTarget(
            pool: pool.id, container: object.container.id, object: object.id,
            mapVersion: pool.record.map.version, capability: object.container.capability)
        return part
    }

    func put(_ object: DrayObject, _ dkey: [UInt8], _ text: String) -> ObjectOperation {
        var operation = ObjectOperation()
        operation.dkey = dkey
        operation.akey = Self.key
        Array(text.utf8).withUnsafeBytes {
            operation.describe($0, object.container.checksumType)
        }
        return operation
    }

    /// The code of the error that a request was refused with, or the epoch of the change.
    enum Outcome: Equatable {
        case epoch(UInt64)
        case refused(ServiceCode)
    }

    /// Sends a change once.
    func send(_ change: Change) async throws(RPCError) -> Outcome {
        let buffer = IOBuffer(copying: change.data)
        let data = UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<change.data.count])
        return try await outcome { () async throws(RPCError) in
            try await context.call(
                ObjectProtocol.update, change.request, to: destination(change.leader),
                payload: data, deadline: .after(.seconds(5)))
        }
    }

    /// Sends a change once, and lets its leader read the data from the client's memory.
    func send(exposing change: Change, timeout: Duration) async throws(RPCError) -> Outcome {
        let buffer = try context.makeBuffer(count: change.data.count)
        buffer.bytes.copyBytes(from: change.data)
        let range = 0..<change.data.count
        let handle = try context.expose(buffer, range: range, access: .remoteRead)
        defer { context.withdraw(handle) }
        var request = change.request
        request.bulk = handle.descriptor
        let sent = request
        return try await outcome { () async throws(RPCError) in
            try await context.call(
                ObjectProtocol.update, sent, to: destination(change.leader), exposing: [handle],
                deadline: .after(timeout))
        }
    }

    private func outcome(
        _ call: () async throws(RPCError) -> ObjectUpdateReply
    ) async throws(RPCError) -> Outcome {
        do throws(RPCError) {
            return .epoch(try await call().epoch)
        } catch {
            guard case .application(let number, _) = error, let code = ServiceCode(rawValue: number)
            else { throw error }
            return .refused(code)
        }
    }

    /// Sends a change and does not wait for what becomes of it.
    func begin(_ change: Change) {
        xstream.spawn {
            do throws(RPCError) {
                let outcome = try await send(change)
                Issue.record("the leader was to die before it answers \(outcome)")
            } catch {
                // Nobody knows what became of it.
            }
        }
    }

    /// Sends a change again to a leader that was restarted, until it is answered.
    func sendAgain(_ change: Change) async throws -> Outcome {
        while true {
            do throws(RPCError) {
                return try await send(change)
            } catch {
                guard error == .unreachable || error == .peerRestarted else { throw error }
            }
            await sleep(.milliseconds(5))
        }
    }

    /// The same, until the answer says what became of the change.
    func resend(_ change: Change) async throws -> Outcome {
        while true {
            let outcome = try await sendAgain(change)
            guard outcome == .refused(.busy) else { return outcome }
            await sleep(.milliseconds(5))
        }
    }

    // MARK: - What engines send

    func destination(_ target: TargetAddress) throws(RPCError) -> Destination {
        guard let addresses = addresses[target.rank], target.tag < addresses.count else {
            throw .wrongRank
        }
        do throws(FabricError) {
            return .address(try FabricAddress(parsing: addresses[Int(target.tag)]))
        } catch {
            throw .fabric(error)
        }
    }

    /// What a leader that is not there, of rank 7, would send `member` for it to prepare.
    func prepareRequest(
        _ operations: [ObjectOperation], of object: DrayObject, _ id: UniqueID, epoch: UInt64
    ) throws -> PrepareRequest {
        var part = PreparePart()
        part.part = self.part(of: object)
        part.part.operations = operations
        part.leads = true
        var request = PrepareRequest()
        request.transaction = id
        request.epoch = epoch
        request.deadline = .max
        request.members = TransactionMembers([
            TargetAddress(rank: 7, target: 0), try object.layout()[0],
        ])
        request.parts = [part]
        request.payloadLength = UInt32(part.part.length)
        return request
    }

    /// Asks the only member to prepare. The code of its refusal, or 0.
    func prepare(
        _ request: PrepareRequest, _ data: String, at target: TargetAddress
    ) async throws -> UInt32 {
        var batch = PrepareBatchRequest()
        batch.requests = [request]
        let reply = try await call(TransactionProtocol.prepare, batch, data, at: target)
        return try #require(reply.outcomes.first).code
    }

    /// Forwards to the only member what its client has sent again.
    func forward(
        _ request: PrepareRequest, _ data: String, at target: TargetAddress
    ) async throws -> ResolutionMachine.Answer? {
        let reply = try await call(TransactionProtocol.forward, request, data, at: target)
        return ResolutionMachine.Answer(rawValue: reply.answer)
    }

    func decide(
        _ id: UniqueID, isCommitted: Bool, at target: TargetAddress
    ) async throws {
        var decision = DecideRequest()
        if isCommitted { decision.committed = [id] } else { decision.aborted = [id] }
        _ = try await call(TransactionProtocol.decide, decision, "", at: target)
    }

    private func call<Q, R>(
        _ procedure: Procedure<Q, R>, _ request: Q, _ data: String, at target: TargetAddress
    ) async throws -> R {
        let bytes = Array(data.utf8)
        let buffer = IOBuffer(copying: bytes)
        while true {
            do throws(RPCError) {
                return try await context.call(
                    procedure, request, to: destination(target),
                    payload: UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<bytes.count]),
                    deadline: .after(.seconds(5)))
            } catch {
                // It was another life of the engine that was called before.
                guard error == .unreachable || error == .peerRestarted else { throw error }
            }
            await sleep(.milliseconds(5))
        }
    }
}

extension DrayObject {
    /// The text that the transactions of a `TransactionRig` store.
    func text(_ dkey: [UInt8] = TransactionRig.key) async throws(DrayError) -> String? {
        try await get(dkey: dkey, akey: TransactionRig.key)
            .map { String(decoding: $0, as: UTF8.self) }
    }

    func put(_ text: String, _ dkey: [UInt8] = TransactionRig.key) async throws(DrayError) {
        try await put(dkey: dkey, akey: TransactionRig.key, value: Array(text.utf8))
    }
}
