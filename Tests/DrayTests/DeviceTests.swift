import BIO
import Dray
import DrayPlacement
import DrayRuntime
import DraySimulator
import Testing

/// Engines with several devices, one of which fails.
@Suite struct DeviceTests {
    private static let engines = 2
    private static let targets = 4
    private static let devices = 2

    /// Targets are dealt out to devices in turn.
    private static func device(of address: TargetAddress) -> Int { Int(address.target) % devices }

    /// An object of one replica on a target.
    private static func object(
        _ rig: ClusterRig, rank: UInt32, target: UInt32
    ) async throws -> DrayObject {
        for _ in 0..<1000 {
            let object = try await rig.makeObject(.s1)
            if try object.layout() == [TargetAddress(rank: rank, target: target)] { return object }
        }
        throw DrayError(.internalError, "no object is on target \(target) of engine \(rank)")
    }

    private static func run(
        seed: UInt64 = 1, _ body: @escaping (ClusterRig) async throws -> Void
    ) {
        ClusterRig.run(
            seed: seed, engines: engines, targets: targets, devices: devices, .rp2g1, body)
    }

    private static func path(_ rig: ClusterRig, device: Int) -> String {
        rig.cluster.devicePath(rank: 1, device: device)
    }

    /// The faults that let a device fail, by what is used of it.
    enum Failing: CaseIterable {
        case write, flush

        var faults: DeviceFaults {
            var faults = DeviceFaults()
            if self == .write { faults.writeErrorChance = 1_000_000 }
            if self == .flush { faults.flushErrorChance = 1_000_000 }
            return faults
        }
    }

    /// All of its targets, and nothing else, are out of service at its first error; it is not
    /// touched again. Restarted with a device that works, the engine has all that was acknowledged.
    @Test(arguments: 0..<devices, Failing.allCases)
    func anErrorTakesTheTargetsOfOneDevice(failing: Int, how: Failing) {
        Self.run(seed: UInt64(failing)) { rig in
            let large = [UInt8](repeating: 5, count: 20_000)
            var objects: [DrayObject] = []
            for target in 0..<UInt32(Self.targets) {
                let object = try await Self.object(rig, rank: 1, target: target)
                try await object.put("a", "old")
                try await object.put(dkey: "large".bytes, akey: [], value: large)
                objects.append(object)
            }
            let replicated = try await rig.makeObject()
            try await replicated.put("a", "old")
            // Until every replica knows of the last commit.
            await rig.sleep(.milliseconds(100))
            let path = Self.path(rig, device: failing)
            rig.cluster.devices.setFaults(how.faults, path: path)
            // The first one meets the error.
            var isFirst = true
            for (target, object) in objects.enumerated() where target % Self.devices == failing {
                let (error, _) = try await rig.failure {
                    try await object.put(dkey: "new".bytes, akey: [], value: large)
                }
                #expect(error.code == .device, "\(error)")
                #expect("\(error)".contains("device \(path) "), "\(error)")
                #expect("\(error)".contains("Input/output error") == isFirst, "\(error)")
                isFirst = false
            }
            rig.cluster.devices.setFaults(DeviceFaults(), path: path)
            for (target, object) in objects.enumerated() {
                // What is there can be read all the same.
                #expect(try await object.get("a") == "old")
                #expect(try await object.get(dkey: "large".bytes, akey: []) == large)
                guard target % Self.devices == failing else {
                    try await object.put("b", "new")
                    continue
                }
                let (error, time) = try await rig.failure { try await object.put("b", "new") }
                #expect(error.code == .device, "\(error)")
                #expect("\(error)".contains("out of service"), "\(error)")
                #expect(time < .milliseconds(10), "\(time)")
            }
            let isHit = try replicated.layout().contains {
                $0.rank == 1 && Self.device(of: $0) == failing
            }
            if isHit {
                let (error, _) = try await rig.failure { try await replicated.put("a", "new") }
                #expect(error.code == .device, "\(error)")
                #expect(["old", "new"].contains(try await replicated.get("a")))
            } else {
                try await replicated.put("a", "new")
                #expect(try await replicated.get("a") == "new")
            }
            await rig.sleep(.seconds(2))
            let counts = rig.cluster.devices.faultCounts(path: path)
            #expect(counts.writeErrors + counts.flushErrors == 1, "\(counts)")

            rig.cluster.kill(rank: 1)
            try await rig.cluster.start(rank: 1)
            for (target, object) in objects.enumerated() {
                #expect(try await object.get("a") == "old")
                #expect(try await object.get(dkey: "large".bytes, akey: []) == large)
                let isFailed = target % Self.devices == failing
                #expect(try await object.get("b") == (isFailed ? nil : "new"))
                try await object.put("b", "newer")
                #expect(try await object.get("b") == "newer")
            }
            try await replicated.put("a", "newer")
            #expect(try await replicated.verify().isEqual)
        }
    }

    /// Pools and containers change while every engine can write that down: on its first device.
    @Test(arguments: 0..<devices) func metadataIsOnTheFirstDevice(failing: Int) {
        Self.run { rig in
            let objects = [
                try await Self.object(rig, rank: 1, target: 0),
                try await Self.object(rig, rank: 1, target: 1),
            ]
            rig.cluster.devices.setFaults(
                Failing.write.faults, path: Self.path(rig, device: failing))
            _ = try await rig.failure { try await objects[failing].put("a", "new") }
            let pool = rig.container.pool
            if failing == 0 {
                let (error, _) = try await rig.failure {
                    _ = try await pool.createContainer(label: "more", objectClass: .s1)
                }
                #expect(error.code == .device, "\(error)")
                #expect("\(error)".contains("engine 1: device "), "\(error)")
            } else {
                try await pool.createContainer(label: "more", objectClass: .s1)
            }
            let labels = try await pool.containers().map(\.label)
            // Without the first device nobody knows: the other engines may have stored it.
            #expect(labels.contains("data") && (failing == 0 || labels.contains("more")))
            try await objects[1 - failing].put("a", "new")
            #expect(try await objects[1 - failing].get("a") == "new")
        }
    }

    /// An engine starts without a device that has died: what is on it cannot be had, and who asks
    /// hears so at once; everything else goes on. With the device all is there again.
    @Test func anEngineWithoutOneOfItsDevices() {
        Self.run { rig in
            var objects: [DrayObject] = []
            for target in 0..<UInt32(Self.targets) {
                let object = try await Self.object(rig, rank: 1, target: target)
                try await object.put("a", "old")
                objects.append(object)
            }
            var replicated: DrayObject
            repeat {
                replicated = try await rig.makeObject()
            } while try !replicated.layout().contains { $0.rank == 1 && Self.device(of: $0) == 1 }
            try await replicated.put("a", "old")
            await rig.sleep(.milliseconds(100))
            let path = Self.path(rig, device: 1)
            rig.cluster.kill(rank: 1)
            let image = rig.cluster.devices.image(path: path).crashed(.keep, seed: 1)
            // Both superblocks of its first store.
            for place in [0, 4096] as [UInt64] {
                rig.cluster.devices.makeUnreadable(path: path, at: place)
            }
            try await rig.cluster.start(rank: 1)
            for (target, object) in objects.enumerated() {
                guard target % Self.devices == 1 else {
                    try await object.put("a", "new")
                    #expect(try await object.get("a") == "new")
                    continue
                }
                for body in [
                    { _ = try await object.get("a") }, { try await object.put("a", "lost") },
                    { _ = try await object.listDkeys() },
                ] as [() async throws -> Void] {
                    let (error, time) = try await rig.failure { try await body() }
                    #expect(error.code == .unavailable, "\(error)")
                    #expect("\(error)".contains("target 1.\(target) is out of service"), "\(error)")
                    #expect("\(error)".contains("device \(path) "), "\(error)")
                    #expect(time < .seconds(1), "\(time)")
                }
            }
            #expect(try await replicated.get("a") == "old")
            let (late, _) = try await rig.failure { try await replicated.put("a", "new") }
            #expect(late.code == .unavailable, "\(late)")
            // A pool and a snapshot are of all targets; a container is what the engine knows.
            let pool = rig.container.pool
            let (unmade, _) = try await rig.failure {
                _ = try await rig.client.createPool(label: "more", size: 256 << 20)
            }
            #expect(unmade.code == .unavailable, "\(unmade)")
            #expect("\(unmade)".contains("target 1.1 is out of service"), "\(unmade)")
            let (untaken, _) = try await rig.failure {
                _ = try await rig.container.createSnapshot()
            }
            #expect(untaken.code == .unavailable, "\(untaken)")
            try await pool.createContainer(label: "more", objectClass: .s1)
            let usage = try await pool.query()
            let lost = usage.targets.filter { $0.deviceFree == 0 }.map(\.address)
            #expect(lost == [1, 3].map { TargetAddress(rank: 1, target: $0) })

            rig.cluster.kill(rank: 1)
            rig.cluster.devices.restore(image, path: path)
            try await rig.cluster.start(rank: 1)
            for (target, object) in objects.enumerated() {
                #expect(try await object.get("a") == (target % Self.devices == 1 ? "old" : "new"))
                try await object.put("a", "newer")
            }
            try await replicated.put("a", "newer")
            #expect(try await replicated.verify().isEqual)
        }
    }

    /// The power fails while all targets of all devices are written to.
    @Test(arguments: 1...3) func aPowerCutOfAllDevices(seed: UInt64) {
        Self.run(seed: seed) { rig in
            var objects: [DrayObject] = []
            for target in 0..<UInt32(Self.targets) {
                objects.append(try await Self.object(rig, rank: 1, target: target))
            }
            var acknowledged = [Int](repeating: 0, count: Self.targets)
            var isCut = false
            var running = Self.targets
            for (target, object) in objects.enumerated() {
                let limited = object.seen(in: rig.container.within(.milliseconds(500)))
                rig.client.xstream.spawn {
                    for number in 1...200 where !isCut {
                        do {
                            let padding = String(repeating: "x", count: number * 37 % 9000)
                            try await limited.put("a", "\(number) " + padding)
                            acknowledged[target] = number
                        } catch {
                            #expect(isCut, "\(error)")
                        }
                    }
                    running -= 1
                }
            }
            await rig.sleep(.milliseconds(15))
            isCut = true
            rig.cluster.kill(rank: 1)
            while running > 0 { await rig.sleep(.milliseconds(10)) }
            try await rig.cluster.start(rank: 1)
            for (target, object) in objects.enumerated() {
                let value = try #require(try await object.get("a"))
                let number = try #require(Int(value.split(separator: " ")[0]))
                #expect(acknowledged[target] > 0)
                // The one under way may have happened, too.
                #expect((0...1).contains(number - acknowledged[target]))
            }
        }
    }
}
