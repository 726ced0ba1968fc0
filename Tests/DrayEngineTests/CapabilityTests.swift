import CaRT
import Dray
import DrayPlacement
import DrayProtocol
import DrayRuntime
import DraySimulator
import Testing

@testable import DrayEngine

/// What shows an engine that a container was opened, and requests that do not show it.
@Suite struct CapabilityTests {
    private static func secret(_ byte: UInt8) -> PoolSecret {
        PoolSecret(
            pool: UniqueID(high: 1, low: 1),
            key: [UInt8](repeating: byte, count: PoolSecret.keyLength))
    }

    private static let container = UniqueID(high: 2, low: 3)

    @Test func secretContainerAndAccessMakeTheTag() {
        var tags: Set<UInt128> = []
        for byte in [1, 2] as [UInt8] {
            for container in [Self.container, UniqueID(high: 3, low: 2)] {
                for access in [ContainerAccess.readOnly, .readWrite] {
                    let capability = Self.secret(byte).capability(for: container, access)
                    #expect(capability.access == access)
                    #expect(capability == Self.secret(byte).capability(for: container, access))
                    tags.insert(capability.tag)
                }
            }
        }
        #expect(tags.count == 8)
    }

    @Test func whatACapabilityPermits() {
        var record = ContainerRecord()
        record.id = Self.container
        let known = TargetContainer(record, in: PoolRecord(), Self.secret(1))
        func refusal(_ capability: Capability, for access: ContainerAccess) -> String? {
            do throws(RPCError) {
                try known.check(capability, for: access)
                return nil
            } catch {
                return "\(error)"
            }
        }
        let reading = Self.secret(1).capability(for: Self.container, .readOnly)
        let writing = Self.secret(1).capability(for: Self.container, .readWrite)
        #expect(refusal(reading, for: .readOnly) == nil)
        #expect(refusal(writing, for: .readOnly) == nil)
        #expect(refusal(writing, for: .readWrite) == nil)
        #expect(refusal(reading, for: .readWrite)?.contains("for reading only") == true)
        for bit in 0..<128 {
            let wrong = Capability(.readWrite, tag: writing.tag ^ 1 << bit)
            #expect(refusal(wrong, for: .readOnly)?.contains("open it again") == true)
        }
        for wrong in [
            Capability(), Capability(.readWrite, tag: reading.tag),
            Capability(.readOnly, tag: writing.tag),
            Self.secret(2).capability(for: Self.container, .readWrite),
        ] {
            #expect(refusal(wrong, for: .readOnly)?.contains("open it again") == true)
        }
    }

    // MARK: - Requests

    private typealias Rig = RawRequestTests.Rig

    /// What an object's target answers to each kind of request with a capability; nil: it is done.
    private struct Answers: Equatable {
        var update: ServiceCode?
        var punch: ServiceCode?
        var fetch: ServiceCode?
        var enumerate: ServiceCode?
        var validate: ServiceCode?
        var inspect: ServiceCode?
        var listObjects: ServiceCode?

        /// The same to each that changes something, and to each that does not.
        init(changes: ServiceCode?, reads: ServiceCode?) {
            (update, punch) = (changes, changes)
            (fetch, enumerate, validate, inspect, listObjects) = (
                reads, reads, reads, reads, reads
            )
        }

        init(_ rig: Rig, _ object: DrayObject, _ capability: Capability) async throws {
            let place = Answers.place(rig, object, capability)
            update = try await answer(rig, ObjectProtocol.update, Answers.update(rig, place))
            var punched = Answers.update(rig, place)
            punched.parts[0].operations[0].kind = .punchAkey
            punch = try await answer(rig, ObjectProtocol.update, punched)
            var fetched = ObjectFetchRequest()
            fetched.target = place
            fetched.dkey = [1]
            fetched.length = 10
            fetch = try await answer(rig, ObjectProtocol.fetch, fetched)
            var page = ObjectEnumerateRequest()
            page.target = place
            page.limit = 10
            enumerate = try await answer(rig, ObjectProtocol.enumerate, page)
            var read = ObjectUpdateRequest()
            read.parts = [ObjectPart()]
            read.parts[0].target = place
            validate = try await answer(rig, ObjectProtocol.validate, read)
            var inspected = ObjectInspectRequest()
            inspected.target = place
            inspected.limit = 10
            inspect = try await answer(rig, ObjectProtocol.inspect, inspected)
            var list = ObjectListRequest()
            list.pool = place.pool
            list.container = place.container
            list.mapVersion = place.mapVersion
            list.capability = capability
            list.limit = 10
            listObjects = try await answer(rig, ObjectProtocol.listObjects, list)
        }

        static func place(
            _ rig: Rig, _ object: DrayObject, _ capability: Capability
        ) -> ObjectTarget {
            ObjectTarget(
                pool: rig.pool.id, container: object.container.id, object: object.id,
                mapVersion: rig.pool.record.map.version, capability: capability)
        }

        /// Stores an empty value.
        static func update(_ rig: Rig, _ place: ObjectTarget) -> ObjectUpdateRequest {
            var request = ObjectUpdateRequest()
            request.transaction = UniqueID(high: 1, low: rig.context.clock.now())
            request.parts = [ObjectPart()]
            request.parts[0].target = place
            request.parts[0].operations = [ObjectOperation()]
            request.parts[0].operations[0].dkey = [9]
            request.parts[0].operations[0].akey = [9]
            return request
        }

        private func answer<Q, R>(
            _ rig: Rig, _ procedure: Procedure<Q, R>, _ request: Q
        ) async throws -> ServiceCode? {
            do throws(RPCError) {
                _ = try await rig.context.call(
                    procedure, request, to: rig.target, deadline: .after(.seconds(5)))
                return nil
            } catch {
                guard case .application(let code, let message) = error else { throw error }
                #expect(!message.isEmpty)
                return ServiceCode(rawValue: code)
            }
        }
    }

    @Test func everyRequestIsChecked() {
        Rig.run { rig in
            let container = try await rig.pool.createContainer(label: "data", objectClass: .s1)
            let other = try await rig.pool.createContainer(label: "other", objectClass: .s1)
            let object = container.object(try await container.makeObjectID())
            try await object.put(dkey: [1], akey: [], value: [7])
            let reading = try await rig.pool.container("data", .readOnly).capability
            for (capability, expected) in [
                (container.capability, Answers(changes: nil, reads: nil)),
                (reading, Answers(changes: .notPermitted, reads: nil)),
                (Capability(), Answers(changes: .notPermitted, reads: .notPermitted)),
                (
                    Capability(.readWrite, tag: reading.tag),
                    Answers(changes: .notPermitted, reads: .notPermitted)
                ),
                (other.capability, Answers(changes: .notPermitted, reads: .notPermitted)),
            ] {
                let answers = try await Answers(rig, object, capability)
                #expect(answers == expected)
            }
            // The pool's secret outlives the engine.
            rig.cluster.kill(rank: 0)
            try await rig.cluster.start(rank: 0)
            #expect(try await object.get(dkey: [1], akey: []) == [7])
            try await object.put(dkey: [1], akey: [], value: [8])
        }
    }

    /// Whoever may not make a change does not hear what became of it.
    @Test func resendsAreChecked() {
        Rig.run { rig in
            let container = try await rig.pool.createContainer(label: "data", objectClass: .s1)
            let object = container.object(try await container.makeObjectID())
            var request = Answers.update(rig, Answers.place(rig, object, container.capability))
            let first = try await rig.context.call(
                ObjectProtocol.update, request, to: rig.target, deadline: .after(.seconds(5)))
            let again = try await rig.context.call(
                ObjectProtocol.update, request, to: rig.target, deadline: .after(.seconds(5)))
            #expect(again == first)
            request.parts[0].target.capability = Capability()
            var empty = request
            empty.parts = []
            for (request, expected) in [
                (request, ServiceCode.notPermitted), (empty, .invalidArgument),
            ] {
                do throws(RPCError) {
                    _ = try await rig.context.call(
                        ObjectProtocol.update, request, to: rig.target,
                        deadline: .after(.seconds(5)))
                    Issue.record("it was answered")
                } catch {
                    guard case .application(let code, _) = error else { throw error }
                    #expect(code == expected.rawValue)
                }
            }
        }
    }

    /// A container that is made anew under the same label is another one.
    @Test func aCapabilityEndsWithItsContainer() {
        Rig.run { rig in
            let old = try await rig.pool.createContainer(label: "data", objectClass: .s1)
            let oldObject = old.object(try await old.makeObjectID())
            try await rig.pool.destroyContainer("data")
            let new = try await rig.pool.createContainer(label: "data", objectClass: .s1)
            let newObject = new.object(oldObject.id)
            try await newObject.put(dkey: [1], akey: [], value: [7])
            let gone = try await Answers(rig, oldObject, old.capability)
            #expect(gone == Answers(changes: .notFound, reads: .notFound))
            let refused = try await Answers(rig, newObject, old.capability)
            #expect(refused == Answers(changes: .notPermitted, reads: .notPermitted))
            let permitted = try await Answers(rig, newObject, new.capability)
            #expect(permitted == Answers(changes: nil, reads: nil))
        }
    }

    @Test func clientsNeverGetASecret() {
        Rig.run { rig in
            let known = try await rig.context.call(
                MetadataProtocol.prepare, MetadataPrepareRequest(), to: rig.engine,
                deadline: .after(.seconds(5)))
            #expect(known.metadata.secrets.map(\.pool) == [rig.pool.id])
            let read = try await rig.context.call(
                ManagementProtocol.metadata, EmptyMessage(), to: rig.engine,
                deadline: .after(.seconds(5)))
            #expect(read == known.metadata.withoutSecrets)
            var change = MetadataChange()
            change.kind = .createPool
            change.pool = UniqueID(high: 5, low: 5)
            change.label = "second"
            change.size = 64 << 20
            let changed = try await rig.change(change)
            #expect(changed.pools.count == 2 && changed.secrets == [])
        }
    }
}
