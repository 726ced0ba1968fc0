import Dray
import DrayPlacement
import DrayRuntime
import DraySimulator
import Testing

/// Deadlines, cancellation, progress and identities of clients.
@Suite struct ClientTests {
    static let mebibyte = 1 << 20

    /// A way to use an object, of which an engine does not answer.
    enum Use: String, CaseIterable {
        case get, put, update, write, read, arrayEnd, listDkeys, listAkeys, remove, punch
        case verify, verifyAll, listObjects, transaction

        var isChange: Bool {
            switch self {
            case .put, .update, .write, .remove, .punch: true
            case .get, .read, .arrayEnd, .listDkeys, .listAkeys, .verify, .verifyAll, .listObjects,
                .transaction:
                false
            }
        }

        func run(_ object: DrayObject) async throws {
            let key = "a".bytes
            let array = "array".bytes
            let buffer = IOBuffer(count: 1000)
            switch self {
            case .get: _ = try await object.get("a")
            case .put: try await object.put("a", "2")
            case .update: try await object.update([.put("a", "2"), .put("b", "2")])
            case .write:
                try await object.write(
                    dkey: array, akey: [], offset: 0, buffer: buffer, range: 0..<1000)
            case .read:
                try await object.read(
                    dkey: array, akey: [], offset: 0, into: buffer, range: 0..<1000)
            case .arrayEnd: _ = try await object.arrayEnd(dkey: array, akey: [])
            case .listDkeys: _ = try await object.listDkeys()
            case .listAkeys: _ = try await object.listAkeys(dkey: key)
            case .remove: try await object.remove(dkey: key)
            case .punch: try await object.punch()
            case .verify: _ = try await object.verify()
            case .verifyAll: _ = try await object.container.verify()
            case .listObjects: _ = try await object.container.listObjects()
            case .transaction:
                _ = try await object.container.transaction { transaction in
                    try await transaction.get(object, "a")
                }
            }
        }
    }

    /// An object of engines that do not answer until `resume`.
    private func makeSilentObject(_ rig: ClusterRig) async throws -> DrayObject {
        let object = try await rig.makeObject()
        try await object.put("a", "1")
        for rank in 0..<rig.cluster.engineCount { rig.cluster.pause(rank: rank) }
        return object
    }

    private func resume(_ rig: ClusterRig) {
        for rank in 0..<rig.cluster.engineCount { rig.cluster.resume(rank: rank) }
    }

    @Test func everyOperationKeepsToItsTime() {
        ClusterRig.run(targets: 2, .rp3gx) { rig in
            #expect(rig.container.timeout == nil)
            let container = rig.container.within(.milliseconds(300))
            for use in Use.allCases {
                let object = try await makeSilentObject(rig)
                let (error, time) = try await rig.failure {
                    try await use.run(object.seen(in: container))
                }
                let isLate = error.code == .timedOut && !use.isChange
                #expect(error.code == .unavailable || isLate, "\(use): \(error)")
                #expect(time > .milliseconds(150) && time < .milliseconds(320), "\(use): \(time)")
                if use.isChange { #expect(error.mayHaveHappened, "\(use)") }
                resume(rig)
                try await use.run(object)
            }
        }
    }

    @Test func everyOperationCanBeCancelled() {
        ClusterRig.run(targets: 2, .rp3gx) { rig in
            for use in Use.allCases {
                let object = try await makeSilentObject(rig)
                let (error, time) = try await rig.failureWhenCancelled {
                    try await use.run(object)
                }
                #expect(error.code == .cancelled, "\(use): \(error)")
                #expect(time < .milliseconds(10), "\(use): \(time)")
                if use.isChange { #expect(error.mayHaveHappened, "\(use)") }
                resume(rig)
                try await use.run(object)
            }
        }
    }

    @Test func closingEndsWhatIsUnderWay() {
        ClusterRig.run { rig in
            let other = try await rig.container(ofClient: 1)
            let object = try await makeSilentObject(rig)
            rig.client.xstream.spawn {
                await rig.sleep(.milliseconds(50))
                await other.pool.cluster.close()
            }
            let (error, time) = try await rig.failure {
                try await object.seen(in: other).put("a", "2")
            }
            #expect(error.code == .cancelled)
            #expect(error.mayHaveHappened)
            #expect(time < .milliseconds(60), "\(time)")
        }
    }

    @Test(arguments: [.s1, .rp3g1] as [ObjectClass])
    func progressIsToldAfterEveryPart(objectClass: ObjectClass) {
        ClusterRig.run(objectClass) { rig in
            let object = try await rig.makeObject()
            let count = Self.mebibyte * 5 / 2
            let expected = [Self.mebibyte, Self.mebibyte * 2, count]
            let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 2_654_435_761 >> 15) }
            // The callbacks come on this very xstream.
            nonisolated(unsafe) var parts: [Int] = []
            try await object.write(
                dkey: [1], akey: [], offset: 3, buffer: IOBuffer(copying: [9] + bytes),
                range: 1..<count + 1
            ) { parts.append($0) }
            #expect(parts == expected)
            parts = []
            let buffer = IOBuffer(count: count + 2)
            try await object.read(
                dkey: [1], akey: [], offset: 3, into: buffer, range: 2..<count + 2
            ) { parts.append($0) }
            #expect(parts == expected)
            #expect(buffer.array(2..<count + 2) == bytes)
            #expect(try await object.arrayEnd(dkey: [1], akey: []) == UInt64(count + 3))
        }
    }

    /// Two connections of one process, at the same time by its clock: their changes are two.
    @Test func clientsOfOneWorldAreTwo() {
        ClusterRig.run { rig in
            let world = rig.cluster.world(client: 1)
            let simulation = rig.cluster.simulation
            let object = try await rig.makeObject()
            var objects: [DrayObject] = []
            for _ in 0..<2 {
                let client = try await Cluster.connect(
                    to: rig.cluster.description(timeout: .seconds(2)), world: world)
                objects.append(
                    object.seen(in: try await client.pool("tank").container("data")))
            }
            #expect(objects[0].container.id == objects[1].container.id)
            await rig.sleep(.milliseconds(10))
            let done = Gather<Bool>(count: 2)
            let put = { (index: Int) in
                do {
                    try await objects[index].put("client \(index)", "1")
                    done.finish(index, with: true)
                } catch {
                    Issue.record("\(error)")
                    done.finish(index, with: false)
                }
            }
            objects[0].container.pool.cluster.xstream.simulate {
                let time = world.clock.wallNanoseconds
                objects[1].container.pool.cluster.xstream.simulate {
                    let late = Int64(world.clock.wallNanoseconds - time)
                    simulation.stepWallClock(node: rig.cluster.node(client: 1), by: -late)
                    await put(1)
                }
                await put(0)
            }
            #expect(await done.results() == [true, true])
            for index in 0..<2 { #expect(try await object.get("client \(index)") == "1") }
            var identities = Set<ObjectID>()
            for object in objects {
                for _ in 0..<10 { identities.insert(try await object.container.makeObjectID()) }
            }
            #expect(identities.count == 20)
        }
    }
}
