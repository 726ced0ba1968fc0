public import CoreMetrics
internal import Glibc
internal import HeapModule

/// A cluster in one thread on virtual time, decided by one seed.
///
/// A simulation owns any number of simulated processes (nodes). Each gets its own `World`, hence
/// its own xstreams, entropy and wall-clock offset. The simulation repeatedly picks one runnable
/// xstream at random and lets it take one turn; when nothing can run, time jumps to the next
/// event. The same seed and build give the same run: `eventHash` covers everything that was
/// recorded, in order.
///
/// Not thread-safe: everything happens on the thread that calls `run`.
public final class Simulation: @unchecked Sendable {
    // SAFETY of `@unchecked Sendable`: `checkThread()` traps when any other thread gets here.

    /// The seed of the run.
    public let seed: UInt64

    /// The virtual time.
    public private(set) var now = Instant(nanoseconds: 1_000_000_000)

    /// Randomness of the scheduler itself. Other parts fork their own from `entropy`.
    private var scheduling: Entropy

    /// Forked by whoever needs randomness that belongs to the world and not to a node.
    public let entropy: Entropy

    /// A hash of everything recorded so far.
    public private(set) var eventHash: UInt64 = 0xcbf2_9ce4_8422_2325

    /// How many events were recorded.
    public private(set) var eventCount: UInt64 = 0

    /// How many turns xstreams took.
    public private(set) var turnCount: UInt64 = 0

    private struct Event: Comparable {
        let time: Instant
        let sequence: UInt64
        let body: () -> Void

        static func < (left: Event, right: Event) -> Bool {
            (left.time, left.sequence) < (right.time, right.sequence)
        }

        static func == (left: Event, right: Event) -> Bool { left.sequence == right.sequence }
    }

    private var events = Heap<Event>()
    private var sequence: UInt64 = 0
    private var runnable: [XStream] = []
    /// What could run, but belongs to a paused process.
    private var parked: [XStream] = []
    private var wallOffsets: [Int: Int64] = [:]
    private var deadNodes: Set<Int> = []
    private var pausedNodes: Set<Int> = []
    private let thread = pthread_self()

    /// Wall-clock time when the virtual time is zero: 2026-01-01.
    static let wallOrigin: UInt64 = 1_767_225_600_000_000_000

    /// A turn of an xstream takes from 50 to 50 + this many nanoseconds of virtual time.
    static let turnJitterNanoseconds: UInt64 = 1_000

    public init(seed: UInt64) {
        self.seed = seed
        entropy = Entropy(seed: seed)
        scheduling = entropy.fork("scheduling")
    }

    /// The world of the simulated process `node`, at its `incarnation` (0, then one more at each
    /// restart). `wallOffset` shifts the wall clock of the
    /// node, in nanoseconds, if it is not 0; it stays through restarts.
    public func world(
        node: Int, incarnation: Int = 0, wallOffset: Int64 = 0,
        log: LogFacilities = LogFacilities(sink: { _ in }),
        metrics: any MetricsFactory = NOOPMetricsHandler.instance
    ) -> World {
        if wallOffset != 0 { wallOffsets[node] = wallOffset }
        let clock = SimulatedClock(simulation: self, node: node)
        return World(
            clock: .simulated(clock), entropy: entropy.fork("node \(node) \(incarnation)"),
            processID: Int64(Simulation.identity(node: node, incarnation: incarnation)),
            log: log, metrics: metrics,
            xstreamMaker: { name in
                XStream(
                    name: name, simulation: self,
                    node: Simulation.identity(node: node, incarnation: incarnation))
            })
    }

    /// The identity that the xstreams of a node's incarnation carry in `XStream.node`.
    public static func identity(node: Int, incarnation: Int) -> Int {
        node << 16 | incarnation
    }

    // MARK: - Faults of processes

    /// Ends a process at once, as SIGKILL does: nothing of it ever runs again.
    public func kill(node: Int, incarnation: Int) {
        let id = Simulation.identity(node: node, incarnation: incarnation)
        deadNodes.insert(id)
        record("kill", UInt64(id))
        runnable.removeAll { $0.node == id }
        parked.removeAll { $0.node == id }
    }

    /// Stops a process until `resume`, as SIGSTOP does. What happens to it meanwhile is kept:
    /// timers that come due, and bytes that arrive.
    public func pause(node: Int, incarnation: Int) {
        let id = Simulation.identity(node: node, incarnation: incarnation)
        guard pausedNodes.insert(id).inserted else { return }
        record("pause", UInt64(id))
        parked += runnable.filter { $0.node == id }
        runnable.removeAll { $0.node == id }
    }

    /// Lets a paused process go on.
    public func resume(node: Int, incarnation: Int) {
        let id = Simulation.identity(node: node, incarnation: incarnation)
        guard pausedNodes.remove(id) != nil else { return }
        record("resume", UInt64(id))
        runnable += parked.filter { $0.node == id }
        parked.removeAll { $0.node == id }
    }

    /// Whether the process with this identity was killed.
    public func isDead(_ identity: Int) -> Bool { deadNodes.contains(identity) }

    /// Whether the process with this identity stands still.
    public func isPaused(_ identity: Int) -> Bool { pausedNodes.contains(identity) }

    /// Steps the wall clock of `node` by `nanoseconds`, forth or back. Monotonic time goes on.
    public func stepWallClock(node: Int, by nanoseconds: Int64) {
        wallOffsets[node, default: 0] += nanoseconds
        record("wall clock", UInt64(bitPattern: nanoseconds))
    }

    func wallOffset(node: Int) -> Int64 { wallOffsets[node] ?? 0 }

    // MARK: - Events

    /// Runs `body` at `time` (or now, if that is past), outside any xstream.
    public func schedule(at time: Instant, _ body: @escaping () -> Void) {
        checkThread()
        sequence += 1
        events.insert(Event(time: max(time, now), sequence: sequence, body: body))
    }

    /// Gets every event that is recorded: to find where two runs begin to differ.
    public var onRecord: ((StaticString, UInt64) -> Void)?

    /// Folds an event into `eventHash`: what kind, and a number that says which.
    public func record(_ kind: StaticString, _ value: UInt64) {
        eventCount += 1
        onRecord?(kind, value)
        fold(now.nanoseconds)
        kind.withUTF8Buffer { bytes in
            for index in bytes.indices { fold(UInt64(unsafe bytes[index])) }
        }
        fold(value)
    }

    /// Folds bytes that went over the wire or to a disk into `eventHash`.
    public func record(_ kind: StaticString, bytes: UnsafeRawBufferPointer) {
        unsafe record(kind, UInt64(CRC32C.checksum(of: bytes)) << 32 | UInt64(bytes.count))
    }

    private func fold(_ value: UInt64) {
        eventHash = (eventHash ^ value) &* 0x0000_0100_0000_01b3
        eventHash ^= eventHash >> 29
    }

    func markRunnable(_ xstream: XStream) {
        guard !isDead(xstream.node) else { return }
        guard !xstream.turns.isQueued else { return }
        xstream.turns.isQueued = true
        if pausedNodes.contains(xstream.node) {
            parked.append(xstream)
        } else {
            runnable.append(xstream)
        }
    }

    // MARK: - Running

    /// Runs until `condition` holds (checked after every turn), nothing can happen any more, or
    /// `limit` of virtual time has passed. Returns whether the condition held.
    @discardableResult
    public func run(for limit: Duration, until condition: () -> Bool = { false }) -> Bool {
        checkThread()
        let end = now + limit
        while !condition() {
            guard step(before: end) else { return condition() }
        }
        return true
    }

    /// Forgets everything that was still to happen, so that the cluster's memory can be freed.
    /// Nothing runs afterwards.
    public func finish() {
        checkThread()
        events = Heap()
        runnable = []
        parked = []
    }

    /// One turn of one xstream, or one event. Returns false when there is none before `end`.
    private func step(before end: Instant) -> Bool {
        if let next = events.min, next.time <= now {
            events.removeMin().body()
            return true
        }
        guard !runnable.isEmpty else {
            guard let next = events.min, next.time <= end else {
                now = max(now, end)
                return false
            }
            now = next.time
            return true
        }
        guard now <= end else { return false }
        let index = Int(scheduling.below(UInt64(runnable.count)))
        runnable.swapAt(index, runnable.count - 1)
        let xstream = runnable.removeLast()
        xstream.turns.isQueued = false
        turnCount += 1
        now = now + .nanoseconds(Int64(50 + scheduling.below(Simulation.turnJitterNanoseconds)))
        if xstream.simulationTurn() { markRunnable(xstream) }
        return true
    }

    func checkThread() {
        precondition(
            pthread_equal(thread, pthread_self()) != 0,
            "something of a simulation ran on a foreign thread")
    }
}

/// The clock of one simulated process.
public struct SimulatedClock: Sendable {
    private let simulation: Simulation
    private let node: Int

    init(simulation: Simulation, node: Int) {
        self.simulation = simulation
        self.node = node
    }

    var now: Instant { simulation.now }

    var wallNanoseconds: UInt64 {
        UInt64(
            Int64(Simulation.wallOrigin + simulation.now.nanoseconds)
                + simulation.wallOffset(node: node))
    }
}
