internal import CDrayRuntime
public import CoreMetrics
internal import Glibc

/// Everything outside the program: time, randomness, execution streams, logs, metrics and, by
/// `WorldKey`, the fabric and the devices of the layers above.
///
/// `World.real` is the machine. `Simulation` makes one per simulated process. Nothing in Dray
/// reaches any of these another way, so a whole cluster can run on virtual time from one seed.
public struct World: Sendable {
    /// Where time comes from.
    public let clock: WorldClock

    /// The root of this process's randomness. Fork it by purpose.
    public let entropy: Entropy

    /// The process: as the kernel numbers it, or the identity that a simulation gave it.
    public let processID: Int64

    /// Log facilities and their masks.
    public var log: LogFacilities

    /// Faults that are injected into this process. None at first.
    public let faults: FaultTable

    /// Where counters, gauges and timers are made.
    public var metrics: any MetricsFactory

    /// The variables of the process's environment that configure Dray. Empty unless whoever makes
    /// the world sets them: nothing below the program looks at the environment itself.
    public var environment: [String: String] = [:]

    /// The metrics of this process, where `metrics` is the registry that a world has by default.
    public var telemetry: TelemetryRegistry? { metrics as? TelemetryRegistry }

    private let xstreamMaker: @Sendable (String) -> XStream
    private var values: [ObjectIdentifier: any Sendable] = [:]

    package init(
        clock: WorldClock, entropy: Entropy, processID: Int64, log: LogFacilities,
        metrics: any MetricsFactory,
        xstreamMaker: @escaping @Sendable (String) -> XStream
    ) {
        self.clock = clock
        self.entropy = entropy
        faults = FaultTable(entropy: entropy.fork("faults"))
        self.processID = processID
        self.log = log
        self.metrics = metrics
        self.xstreamMaker = xstreamMaker
    }

    /// The kernel's clocks, the kernel's randomness, and one thread per xstream.
    public static func real(
        log: LogFacilities = LogFacilities(),
        metrics: any MetricsFactory = TelemetryRegistry()
    ) -> World {
        var seed: UInt64 = 0
        let result = unsafe dray_random_bytes(&seed, 8)
        precondition(result == 0, "the kernel gave no random bytes")
        return World(
            clock: .kernel, entropy: Entropy(seed: seed), processID: Int64(getpid()),
            log: log, metrics: metrics,
            xstreamMaker: { XStream(name: $0) })
    }

    /// Creates an execution stream. In the real world its thread starts at once.
    public func makeXStream(name: String) -> XStream {
        xstreamMaker(name)
    }

    /// Random bytes, at most 256, for a secret. Those of `entropy` may follow from others that
    /// somebody sees; these are the kernel's. In a simulation they follow from its seed and
    /// `purpose`.
    public func secretBytes(_ count: Int, for purpose: String) -> [UInt8] {
        precondition(count <= 256, "more than the kernel gives at once")
        var bytes = [UInt8](repeating: 0, count: count)
        switch clock {
        case .kernel:
            // SAFETY: `count` bytes are written.
            let result = unsafe dray_random_bytes(&bytes, UInt64(count))
            precondition(result == 0, "the kernel gave no random bytes")
        case .simulated:
            var entropy = entropy.fork("secret \(purpose)")
            for index in bytes.indices { bytes[index] = UInt8(truncatingIfNeeded: entropy.next()) }
        }
        return bytes
    }

    /// The value of a layer above, such as the fabric. Traps when nobody has set it.
    public subscript<Key: WorldKey>(key: Key.Type) -> Key.Value {
        get {
            guard let value = values[ObjectIdentifier(key)] as? Key.Value else {
                preconditionFailure("this world has no \(key)")
            }
            return value
        }
        set { values[ObjectIdentifier(key)] = newValue }
    }
}

/// Names a part of the world that belongs to a layer above the runtime.
public protocol WorldKey {
    associatedtype Value: Sendable
}

/// The clocks of a world.
public enum WorldClock: Sendable {
    /// CLOCK_MONOTONIC and CLOCK_REALTIME. About 25 ns a reading.
    case kernel
    /// The virtual time of a simulation, with this process's offset of the wall clock.
    case simulated(SimulatedClock)

    /// The monotonic time.
    public var now: Instant {
        switch self {
        case .kernel: Instant(nanoseconds: dray_clock_nanoseconds(CLOCK_MONOTONIC))
        case .simulated(let clock): clock.now
        }
    }

    /// Nanoseconds since 1970-01-01 UTC. May step; comparable between processes.
    public var wallNanoseconds: UInt64 {
        switch self {
        case .kernel: dray_clock_nanoseconds(CLOCK_REALTIME)
        case .simulated(let clock): clock.wallNanoseconds
        }
    }
}
