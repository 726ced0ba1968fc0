import DrayFabric
import DrayProtocol
import DrayRuntime
import Synchronization
import Testing

@testable import BIO
@testable import DrayEngine

/// Which targets are on which device, and how an engine finds its devices again.
@Suite struct DeviceTests {
    // MARK: - Layout

    @Test(arguments: [(1, 1), (2, 1), (2, 2), (5, 2), (7, 3), (256, 24)])
    func targetsAreSpreadEvenly(targetCount: Int, deviceCount: Int) throws {
        let layout = DeviceLayout(deviceCount: deviceCount, targetCount: targetCount)
        var all: [UInt32] = []
        var firsts: Set<UInt32> = []
        let system = DevicePartitions.systemTarget
        for device in 0..<deviceCount {
            let stores = layout.stores(on: device)
            #expect(stores.contains(system) == (device == 0))
            let targets = stores.filter { $0 != system }
            #expect(
                (targetCount / deviceCount...(targetCount - 1) / deviceCount + 1)
                    .contains(targets.count))
            #expect(stores.allSatisfy { layout.device(of: $0) == device })
            firsts.insert(try #require(stores.first))
            all += targets
            // Partitions follow each other without a gap, in this order.
            let size: UInt64 = 20 << 30
            let partitions = try #require(layout.partitions(on: device, size: size))
            #expect(partitions.count == stores.count)
            var end: UInt64 = 0
            for partition in partitions {
                #expect(partition.lowerBound == end)
                end = partition.upperBound
            }
            #expect(end <= size)
            let sizeMin = layout.sizeMin(of: device)
            #expect(layout.partitions(on: device, size: sizeMin) != nil)
            #expect(layout.partitions(on: device, size: sizeMin - 1) == nil)
        }
        #expect(all.sorted() == (0..<UInt32(targetCount)).map { $0 })
        // So the first store tells the device.
        #expect(firsts.count == deviceCount)
    }

    @Test func problemsAreNamed() {
        func problem(_ paths: [String], metadata: String? = nil) -> String? {
            var configuration = Node.configuration(paths, targets: 2)
            configuration.metadataDevicePath = metadata
            return configuration.problem
        }
        #expect(problem(["a", "b"]) == nil)
        #expect(problem(["a", "b"], metadata: "m") == nil)
        #expect(problem([])?.contains("needs a device") == true)
        #expect(problem(["a", "a"])?.contains("a is given twice") == true)
        #expect(problem(["a", "b", "c"])?.contains("3 devices need as many targets") == true)
        #expect(problem(["a", "b"], metadata: "b")?.contains("another than the device") == true)
    }

    // MARK: - On devices

    /// A simulated process after the other, with devices of one size.
    private final class Node {
        static let size: UInt64 = 512 << 20
        static let cluster = UniqueID(high: 1, low: 2)

        let simulation: Simulation
        let store: SimulatedDeviceStore
        private let fabric: SimulatedFabric
        private var incarnation = 0

        init(seed: UInt64, _ paths: [String]) throws {
            simulation = Simulation(seed: seed)
            store = SimulatedDeviceStore(simulation: simulation)
            fabric = SimulatedFabric(simulation: simulation)
            for path in paths { try store.create(path: path, size: Node.size) }
        }

        static func configuration(
            _ paths: [String], targets: Int, rank: UInt32 = 0, cluster: UniqueID = cluster
        ) -> EngineConfiguration {
            var configuration = EngineConfiguration(
                cluster: cluster, rank: rank,
                engines: [
                    EngineConfiguration.record(
                        rank: rank, bases: ["sim://engine-\(rank)"], targetCount: targets)
                ], devicePaths: paths)
            configuration.logSize = 1 << 20
            return configuration
        }

        /// Runs `body` in a process of its own.
        func run(_ body: @escaping (World, XStream) async throws -> Void) {
            incarnation += 1
            var world = simulation.world(node: 1, incarnation: incarnation)
            world.devices = store
            world.fabric = fabric
            let made = world
            let xstream = world.makeXStream(name: "test")
            var isDone = false
            xstream.simulate {
                do { try await body(made, xstream) } catch { Issue.record("\(error)") }
                isDone = true
            }
            #expect(simulation.run(for: .seconds(600), until: { isDone }))
            simulation.kill(node: 1, incarnation: incarnation)
        }

        func format(_ configuration: EngineConfiguration) {
            run { world, _ in try await Engine.format(configuration, world: world) }
        }

        /// What starting an engine fails with; it must fail, and change nothing.
        func refusal(
            _ configuration: EngineConfiguration, location: SourceLocation = #_sourceLocation
        ) -> String {
            var result = ""
            let paths =
                configuration.devicePaths + [configuration.metadataDevicePath].compactMap { $0 }
            let before = paths.map(fingerprint)
            run { world, _ in
                do {
                    let engine = try await Engine.start(configuration, world: world)
                    Issue.record("it has started", sourceLocation: location)
                    await engine.stop()
                } catch {
                    result = "\(error)"
                }
            }
            #expect(paths.map(fingerprint) == before, sourceLocation: location)
            return result
        }

        private func fingerprint(_ path: String) -> UInt64? {
            path.hasPrefix("no") ? nil : store.image(path: path).fingerprint
        }
    }

    private static let paths = ["a", "b", "c"]

    private static let orders = [
        ["a", "b", "c"], ["a", "c", "b"], ["b", "a", "c"], ["b", "c", "a"], ["c", "a", "b"],
        ["c", "b", "a"],
    ]

    /// Whatever order the paths are given in, each target finds its device, with one metadata
    /// device and without.
    @Test(arguments: [false, true]) func anyOrderIsRecognised(hasMetadata: Bool) throws {
        let node = try Node(seed: 1, Self.paths + ["m"])
        func configuration(_ paths: [String]) -> EngineConfiguration {
            var configuration = Node.configuration(paths, targets: 5)
            configuration.metadataDevicePath = hasMetadata ? "m" : nil
            return configuration
        }
        node.format(configuration(Self.paths))
        for order in Self.orders {
            node.run { world, xstream in
                let found = try await EngineDevices.find(
                    configuration(order), world: world, on: xstream)
                #expect(found.paths == Self.paths)
                let engine = try await Engine.start(configuration(order), world: world)
                for (index, target) in engine.targets.enumerated() {
                    let name = await target.xstream.run { target.value.blocks.device.name }
                    #expect(name == Self.paths[index % 3])
                }
                await engine.stop()
            }
        }
    }

    @Test func wrongDevicesAreRefusedByName() throws {
        let node = try Node(seed: 2, ["a", "b", "c", "d", "e", "x", "y", "m", "empty"])
        let right = Node.configuration(["a", "b"], targets: 4)
        node.format(right)
        // Of another engine, and of another cluster; on three devices; with a metadata device.
        node.format(Node.configuration(["x"], targets: 4, rank: 1))
        node.format(Node.configuration(["y"], targets: 4, cluster: UniqueID(high: 7, low: 7)))
        node.format(Node.configuration(["c", "d", "e"], targets: 4))
        node.store.restore(node.store.image(path: "b"), path: "copy")
        func refusal(_ paths: [String], targets: Int = 4, metadata: String? = nil) -> String {
            var configuration = Node.configuration(paths, targets: targets)
            configuration.metadataDevicePath = metadata
            return node.refusal(configuration)
        }
        #expect(refusal(["none", "b"]).contains("device none does not exist"))
        #expect(refusal(["none", "b"]).contains("the engine's own store is on it"))
        #expect(refusal(["none", "nothing"]).contains("device none does not exist"))
        #expect(refusal(["empty", "b"]).contains("device empty holds something"))
        #expect(refusal(["a", "x"]).contains("device x belongs elsewhere"))
        #expect(refusal(["a", "x"]).contains("engine 0, found cluster"))
        #expect(refusal(["y", "b"]).contains("device y belongs elsewhere"))
        // Half of them, one of another number, and more than there are.
        let alone = refusal(["a"])
        #expect(alone.contains("device a belongs elsewhere"), "\(alone)")
        #expect(alone.contains("found the engine's own store and targets 0, 2"), "\(alone)")
        #expect(alone.contains("4 targets on 1 device"), "\(alone)")
        #expect(refusal(["b"]).contains("device b belongs elsewhere"))
        let mixed = refusal(["a", "d"])
        #expect(mixed.contains("device d belongs elsewhere: expected target 1 in"), "\(mixed)")
        #expect(refusal(["a", "b", "empty"]).contains("device empty holds something"))
        #expect(refusal(["a", "b", "x"]).contains("targets on 3 devices"))
        // One of them twice.
        for (paths, other) in [(["b", "copy"], "b"), (["copy", "b"], "copy")] {
            let twice = refusal(paths)
            #expect(
                twice.contains(
                    "device \(paths[1]) belongs elsewhere: expected the engine's own store and "
                        + "targets 0, 2, found targets 1, 3, which \(other) has, too"), "\(twice)")
        }
        // Another number of targets; a metadata device where there is none.
        #expect(refusal(["a", "b"], targets: 6).contains("6 targets on 2 devices"))
        #expect(refusal(["a", "b"], targets: 2).contains("2 targets on 2 devices"))
        #expect(refusal(["a", "b"], metadata: "m").contains("device a belongs elsewhere"))
        // And the right ones start.
        node.run { world, _ in
            let engine = try await Engine.start(right, world: world)
            await engine.stop()
        }
    }

    /// Without a device, or with one that nothing can be read from, its targets are out of service
    /// and the others are not; nothing is changed on it. When it is there again, so are they.
    @Test(arguments: [false, true]) func aMissingDeviceTakesItsTargetsAlong(isThere: Bool) throws {
        let node = try Node(seed: 4, Self.paths)
        node.format(Node.configuration(Self.paths, targets: 5))
        let before = node.store.image(path: "b").crashed(.keep, seed: 1)
        if isThere {
            for place in [0, 4096] as [UInt64] { node.store.makeUnreadable(path: "b", at: place) }
        }
        let name = isThere ? "b" : "none"
        for order in [["a", name, "c"], ["c", "a", name]] {
            node.run { world, _ in
                let engine = try await Engine.start(
                    Node.configuration(order, targets: 5), world: world)
                var found: [Int: String] = [:]
                for target in engine.targets {
                    let (index, path) = await target.xstream.run {
                        (target.value.index, target.value.blocks.device.name)
                    }
                    found[index] = path
                }
                #expect(found == [0: "a", 2: "c", 3: "a"])
                var lost: [Int] = []
                for target in engine.lostTargets {
                    lost.append(await target.xstream.run { target.value.index })
                }
                #expect(lost == [1, 4])
                await engine.stop()
            }
        }
        node.store.restore(before, path: "b")
        node.run { world, _ in
            let engine = try await Engine.start(
                Node.configuration(Self.paths, targets: 5), world: world)
            #expect(engine.targets.count == 5 && engine.lostTargets.isEmpty)
            await engine.stop()
            #expect(node.store.image(path: "b").hasUnreadable == false)
        }
    }

    /// A device that was declared faulty is not served from by the next engine, nor by the one
    /// after that, until somebody returns it to service.
    @Test func aFaultyDeviceStaysOutOfService() throws {
        let node = try Node(seed: 6, Self.paths + ["m"])
        var configuration = Node.configuration(Self.paths, targets: 5)
        configuration.metadataDevicePath = "m"
        node.format(configuration)
        let made = configuration
        func declareFaulty(_ path: String) {
            node.run { world, xstream in
                let device = try world.devices.open(path: path, on: xstream)
                let labels = try await BlockStore.labels(on: device)
                try await BlockStore.setFaulty(true, device, labels[0].partition)
                await device.close()
            }
        }
        func reinstate(_ path: String) {
            node.run { world, xstream in
                let device = try world.devices.open(path: path, on: xstream)
                #expect(try await BlockStore.reinstate(device) == 1)
                await device.close()
            }
        }
        for path in ["a", "b", "m"] {
            declareFaulty(path)
            if path != "b" {
                let refusal = node.refusal(configuration)
                #expect(refusal.contains("device \(path) was declared faulty"), "\(refusal)")
            }
            for _ in 0..<2 where path == "b" {
                node.run { world, _ in
                    let engine = try await Engine.start(made, world: world)
                    #expect(engine.targets.count == 3)
                    var lost: [Int] = []
                    for target in engine.lostTargets {
                        lost.append(await target.xstream.run { target.value.index })
                    }
                    #expect(lost == [1, 4])
                    await engine.stop()
                }
            }
            reinstate(path)
        }
        node.run { world, _ in
            let engine = try await Engine.start(made, world: world)
            #expect(engine.targets.count == 5 && engine.lostTargets.isEmpty)
            await engine.stop()
        }
    }

    @Test func aMetadataDeviceIsNoDataDevice() throws {
        let node = try Node(seed: 3, ["a", "b", "m"])
        var configuration = Node.configuration(["a", "b"], targets: 2)
        configuration.metadataDevicePath = "m"
        node.format(configuration)
        configuration.devicePaths = ["a", "m"]
        configuration.metadataDevicePath = "b"
        let refusal = node.refusal(configuration)
        #expect(
            refusal.contains("device m belongs elsewhere: expected a data device"), "\(refusal)")
    }

    /// Nothing is formatted when one of several devices has something, and all of them when that
    /// may be overwritten.
    @Test func formattingLooksAtAllDevicesFirst() throws {
        let node = try Node(seed: 5, ["a", "b"])
        try node.store.create(path: "small", size: 64 << 20)
        var image = node.store.image(path: "b")
        image.overwrite(at: 4096, with: [1])
        node.store.restore(image, path: "b")
        func failure(_ paths: [String], overwrite: Bool = false) -> String? {
            var result: String?
            let before = paths.map { node.store.image(path: $0).fingerprint }
            node.run { world, _ in
                do {
                    try await Engine.format(
                        Node.configuration(paths, targets: 2), world: world,
                        overwrite: overwrite)
                } catch {
                    result = "\(error)"
                }
            }
            let after = paths.map { node.store.image(path: $0).fingerprint }
            #expect((after == before) == (result != nil))
            return result
        }
        #expect(failure(["a", "b"])?.contains("device b holds something") == true)
        // Without the engine's own store it is just large enough.
        #expect(failure(["a", "small"]) == nil)
        #expect(failure(["small", "a"])?.contains("small has 67108864 bytes") == true)
        #expect(failure(["a", "b"], overwrite: true) == nil)
        node.run { world, _ in
            let engine = try await Engine.start(
                Node.configuration(["b", "a"], targets: 2), world: world)
            await engine.stop()
        }
    }
    // MARK: - Health

    /// What was logged of the health of devices.
    private final class HealthLog: Sendable {
        private let lines = Mutex<[String]>([])

        func add(_ line: String) {
            if line.contains("health of") { lines.withLock { $0.append(line) } }
        }

        /// Since the last time.
        func take() -> [String] {
            lines.withLock { lines in
                defer { lines = [] }
                return lines
            }
        }
    }

    private static func health(
        _ change: (inout NVMeHealth) -> Void = { _ in }
    ) -> NVMeHealth {
        var health = NVMeHealth(page: [UInt8](repeating: 0, count: NVMeHealth.pageBytes))
        health.temperature = 40
        health.spare = 100
        health.spareThreshold = 10
        change(&health)
        return health
    }

    /// What the gauge of each path shows.
    private static func gauges(_ name: String, _ registry: TelemetryRegistry) -> [String: Double] {
        var levels: [String: Double] = [:]
        for sample in registry.snapshot() where sample.name == name {
            guard case .level(let level) = sample.value, sample.dimensions.first == "rank=0",
                let path = sample.dimensions.last
            else { continue }
            levels[path] = level
        }
        return levels
    }

    /// Runs `body` beside an engine on the devices a and b, with a metadata device m.
    private static func monitor(
        _ node: Node,
        _ body: @escaping (Engine, XStream, HealthLog, TelemetryRegistry) async throws -> Void
    ) {
        var configuration = Node.configuration(["a", "b"], targets: 2)
        configuration.metadataDevicePath = "m"
        node.format(configuration)
        let made = configuration
        node.run { world, xstream in
            let (log, registry) = (HealthLog(), TelemetryRegistry())
            var world = world
            world.log = LogFacilities(sink: { log.add($0) })
            try world.log.set(mask: "notice")
            world.metrics = registry
            let engine = try await Engine.start(made, world: world)
            // After the first answers, and then between all others.
            await xstream.sleep(for: .seconds(1))
            try await body(engine, xstream, log, registry)
        }
    }

    /// What a controller warns of is logged once, and so is its end; the gauges show what it said
    /// last. A device without health is not asked.
    @Test func whatAControllerWarnsOfIsLoggedOnce() throws {
        let node = try Node(seed: 7, ["a", "b", "m"])
        let store = node.store
        store.setHealth(Self.health { $0.mediaErrors = 2 }, path: "a")
        store.setHealth(Self.health { $0.criticalWarning = 8 }, path: "m")
        Self.monitor(node) { engine, xstream, log, registry in
            func expect(
                _ lines: [String], _ name: String, _ level: Double, location: SourceLocation
            ) async {
                await engine.publishMetrics()
                let gauges = Self.gauges("dray_nvme_" + name, registry)
                #expect(log.take() == lines, sourceLocation: location)
                #expect(gauges["path=a"] == level, sourceLocation: location)
                #expect(gauges.keys.sorted() == ["path=a", "path=m"], sourceLocation: location)
            }
            /// From now on it says that: what is logged at the next answer, and at the one after.
            func next(
                _ health: NVMeHealth?, _ lines: [String], _ name: String, _ level: Double,
                location: SourceLocation = #_sourceLocation
            ) async {
                store.setHealth(health, path: "a")
                for lines in [lines, []] {
                    await xstream.sleep(for: NVMeMonitor.period)
                    await expect(lines, name, level, location: location)
                }
            }
            // What was before the start is no news, unless it lasts.
            await expect(
                ["warning engine: health of m: read-only"], "media_errors", 2,
                location: #_sourceLocation)
            var health = Self.health {
                $0.mediaErrors = 2
                $0.criticalWarning = 2
                $0.temperature = 90
            }
            let warning = "warning engine: health of a: "
            await next(health, [warning + "temperature"], "temperature_celsius", 90)
            health.criticalWarning = 3
            health.spare = 9
            health.mediaErrors = 5
            await next(
                health,
                [
                    warning + "spare space is low", warning + "spare space is below its threshold",
                    warning + "media errors: 3 more, 5 in all",
                ], "spare_percent", 9)
            await next(nil, [warning + "the controller does not answer"], "critical_warning", 3)
            health.criticalWarning = 2
            health.spare = 10
            health.percentageUsed = 101
            let over = "notice engine: health of a: no longer: "
            await next(
                health,
                [
                    over + "spare space is low", over + "spare space is below its threshold",
                    over + "the controller does not answer",
                ], "life_used_percent", 101)
            #expect(["a", "b", "m"].map { store.healthRequests(path: $0) } == [9, 0, 9])
            await engine.stop()
        }
    }

    /// One that hangs is not asked again meanwhile, the others are, and the engine stops.
    @Test func aControllerThatHangsHoldsNothingUp() throws {
        let node = try Node(seed: 8, ["a", "b", "m"])
        let store = node.store
        func requests() -> [Int] { ["a", "b", "m"].map { store.healthRequests(path: $0) } }
        store.setHealth(Self.health { $0.criticalWarning = 1 }, delay: .seconds(300), path: "a")
        store.setHealth(Self.health(), path: "b")
        Self.monitor(node) { engine, xstream, log, _ in
            await xstream.sleep(for: .seconds(130))
            #expect(requests() == [1, 3, 0])
            let start = xstream.now
            await engine.stop()
            #expect(xstream.now.since(start) < .seconds(10))
            await xstream.sleep(for: .seconds(200))
            #expect(requests() == [1, 3, 0])
            #expect(log.take() == [])
        }
    }
}
