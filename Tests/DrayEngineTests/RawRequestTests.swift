import BIO
import CaRT
import Dray
import DrayChecksums
import DrayEngine
import DrayFabric
import DrayPlacement
import DrayProtocol
import DrayRuntime
import DraySimulator
import DrayTransactions
import Testing

/// Requests that Dray's own client would not make, or not in this order, at a simulated engine.
@Suite struct RawRequestTests {
    /// An engine with one target, a client, and a context beside it.
    struct Rig {
        let cluster: SimulatedCluster
        let xstream: XStream
        let client: Cluster
        let pool: Pool
        let context: Context
        /// The system context of the engine, and its target.
        let engine: Destination
        let target: Destination

        static func run(
            location: SourceLocation = #_sourceLocation,
            _ body: @escaping (Rig) async throws -> Void
        ) {
            do {
                let cluster = try SimulatedCluster(seed: 1, engineCount: 1, targetCount: 1)
                let world = cluster.world(client: 0)
                let xstream = world.makeXStream(name: "test")
                try cluster.run(on: xstream) {
                    let description = cluster.description(timeout: .seconds(5))
                    let client = try await Cluster.connect(to: description, world: world)
                    let context = try Context(
                        world: world, xstream: xstream, address: "sim://raw",
                        options: ContextOptions(clock: HybridLogicalClock(clock: world.clock)))
                    let addresses = try #require(await client.engines.first).addresses
                    let rig = Rig(
                        cluster: cluster, xstream: xstream,
                        client: client,
                        pool: try await client.createPool(label: "tank", size: 256 << 20),
                        context: context,
                        engine: .address(try FabricAddress(parsing: addresses[0])),
                        target: .address(try FabricAddress(parsing: addresses[1])))
                    try await body(rig)
                    await context.close()
                }
            } catch {
                Issue.record("\(error)", sourceLocation: location)
            }
        }

        /// The code of the error that an update of one value is refused with; nil: it is stored.
        func refusal(
            of bytes: [UInt8], _ object: DrayObject, dkey: [UInt8],
            _ change: (inout ObjectOperation) -> Void
        ) async throws -> ServiceCode? {
            let container = object.container
            let buffer = IOBuffer(copying: bytes)
            let data = UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<bytes.count])
            var operation = ObjectOperation()
            operation.dkey = dkey
            operation.akey = [1]
            operation.describe(data, container.checksumType)
            change(&operation)
            var request = ObjectUpdateRequest()
            request.transaction = UniqueID(high: 1, low: context.clock.now())
            var part = ObjectPart()
            part.target = ObjectTarget(
                pool: pool.id, container: container.id, object: object.id,
                mapVersion: pool.record.map.version, capability: container.capability)
            part.operations = [operation]
            request.parts = [part]
            do throws(RPCError) {
                _ = try await context.call(
                    ObjectProtocol.update, request, to: target, payload: data,
                    deadline: .after(.seconds(5)))
                return nil
            } catch {
                guard case .application(let code, let message) = error else { throw error }
                #expect(!message.isEmpty)
                return ServiceCode(rawValue: code)
            }
        }

        /// What the target says of a transaction to a member that does not lead it.
        func answer(
            about id: UniqueID, epoch: UInt64
        ) async throws(RPCError) -> ResolutionMachine.Answer? {
            var question = QueryRequest()
            question.transaction = id
            question.epoch = epoch
            let reply = try await context.call(
                TransactionProtocol.query, question, to: target, deadline: .after(.seconds(5)))
            return ResolutionMachine.Answer(rawValue: reply.answer)
        }

        func abort(_ id: UniqueID) async throws(RPCError) {
            var decision = DecideRequest()
            decision.aborted = [id]
            _ = try await context.call(
                TransactionProtocol.decide, decision, to: target, deadline: .after(.seconds(5)))
        }

        func change(_ change: MetadataChange) async throws(RPCError) -> ClusterMetadata {
            try await context.call(
                ManagementProtocol.change, change, to: engine, deadline: .after(.seconds(5)))
        }
    }

    private func makeObject(
        _ rig: Rig, _ type: ChecksumType, isServerVerified: Bool = true
    ) async throws -> DrayObject {
        let container = try await rig.pool.createContainer(
            label: "\(type.name)-\(isServerVerified)", objectClass: .s1, checksumType: type,
            isServerVerified: isServerVerified)
        return container.object(try await container.makeObjectID())
    }

    private static let bytes = [UInt8](repeating: 7, count: 3000)

    @Test(arguments: ChecksumType.allCases)
    func checksumsThatDoNotFitAreRefused(type: ChecksumType) {
        Rig.run { rig in
            for isServerVerified in [true, false] {
                let object = try await makeObject(rig, type, isServerVerified: isServerVerified)
                func refusal(
                    _ change: (inout ObjectOperation) -> Void
                ) async throws -> ServiceCode? {
                    try await rig.refusal(of: Self.bytes, object, dkey: [1], change)
                }
                for other in ChecksumType.allCases where other != type {
                    let code = try await refusal { operation in
                        Self.bytes.withUnsafeBytes { operation.describe($0, other) }
                    }
                    #expect(code == .invalidArgument, "\(other.name)")
                    // Also when the words would fit.
                    let renamed = try await refusal { $0.checksumType = other }
                    #expect(renamed == .invalidArgument, "\(other.name)")
                }
                #expect(try await refusal { $0.checksums.append(0) } == .invalidArgument)
                if type != .off {
                    #expect(try await refusal { $0.checksums.removeLast() } == .invalidArgument)
                    #expect(try await refusal { $0.checksums = [] } == .invalidArgument)
                }
                #expect(try await object.get(dkey: [1], akey: [1]) == nil)
                #expect(try await refusal { _ in } == nil)
                #expect(try await object.get(dkey: [1], akey: [1]) == Self.bytes)
            }
        }
    }

    /// A target that does not verify stores what it gets; whoever reads it is told.
    @Test(arguments: [.crc32c, .xxh64, .sha256] as [ChecksumType], [100, 3000, 16_000])
    func whoVerifies(type: ChecksumType, size: Int) {
        Rig.run { rig in
            let bytes = [UInt8](repeating: 9, count: size)
            let verified = try await makeObject(rig, type)
            let refused = try await rig.refusal(of: bytes, verified, dkey: [1]) {
                $0.checksums[0] ^= 1
            }
            #expect(refused == .busy)
            #expect(try await verified.get(dkey: [1], akey: [1]) == nil)

            let trusted = try await makeObject(rig, type, isServerVerified: false)
            let stored = try await rig.refusal(of: bytes, trusted, dkey: [1]) {
                $0.checksums[0] ^= 1
            }
            #expect(stored == nil)
            do {
                _ = try await trusted.get(dkey: [1], akey: [1])
                Issue.record("it was read")
            } catch {
                #expect((error as? DrayError)?.code == .corrupt, "\(error)")
                let name =
                    "object \(trusted.id), dkey '\\x01', akey '\\x01', offset 0, \(size) bytes"
                #expect("\(error)".contains(name), "\(error)")
                let place = size < 4096 ? "in the index on device-0" : "in device-0 at byte "
                #expect("\(error)".contains(place), "\(error)")
            }
            #expect(try await !trusted.verify().isEqual)
        }
    }

    /// Asks the target to take part in a transaction that some other engine, which is not there,
    /// leads, and that writes one value.
    private func prepare(
        _ rig: Rig, _ object: DrayObject, _ id: UniqueID, epoch: UInt64,
        condition: ObjectOperation.Condition = .none
    ) async throws -> PrepareOutcome {
        let buffer = IOBuffer(copying: Self.bytes)
        let data = UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<Self.bytes.count])
        var operation = ObjectOperation()
        operation.dkey = [1]
        operation.akey = [1]
        operation.condition = condition
        operation.describe(data, object.container.checksumType)
        var part = PreparePart()
        part.part.target = ObjectTarget(
            pool: rig.pool.id, container: object.container.id, object: object.id,
            mapVersion: rig.pool.record.map.version, capability: Capability())
        part.part.operations = [operation]
        part.leads = true
        var request = PrepareRequest()
        request.transaction = id
        request.epoch = epoch
        request.deadline = .max
        request.members = TransactionMembers([
            TargetAddress(rank: 7, target: 0), TargetAddress(rank: 0, target: 0),
        ])
        request.parts = [part]
        request.payloadLength = UInt32(data.count)
        var batch = PrepareBatchRequest()
        batch.requests = [request]
        let reply = try await rig.context.call(
            TransactionProtocol.prepare, batch, to: rig.target, payload: data,
            deadline: .after(.seconds(5)))
        return try #require(reply.outcomes.first)
    }

    /// A member that says it has nothing of a transaction has aborted it by that, for the others
    /// abort it then: the leader's request, which was late, comes in vain.
    @Test func whoHasNothingOfATransactionNeverWill() {
        Rig.run { rig in
            let object = try await makeObject(rig, .crc32c)
            for isAsked in [false, true] {
                let id = UniqueID(high: 3, low: isAsked ? 1 : 0)
                let epoch = rig.context.clock.now()
                if isAsked { #expect(try await rig.answer(about: id, epoch: epoch) == .aborted) }
                let outcome = try await prepare(rig, object, id, epoch: epoch)
                #expect(outcome.code == (isAsked ? ServiceCode.aborted.rawValue : 0))
                try await rig.abort(id)
            }
            #expect(try await object.get(dkey: [1], akey: [1]) == nil)
        }
    }

    /// A leader that was restarted before it had prepared, and gets the transaction again, gives it
    /// another epoch. Who has prepared the first attempt has not prepared the second one: all must
    /// have it at one epoch.
    @Test func whoHasPreparedAnotherAttemptHasNotPreparedThisOne() {
        Rig.run { rig in
            let object = try await makeObject(rig, .crc32c)
            let id = UniqueID(high: 3, low: 1)
            let first = rig.context.clock.now()
            #expect(try await prepare(rig, object, id, epoch: first).code == 0)
            let second = rig.context.clock.now()
            let refused = try await prepare(rig, object, id, epoch: second)
            #expect(refused.code == ServiceCode.aborted.rawValue)
            #expect(try await rig.answer(about: id, epoch: first) == .prepared)
            #expect(try await rig.answer(about: id, epoch: second) == .aborted)
            try await rig.abort(id)
            #expect(try await rig.answer(about: id, epoch: first) == .aborted)
            #expect(try await object.get(dkey: [1], akey: [1]) == nil)
        }
    }

    /// A transaction is aborted while a member looks at the device whether its condition holds,
    /// which it does not. The member remembers the abort until then, and no longer.
    @Test func anAbortDuringAPrepareThatFailsIsForgotten() {
        Rig.run { rig in
            let object = try await makeObject(rig, .crc32c)
            try await object.put(dkey: [1], akey: [1], value: Self.bytes)
            // More than half of the log, so that it goes from memory into a table.
            for index in 0..<500 {
                let dkey = [2, UInt8(index / 256), UInt8(index % 256)]
                try await object.put(dkey: dkey, akey: [1], value: Self.bytes)
            }
            await rig.xstream.sleep(for: .seconds(1))
            var slow = DeviceFaults()
            slow.latencyMin = .milliseconds(50)
            slow.latencyMax = .milliseconds(50)
            rig.cluster.devices.setFaults(slow)

            let id = UniqueID(high: 3, low: 1)
            let epoch = rig.context.clock.now()
            let outcome = Gather<Result<UInt32, any Error>>(count: 1)
            var isOver = false
            rig.xstream.spawn {
                defer { isOver = true }
                do {
                    let outcomes = try await prepare(
                        rig, object, id, epoch: epoch, condition: .insert)
                    outcome.finish(0, with: .success(outcomes.code))
                } catch {
                    outcome.finish(0, with: .failure(error))
                }
            }
            await rig.xstream.sleep(for: .milliseconds(5))
            try await rig.abort(id)
            #expect(!isOver, "the abort came too late")
            let code = try await outcome.results()[0].get()
            #expect(code == ServiceCode.exists.rawValue)
            let after = try #require(await rig.cluster.counts(rank: 0))
            #expect(after.transactions.map(\.isIdle) == [true])
        }
    }

    /// Requests to make something that come again when it was destroyed already.
    @Test func lateResends() {
        Rig.run { rig in
            func expectGone(_ change: MetadataChange) async throws {
                do throws(RPCError) {
                    _ = try await rig.change(change)
                    Issue.record("it was made again")
                } catch {
                    guard case .application(let code, let message) = error else { throw error }
                    #expect(code == ServiceCode.notFound.rawValue)
                    #expect(message.contains("was destroyed already"), "\(message)")
                }
            }
            let container = try await makeObject(rig, .crc32c).container
            var creation = MetadataChange()
            creation.kind = .createSnapshot
            creation.pool = rig.pool.id
            creation.container = container.id
            creation.snapshot = UniqueID(high: 1, low: 2)
            let made = try await rig.change(creation).snapshots
            #expect(try await rig.change(creation).snapshots == made)
            try await container.destroySnapshot(try #require(made.first))
            try await expectGone(creation)
            #expect(try await container.snapshots() == [])
            // One that somebody asks for anew is another one.
            creation.snapshot = UniqueID(high: 1, low: 3)
            #expect(try await rig.change(creation).snapshots.count == 1)

            var change = MetadataChange()
            change.kind = .createContainer
            change.pool = rig.pool.id
            change.container = UniqueID(high: 2, low: 1)
            change.label = "again"
            change.objectClass = ObjectClass.s1.code
            _ = try await rig.change(change)
            try await rig.pool.destroyContainer("again")
            try await expectGone(change)
        }
    }
}
