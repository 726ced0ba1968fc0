import CaRT
import DrayChecksums
import DrayPlacement
import DrayProtocol
import DrayRuntime
import Testing

/// Requests of a client that knows the protocol and means harm, or was built wrong.
struct HostileRequests {
    let context: Context
    /// The system context of an engine, and one of its targets.
    let engine: Destination
    let target: Destination

    func run() async throws {
        let metadata = try await context.call(
            ManagementProtocol.metadata, EmptyMessage(), to: engine,
            deadline: .after(.seconds(10)))
        let pool = try #require(metadata.pools.first)
        let container = try #require(metadata.containers.first)
        #expect(metadata.secrets == [])
        var open = ContainerOpenRequest()
        open.pool = container.pool
        open.label = container.label
        open.access = .readWrite
        let opened = try await context.call(
            ManagementProtocol.open, open, to: engine, deadline: .after(.seconds(10)))
        var place = ObjectTarget()
        place.pool = pool.id
        place.container = container.id
        place.mapVersion = pool.map.version
        place.capability = try #require(opened.containers.first).capability
        // An object of class S1, with one group.
        place.object = ObjectID(high: 1 << 56 | 1 << 32, low: 9)
        await updates(place)
        await fetches(place)
        await metadataChanges(pool, container)
        await randomUpdates(place)
    }

    /// The service's code in an error; nil when it is another kind of error.
    private func code(_ body: () async throws(RPCError) -> Void) async -> ServiceCode? {
        do throws(RPCError) {
            try await body()
            return nil
        } catch {
            guard case .application(let code, let message) = error else { return nil }
            #expect(!message.isEmpty)
            return ServiceCode(rawValue: code)
        }
    }

    private func updates(_ place: ObjectTarget) async {
        func refused(
            _ expected: ServiceCode, payload: [UInt8] = [],
            location: SourceLocation = #_sourceLocation,
            _ change: (inout ObjectUpdateRequest) -> Void
        ) async {
            var request = ObjectUpdateRequest()
            request.parts = [ObjectPart()]
            request.parts[0].target = place
            request.parts[0].operations = [ObjectOperation()]
            request.transaction = UniqueID(high: 1, low: 2)
            change(&request)
            let (sent, buffer) = (request, IOBuffer(copying: payload))
            let bytes = UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<payload.count])
            let answer = await code { () async throws(RPCError) in
                _ = try await context.call(
                    ObjectProtocol.update, sent, to: target, payload: bytes,
                    deadline: .after(.seconds(5)))
            }
            #expect(answer == expected, sourceLocation: location)
        }
        await refused(.notFound) { $0.parts[0].target.pool = UniqueID(high: 9, low: 9) }
        await refused(.notFound) { $0.parts[0].target.container = UniqueID(high: 9, low: 9) }
        await refused(.staleMap) { $0.parts[0].target.mapVersion = 77 }
        await refused(.notPermitted) { $0.parts[0].target.capability.tag ^= 1 }
        await refused(.notPermitted) { $0.parts[0].target.capability.access = .readOnly }
        await refused(.invalidArgument) { $0.parts[0].operations = [] }
        await refused(.invalidArgument) { $0.parts[0].operations[0].length = .max }
        await refused(.invalidArgument) { $0.parts[0].operations[0].checksums = [1, 2, 3] }
        // Data that is promised and does not come; data that was not promised.
        await refused(.invalidArgument) {
            $0.parts[0].operations[0].length = 5
            $0.parts[0].operations[0].checksums = [0]
        }
        await refused(.busy, payload: [1, 2, 3]) {
            $0.parts[0].operations[0].length = 3
            $0.parts[0].operations[0].checksums = [0]
        }
        await refused(.invalidArgument) {
            $0.parts[0].operations[0].kind = .updateArray
            $0.parts[0].operations[0].offset = .max
        }
        await refused(.invalidArgument, payload: [1]) {
            $0.parts[0].operations[0].kind = .updateArray
            $0.parts[0].operations[0].offset = .max - 1
            $0.parts[0].operations[0].length = 1
            $0.parts[0].operations[0].checksums = [UInt8(1)].withUnsafeBytes {
                ChecksumType.crc32c.checksums(of: $0)
            }
        }
        // Memory that is smaller than what is to be read from it.
        await refused(.invalidArgument) {
            $0.parts[0].operations[0].length = 100_000
            $0.parts[0].operations[0].checksums = [0, 0, 0, 0]
            $0.bulk = BulkDescriptor()
        }
    }

    private func fetches(_ place: ObjectTarget) async {
        func refused(
            _ expected: ServiceCode, location: SourceLocation = #_sourceLocation,
            _ change: (inout ObjectFetchRequest) -> Void
        ) async {
            var request = ObjectFetchRequest()
            request.target = place
            change(&request)
            let sent = request
            let answer = await code { () async throws(RPCError) in
                _ = try await context.call(
                    ObjectProtocol.fetch, sent, to: target, deadline: .after(.seconds(5)))
            }
            #expect(answer == expected, sourceLocation: location)
        }
        await refused(.invalidArgument) { $0.length = .max }
        await refused(.invalidArgument) {
            $0.kind = .array
            $0.offset = .max
            $0.length = 1
        }
        await refused(.invalidArgument) {
            $0.length = 100
            $0.bulk = BulkDescriptor()
        }
        await refused(.notFound) { $0.target.pool = .zero }
        await refused(.notPermitted) { $0.target.capability = Capability() }
        // An epoch that has not come, and a key that is no integer.
        await refused(.invalidArgument) { $0.epoch = .max }
        await refused(.invalidArgument) { $0.epoch = 1 << 63 }
        await refused(.invalidArgument) {
            $0.target.object.high |= 1 << 48
            $0.dkey = [1, 2, 3]
        }
        // More keys than there can be in a page: as many as there are.
        var page = ObjectEnumerateRequest()
        page.target = place
        page.limit = .max
        page.after = [UInt8](repeating: 0xff, count: 1000)
        let sent = page
        let answer = await code { () async throws(RPCError) in
            _ = try await context.call(
                ObjectProtocol.enumerate, sent, to: target, deadline: .after(.seconds(5)))
        }
        #expect(answer == nil)
    }

    private func metadataChanges(_ pool: PoolRecord, _ container: ContainerRecord) async {
        func refused(
            _ expected: ServiceCode, location: SourceLocation = #_sourceLocation,
            _ change: (inout MetadataChange) -> Void
        ) async {
            var request = MetadataChange()
            request.pool = UniqueID(high: 5, low: 5)
            change(&request)
            let sent = request
            let answer = await code { () async throws(RPCError) in
                _ = try await context.call(
                    ManagementProtocol.change, sent, to: engine, deadline: .after(.seconds(5)))
            }
            #expect(answer == expected, sourceLocation: location)
        }
        await refused(.invalidArgument) { $0.label = "no/label" }
        await refused(.invalidArgument) {
            $0.label = "small"
            $0.size = 1
        }
        await refused(.noSpace) {
            $0.label = "large"
            $0.size = .max
        }
        await refused(.exists) {
            $0.label = pool.label
            $0.size = pool.size
        }
        await refused(.notFound) { $0.kind = .destroyPool }
        await refused(.invalidArgument) {
            $0.kind = .createContainer
            $0.pool = pool.id
            $0.container = UniqueID(high: 6, low: 6)
            $0.label = "odd"
            $0.objectClass = 200
        }
        await refused(.exists) {
            $0.kind = .createContainer
            $0.pool = pool.id
            $0.container = UniqueID(high: 6, low: 6)
            $0.label = container.label
        }
        await refused(.notFound) {
            $0.kind = .createSnapshot
            $0.pool = pool.id
            $0.container = UniqueID(high: 6, low: 6)
        }
        await refused(.invalidArgument) {
            $0.kind = .createSnapshot
            $0.pool = pool.id
            $0.container = container.id
            $0.label = "no/label"
        }
        await refused(.notFound) {
            $0.kind = .destroySnapshot
            $0.pool = pool.id
            $0.container = container.id
            $0.epoch = 7
        }
    }

    /// Any numbers anywhere; each request is answered. To an object that nobody uses.
    private func randomUpdates(_ place: ObjectTarget) async {
        var random = Entropy(seed: 23)
        for _ in 0..<200 {
            var request = ObjectUpdateRequest()
            request.parts = [ObjectPart()]
            request.parts[0].target = place
            request.parts[0].target.object = ObjectID(high: .max, low: 1)
            request.transaction = UniqueID(high: random.next(), low: 1)
            for _ in 0...random.below(3) {
                var operation = ObjectOperation()
                operation.kind =
                    ObjectOperation.Kind(rawValue: UInt8(random.below(6))) ?? .punchDkey
                operation.condition =
                    ObjectOperation.Condition(rawValue: UInt8(random.below(3))) ?? .none
                operation.dkey = (0..<random.below(8)).map { _ in UInt8(random.below(256)) }
                operation.akey = (0..<random.below(8)).map { _ in UInt8(random.below(256)) }
                operation.offset = random.next() >> random.below(64)
                operation.length = UInt32(truncatingIfNeeded: random.next() >> random.below(64))
                operation.checksums = (0..<random.below(3)).map { UInt32($0) }
                request.parts[0].operations.append(operation)
            }
            let sent = request
            do throws(RPCError) {
                _ = try await context.call(
                    ObjectProtocol.update, sent, to: target, deadline: .after(.seconds(5)))
            } catch {
                switch error {
                case .application: break
                default: Issue.record("\(error) for \(sent)")
                }
            }
        }
    }
}
