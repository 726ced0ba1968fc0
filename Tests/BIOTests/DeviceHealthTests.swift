import DrayRuntime
import Testing

@testable import BIO

/// What the stores of one device have in common.
@Suite struct DeviceHealthTests {
    private static let half: UInt64 = 64 * 4096

    private static func partition(_ number: UInt64) -> Range<UInt64> {
        number * half..<(number + 1) * half
    }

    private static func identity(_ target: UInt64) -> StoreIdentity {
        var identity = SimulatedNode.identity
        identity.target = UInt32(target)
        return identity
    }

    /// Two stores on the node's device.
    private static func format(
        _ node: SimulatedNode, metadata: BlockStore.MetadataPartition? = nil
    ) async throws {
        let device = try node.openDevice()
        for number in 0..<2 as Range<UInt64> {
            try await BlockStore.format(
                device, partition: partition(number), identity: identity(number),
                logSize: 16 * 4096, salt: number,
                metadata: metadata.map {
                    BlockStore.MetadataPartition(
                        device: $0.device, partition: partition(number))
                })
        }
        await device.close()
    }

    private static func open(
        _ node: SimulatedNode, _ number: UInt64, _ health: DeviceHealth?,
        metadata: DeviceHealth? = nil
    ) async throws -> BlockStore {
        let device = try node.openDevice()
        device.health = health
        var part: BlockStore.MetadataPartition?
        if let metadata {
            let device = try node.store.open(path: "metadata", on: node.xstream)
            device.health = metadata
            part = BlockStore.MetadataPartition(device: device, partition: partition(number))
        }
        let store = try await BlockStore.open(
            device, partition: partition(number), identity: identity(number), metadata: part,
            on: node.xstream)
        _ = try await store.replayed()
        return store
    }

    private static func failure(_ body: () async throws(BIOError) -> Void) async -> BIOError? {
        do throws(BIOError) {
            try await body()
            return nil
        } catch {
            return error
        }
    }

    /// The errors that a health was told of.
    private final class Reports {
        @safe nonisolated(unsafe) var errors: [BIOError] = []

        func makeHealth(_ criteria: FaultyCriteria = FaultyCriteria()) -> DeviceHealth {
            nonisolated(unsafe) let reports = self
            return DeviceHealth(criteria: criteria) { reports.errors.append($0) }
        }
    }

    @Test func storesGoOutOfServiceTogether() {
        let node = SimulatedNode(seed: 1, blocks: 128)
        let path = SimulatedNode.path
        node.run {
            try await Self.format(node)
            let reports = Reports()
            let health = reports.makeHealth()
            let first = try await Self.open(node, 0, health)
            let second = try await Self.open(node, 1, health)
            var faults = DeviceFaults()
            faults.writeErrorChance = 1_000_000
            node.store.setFaults(faults)
            // One is under way in the other store: what it waits for is its own business.
            var late: BIOError?
            var isDone = false
            node.xstream.spawn {
                late = await Self.failure { () async throws(BIOError) in
                    _ = try await second.append([9])
                }
                isDone = true
            }
            let error = await Self.failure { () async throws(BIOError) in
                _ = try await first.append([1])
            }
            guard case .failed(path, _, _, _) = error else {
                Issue.record("\(String(describing: error))")
                return
            }
            while !isDone { await node.xstream.sleep(for: .milliseconds(1)) }
            #expect(late != nil)
            node.store.setFaults(DeviceFaults())
            #expect(health.isOutOfService && first.isOutOfService && second.isOutOfService)
            let out = BIOError.outOfService(path: path)
            for store in [first, second] {
                #expect(
                    await Self.failure { () async throws(BIOError) in
                        _ = try await store.append([2])
                    } == out)
                #expect(
                    await Self.failure { () async throws(BIOError) in
                        try await store.publishCheckpoint(
                            CheckpointRoot(
                                extents: [], byteCount: 0, checksum: 0, logSequence: 0))
                    } == out)
            }
            #expect(reports.errors.count == 1)
            let writes = node.store.boundaryCount
            await first.close()
            await second.close()
            #expect(node.store.boundaryCount == writes)
            // A store that shares nothing goes on.
            let other = try await Self.open(node, 0, reports.makeHealth())
            _ = try await other.append([3])
            await other.close()
        }
    }

    @Test(arguments: [false, true]) func theDeviceThatFailedIsNamed(isMetadata: Bool) throws {
        let node = SimulatedNode(seed: 2, blocks: 128)
        try node.store.create(path: "metadata", size: 2 * Self.half)
        node.run {
            let place = try node.store.open(path: "metadata", on: node.xstream)
            try await Self.format(
                node, metadata: BlockStore.MetadataPartition(device: place, partition: 0..<1))
            await place.close()
            let (data, metadata) = (DeviceHealth(), DeviceHealth())
            let first = try await Self.open(node, 0, data, metadata: metadata)
            let second = try await Self.open(node, 1, data, metadata: metadata)
            let path = isMetadata ? "metadata" : SimulatedNode.path
            var faults = DeviceFaults()
            faults.writeErrorChance = 1_000_000
            node.store.setFaults(faults, path: path)
            let bytes = Ledger.pattern(1, blocks: 1)
            let extents = try first.allocator.reserve(blocks: 1)
            let error = await Self.failure { () async throws(BIOError) in
                if isMetadata {
                    _ = try await first.append([1])
                } else {
                    try await first.write(UnsafeRawBufferPointer(bytes.bytes), to: extents)
                }
            }
            guard case .failed(path, _, _, _) = error else {
                Issue.record("\(String(describing: error))")
                return
            }
            #expect(data.isOutOfService == !isMetadata)
            #expect(metadata.isOutOfService == isMetadata)
            #expect(
                await Self.failure { () async throws(BIOError) in
                    _ = try await second.append([1])
                } == .outOfService(path: path))
            await first.close()
            await second.close()
        }
    }

    // MARK: - Places that are bad

    /// Reads that meet in a place have met the same trouble, in what they have in common.
    @Test func placesAreCountedOnce() {
        var places = FaultyPlaces()
        func add(_ range: Range<UInt64>) -> Bool { places.add(range) }
        #expect(add(0..<100) && places.count == 1)
        #expect(!add(80..<200) && places.count == 1)
        #expect(!add(80..<90))
        // It is in 80..<90.
        #expect(add(0..<80) && places.count == 2)
        #expect(add(90..<200) && places.count == 3)
        #expect(!add(85..<95) && places.count == 3)
        for place in 3..<FaultyCriteria.placesMax + 1 {
            let start = UInt64(1000 * place)
            #expect(add(start..<start + 1))
        }
        // There is an end to it.
        #expect(!add(1 << 40..<1 << 41) && places.count == FaultyCriteria.placesMax + 1)
    }

    enum Bad: CaseIterable { case unreadable, damaged }

    /// A few bad places leave the rest as it is, however often they are asked for; more than are
    /// allowed take the device out of service for all of its stores, and say so once.
    @Test(arguments: Bad.allCases) func tooManyBadPlaces(bad: Bad) {
        let node = SimulatedNode(seed: 5, blocks: 128)
        let path = SimulatedNode.path
        node.run {
            try await Self.format(node)
            let reports = Reports()
            var criteria = FaultyCriteria()
            criteria.unreadableMax = bad == .unreadable ? 3 : nil
            criteria.damagedMax = bad == .damaged ? 3 : nil
            let health = reports.makeHealth(criteria)
            let first = try await Self.open(node, 0, health)
            let second = try await Self.open(node, 1, health)
            let buffer = IOBuffer(count: 4096)
            func read(_ block: UInt32) async -> BIOError? {
                await Self.failure { () async throws(BIOError) in
                    try await first.read(
                        into: buffer.bytes, from: [BlockExtent(start: block, count: 1)])
                }
            }
            for block in 1...4 as ClosedRange<UInt32> {
                let place = try #require(first.location(of: block))
                if bad == .unreadable { node.store.makeUnreadable(path: path, at: place.offset) }
                for _ in 0..<20 {
                    #expect((await read(block) != nil) == (bad == .unreadable))
                    if bad == .damaged { first.noteDamage(at: block) }
                }
                let isOut = block == 4
                #expect(first.isOutOfService == isOut && second.isOutOfService == isOut)
                // What is around it is there, and in service or not: it can be read.
                #expect(await read(10 + block) == nil)
                #expect(await read(0) == nil)
                if !isOut { _ = try await second.append([UInt8(block)]) }
            }
            let statistics = first.device.statistics
            #expect(statistics.unreadablePlaces == (bad == .unreadable ? 4 : 0))
            #expect(statistics.damagedPlaces == (bad == .damaged ? 4 : 0))
            #expect(
                reports.errors == [
                    .faulty(
                        path: path, unreadable: bad == .unreadable ? 4 : 0,
                        damaged: bad == .damaged ? 4 : 0)
                ])
            #expect(
                await Self.failure { () async throws(BIOError) in
                    _ = try await second.append([9])
                } == .outOfService(path: path))
            await first.close()
            await second.close()
        }
    }

    /// Which labels of a device have the mark.
    private static func isFaulty(
        _ node: SimulatedNode, path: String = SimulatedNode.path
    ) async throws -> [Bool] {
        let device = try node.store.open(path: path, on: node.xstream)
        let labels = try await BlockStore.labels(on: device)
        #expect(labels.allSatisfy { $0.isIntact })
        await device.close()
        return labels.map(\.isFaulty)
    }

    /// A faulty device is remembered as that until somebody returns it to service: whichever of two
    /// devices it is, and only that one. What is on it is as it was.
    @Test(arguments: [nil, false, true] as [Bool?])
    func aFaultyDeviceIsMarked(isMetadata: Bool?) throws {
        let node = SimulatedNode(seed: 9, blocks: 128)
        try node.store.create(path: "metadata", size: 2 * Self.half)
        node.run {
            var criteria = FaultyCriteria()
            criteria.damagedMax = 2
            let (data, metadata) = (DeviceHealth(criteria: criteria), DeviceHealth())
            let other = DeviceHealth(criteria: criteria)
            if isMetadata == nil {
                try await Self.format(node)
            } else {
                let place = try node.store.open(path: "metadata", on: node.xstream)
                try await Self.format(
                    node, metadata: BlockStore.MetadataPartition(device: place, partition: 0..<1))
                await place.close()
            }
            let store = try await Self.open(
                node, 0, isMetadata == true ? metadata : data,
                metadata: isMetadata.map { $0 ? other : metadata })
            _ = try await store.append([7])
            let first = isMetadata == true ? store.allocator.dataBlocks : 0
            for block in first..<first + 3 { store.noteDamage(at: block) }
            #expect(store.isOutOfService)
            // The mark is under way.
            await store.close()
            await store.device.close()
            await store.metadataDevice?.close()
            let faulty = isMetadata == true ? "metadata" : SimulatedNode.path
            #expect(try await Self.isFaulty(node, path: faulty) == [true, false])
            if isMetadata != nil {
                let sound = isMetadata == true ? SimulatedNode.path : "metadata"
                #expect(try await Self.isFaulty(node, path: sound) == [false, false])
            }
            let device = try node.store.open(path: faulty, on: node.xstream)
            #expect(try await BlockStore.reinstate(device) == 1)
            #expect(try await BlockStore.reinstate(device) == 0)
            await device.close()
            #expect(try await Self.isFaulty(node, path: faulty) == [false, false])
            let again = try await Self.open(
                node, 0, nil, metadata: isMetadata == nil ? nil : DeviceHealth())
            #expect(again.appliedSequence == 1)
            _ = try await again.append([8])
            await again.close()
        }
    }

    /// A crash while the mark is written leaves a superblock, also where one copy was damaged.
    @Test(arguments: [0, 1] as [UInt64]) func aMarkIsCutShort(damaged: UInt64) {
        var faults = DeviceFaults()
        faults.crashOutcome = .tear
        var marks = 0
        for seed in 0..<8 as Range<UInt64> {
            for boundary in 0..<6 {
                let node = SimulatedNode(seed: seed, blocks: 128, faults: faults)
                node.run { try await Self.format(node) }
                node.store.damage(path: SimulatedNode.path, at: damaged * 4096 + 100)
                node.store.crash(atBoundary: boundary)
                let finished = node.run {
                    let device = try node.openDevice()
                    try await BlockStore.setFaulty(true, device, Self.partition(0))
                    await device.close()
                }
                node.restart()
                node.store.crash(atBoundary: nil)
                node.run {
                    let device = try node.openDevice()
                    let labels = try await BlockStore.labels(on: device)
                    await device.close()
                    #expect(labels.count == 2)
                    if labels.first?.isFaulty == true { marks += 1 }
                    #expect(labels.first?.isFaulty == true || !finished)
                    let store = try await Self.open(node, 0, nil)
                    await store.close()
                }
            }
        }
        #expect(marks > 0 && marks < 48)
    }

    /// A write that failed may succeed when the store is opened again: nothing is remembered.
    @Test func anErrorOfAWriteIsNotRemembered() {
        let node = SimulatedNode(seed: 10, blocks: 128)
        node.run {
            try await Self.format(node)
            let store = try await Self.open(node, 0, DeviceHealth())
            var faults = DeviceFaults()
            faults.writeErrorChance = 1_000_000
            node.store.setFaults(faults)
            #expect(
                await Self.failure { () async throws(BIOError) in
                    _ = try await store.append([1])
                } != nil)
            node.store.setFaults(DeviceFaults())
            await store.close()
            await store.device.close()
            #expect(try await Self.isFaulty(node) == [false, false])
        }
    }

    /// Without a limit nothing but a write or a flush takes a device out of service.
    @Test func anyNumberOfBadPlaces() {
        var criteria = FaultyCriteria()
        (criteria.unreadableMax, criteria.damagedMax) = (nil, nil)
        let health = DeviceHealth(criteria: criteria)
        for place in 0..<5000 as Range<UInt64> {
            _ = health.addUnreadable(place..<place + 1, path: "a")
            _ = health.addDamaged(place..<place + 1, path: "a")
        }
        #expect(!health.isOutOfService)
        criteria.unreadableMax = FaultyCriteria.placesMax
        let other = DeviceHealth(criteria: criteria)
        for place in 0..<UInt64(FaultyCriteria.placesMax + 1) {
            #expect(!other.isOutOfService)
            _ = other.addUnreadable(place..<place + 1, path: "a")
        }
        #expect(other.isOutOfService)
    }

    // MARK: - Labels

    @Test func labelsAreReadWithoutChangingAnything() {
        let node = SimulatedNode(seed: 3, blocks: 128)
        let path = SimulatedNode.path
        func labels() async throws -> [StoreLabel] {
            let device = try node.openDevice()
            let result: Result<[StoreLabel], BIOError>
            do throws(BIOError) {
                result = .success(try await BlockStore.labels(on: device))
            } catch {
                result = .failure(error)
            }
            await device.close()
            return try result.get()
        }
        node.run {
            await #expect(throws: BIOError.self) { try await labels() }
            try await Self.format(node)
            let found = try await labels()
            #expect(found.map(\.identity) == [Self.identity(0), Self.identity(1)])
            #expect(found.map(\.partition) == [Self.partition(0), Self.partition(1)])
            #expect(found.allSatisfy { $0.isIntact && $0.role == .whole })
            // One copy of the first is damaged: it is said, and stays so.
            node.store.damage(path: path, at: 100)
            let before = node.store.image(path: path).fingerprint
            #expect(try await labels().map(\.isIntact) == [false, true])
            #expect(node.store.image(path: path).fingerprint == before)
            // Both of the second: it ends there.
            node.store.damage(path: path, at: Self.half + 100)
            node.store.damage(path: path, at: Self.half + 4096 + 100)
            #expect(try await labels().map(\.identity) == [Self.identity(0)])
            // Both of the first.
            node.store.damage(path: path, at: 4096 + 100)
            do {
                _ = try await labels()
                Issue.record("labels that are damaged were read")
            } catch BIOError.corrupt(path, 0, _) {}
        }
    }

    /// A store of another engine is refused as it is: not even a damaged superblock is repaired.
    @Test func whatIsRefusedIsNotRepaired() {
        let node = SimulatedNode(seed: 4, blocks: 128)
        let path = SimulatedNode.path
        node.run {
            try await Self.format(node)
            node.store.damage(path: path, at: 100)
            let before = node.store.image(path: path).fingerprint
            let device = try node.openDevice()
            let error = await Self.failure { () async throws(BIOError) in
                _ = try await BlockStore.open(
                    device, partition: Self.partition(0), identity: Self.identity(1),
                    on: node.xstream)
            }
            guard case .mismatch = error else {
                Issue.record("\(String(describing: error))")
                return
            }
            #expect(node.store.image(path: path).fingerprint == before)
            let store = try await Self.open(node, 0, nil)
            #expect(node.store.image(path: path).fingerprint != before)
            await store.close()
            await device.close()
        }
    }
}
