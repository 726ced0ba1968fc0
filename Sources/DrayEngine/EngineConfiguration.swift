public import BIO
public import CaRT
public import DrayProtocol
public import DrayRuntime

/// Everything an engine is told from outside.
public struct EngineConfiguration: Sendable {
    /// The cluster that the engine belongs to; stamped on its devices.
    public var cluster: UniqueID

    /// The engine's number in the cluster.
    public var rank: UInt32

    /// Every engine of the cluster, this one included, with the addresses of all their contexts.
    public var engines: [EngineRecord]

    /// The devices with the data: files, block devices, generic devices of NVMe, or persistent
    /// memory. They share the targets evenly. After `format` their order does not matter: what is
    /// on them says which is which.
    public var devicePaths: [String]

    /// A faster device beside them, for the logs, the index and small values; nil for none.
    public var metadataDevicePath: String?

    /// Values shorter than this stay in the log and the index; longer ones go to blocks (DAOS:
    /// `data_thresh`).
    public var inlineThreshold = 4096

    /// Memory of each target for values that are read again and again, in bytes; 0 for none.
    public var valueCacheBytes = 32 << 20

    /// Memory of each target for its index, in bytes; at least 256 KiB.
    public var indexBytes = 64 << 20

    /// How much each target reads and verifies when it scrubs its store, in bytes a second; 0: it
    /// does so only when it is asked to.
    public var scrubRate: UInt64 = 4 << 20

    /// How often that begins. After the start of an engine the first time after an hour, or after
    /// this time if that is shorter (DAOS: `scrub_freq`).
    public var scrubInterval = Duration.seconds(7 * 86_400)

    /// How much of a device may be bad before it is taken out of service.
    public var faultyCriteria = FaultyCriteria()

    /// Requests in flight that each client is allowed per target.
    public var credits: UInt32 = 128

    /// Faults to inject from the start; nil: none, and none at run time either.
    public var faults: [FaultRule]?

    /// Whether faults can be injected at run time.
    public var allowsFaults: Bool { faults != nil }

    /// How the engine looks after the others.
    public var swim = SwimOptions()

    /// What the engine's contexts are made with, but for addresses and credits, which stand above.
    /// Nil: as the defaults of `FabricConfiguration` are.
    public var fabric: FabricConfiguration?

    /// The size of each partition's log in bytes; nil for what `DevicePartitions` finds right.
    /// Simulations take a small one, so that checkpoints are frequent.
    package var logSize: UInt64?

    /// How long superseded versions are kept, in nanoseconds; nil for the store's own default.
    package var retention: UInt64?

    /// How long decided transactions are remembered, in nanoseconds; nil for the store's own
    /// default.
    package var transactionAge: UInt64?

    /// How long other engines may take to say what they know of a transaction, and how long one
    /// that is undecided waits before they are asked; nil for as long as real networks need.
    package var peerTimeout: Duration?

    public init(
        cluster: UniqueID, rank: UInt32, engines: [EngineRecord], devicePaths: [String]
    ) {
        self.cluster = cluster
        self.rank = rank
        self.engines = engines
        self.devicePaths = devicePaths
    }

    /// This engine's entry among `engines`.
    public var record: EngineRecord? { engines.first { $0.rank == rank } }

    /// The number of targets.
    public var targetCount: Int { Int(record?.targetCount ?? 0) }

    /// The most targets of one engine.
    public static let targetsMax = 256

    /// The contexts of an engine: the system's, one per target, and the one that watches the other
    /// engines.
    public static func contextCount(targetCount: Int) -> Int { targetCount + 2 }

    /// The addresses of an engine's contexts by tag, from that of its system context: the next
    /// ports of a socket address, or the name with the tag appended.
    public static func addresses(base: String, targetCount: Int) -> [String] {
        (0..<contextCount(targetCount: targetCount)).map { tag in
            guard tag > 0 else { return base }
            if let colon = base.lastIndex(of: ":"), base[colon...].dropFirst().first != "/",
                let port = UInt16(base[base.index(after: colon)...])
            {
                return base[...colon] + String(Int(port) + tag)
            }
            return base + "-\(tag)"
        }
    }

    /// The entry of an engine whose system context listens at `bases`, on one network each.
    public static func record(
        rank: UInt32, bases: [String], targetCount: Int
    ) -> EngineRecord {
        let networks = bases.map { addresses(base: $0, targetCount: targetCount) }
        return EngineRecord(
            rank: rank, addresses: networks.first ?? [],
            // Nobody watches over a secondary network.
            secondary: networks.dropFirst().map { $0.dropLast() })
    }

    /// Why the configuration cannot work; nil when it can.
    public var problem: String? {
        guard let record else {
            return "rank \(rank) is not among the engines of the cluster"
        }
        if record.targetCount < 1 || record.targetCount > EngineConfiguration.targetsMax {
            return "an engine has 1 to \(EngineConfiguration.targetsMax) targets, "
                + "not \(record.targetCount)"
        }
        if Set(engines.map(\.rank)).count != engines.count { return "a rank is given twice" }
        for engine in engines {
            guard engine.networks.count <= EngineRecord.networksMax else {
                return "an engine has at most \(EngineRecord.networksMax) networks"
            }
            for addresses in engine.secondary
            where addresses.count != Int(engine.targetCount) + 1 {
                return "engine \(engine.rank) needs an address for each context on each network"
            }
        }
        let addresses = engines.flatMap { $0.networks.joined() }
        if Set(addresses).count != addresses.count { return "an address is given twice" }
        return deviceProblem(targetCount: Int(record.targetCount)) ?? swim.problem
    }

    private func deviceProblem(targetCount: Int) -> String? {
        if devicePaths.isEmpty { return "an engine needs a device" }
        if let path = devicePaths.enumerated().first(where: { index, path in
            devicePaths[..<index].contains(path)
        })?.element {
            return "the device \(path) is given twice"
        }
        if devicePaths.count > targetCount {
            return "\(devicePaths.count) devices need as many targets, and the engine has "
                + "\(targetCount)"
        }
        if let metadataDevicePath, devicePaths.contains(metadataDevicePath) {
            return "the metadata device must be another than the device"
        }
        return nil
    }

    func identity(target: UInt32) -> StoreIdentity {
        StoreIdentity(
            clusterID: cluster, engineID: UniqueID(high: cluster.low, low: UInt64(rank)),
            target: target)
    }
}

/// Why an engine cannot start or go on.
public enum EngineError: Error, Hashable, Sendable {
    case configuration(String)
    case device(BIOError)
    /// The device that has the engine's own store is missing.
    case ownDevice(BIOError)
    case store(String)
    case network(String)
}

extension EngineError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .configuration(let problem): "configuration: \(problem)"
        case .device(let error): DeviceProblem.describe(error)
        case .ownDevice(let error):
            DeviceProblem.describe(error)
                + " (the engine's own store is on it, without which it does not start)"
        case .store(let problem): "store: \(problem)"
        case .network(let problem): "network: \(problem)"
        }
    }
}

/// Errors of devices in words that say what to do.
enum DeviceProblem {
    static func describe(_ error: BIOError) -> String {
        switch error {
        case .missing(let path):
            "device \(path) does not exist; is its disk mounted? To start with an empty one: "
                + "dray engine format"
        case .unusable(let path, let code, let message):
            "device \(path) cannot be used: \(message) (error \(code))"
        case .foreign(let path, let found):
            "device \(path) holds something that is not this engine's (\(found)); "
                + "nothing was changed"
        case .mismatch(let path, let expected, let found):
            "device \(path) belongs elsewhere: expected \(expected), found \(found)"
        case .busy(let path): "device \(path) is in use by another process"
        case .corrupt(let path, let offset, let what):
            "device \(path) is damaged at byte \(offset): \(what)"
        case .failed(let path, let offset, let code, let message):
            "device \(path) failed at byte \(offset): \(message) (error \(code))"
        case .full(let requested, let free):
            "device full: \(requested) bytes wanted, \(free) free"
        case .outOfRange(let what): "device: \(what)"
        case .faulty(let path, let unreadable, let damaged):
            "device \(path) is faulty: \(unreadable) places cannot be read, \(damaged) do not "
                + "match their checksums; copy what it still gives, and replace it"
        case .declaredFaulty(let path):
            "device \(path) was declared faulty; copy what it still gives, and replace it, or "
                + "return it to service: dray storage reinstate \(path)"
        case .outOfService(let path):
            "device \(path) was taken out of service after an error"
        }
    }
}
