internal import BIO
internal import DrayFabric
internal import DrayRuntime

/// Injects faults at random moments, of the kinds that the run may have (`FaultKind`). Every fault
/// ends by itself after a while.
final class FaultSchedule {
    /// The most that a wall clock is off: far more than what may be.
    static let skewMax: Duration = .seconds(3)
    /// The most that wall clocks that differ are off all the time.
    static let offsetMax: Duration = .milliseconds(50)

    /// Some messages are overtaken by all that is done meanwhile, and nothing is lost.
    private static var slowNetwork: FabricFaults {
        var faults = FabricFaults.none
        faults.slowRate = FabricFaults.unit / 20
        faults.slowLatencyMax = .milliseconds(300)
        return faults
    }

    private unowned let cluster: ClusterSimulation
    private var entropy: Entropy
    private var isStopped = false

    /// Faults injected so far.
    private(set) var count = 0

    init(_ cluster: ClusterSimulation) {
        self.cluster = cluster
        entropy = cluster.simulation.entropy.fork("faults")
    }

    func start() { scheduleNext() }

    func stop() { isStopped = true }

    private func scheduleNext() {
        // Some come close together: one before another is over.
        let pause = entropy.chance(1, in: 5) ? entropy.below(20) : 20 + entropy.below(310)
        let time = cluster.simulation.now + .milliseconds(Int64(pause))
        cluster.simulation.schedule(at: time) { [self] in
            guard !isStopped, !cluster.isWorkOver else { return }
            inject()
            scheduleNext()
        }
    }

    private func after(_ milliseconds: UInt64, _ body: @escaping () -> Void) {
        let time = cluster.simulation.now + .milliseconds(Int64(milliseconds))
        cluster.simulation.schedule(at: time) { [self] in
            if !isStopped { body() }
        }
    }

    private func draw() -> FaultKind? {
        let kinds = cluster.plan.faults
        let total = kinds.reduce(0) { $0 + $1.weight }
        guard total > 0 else { return nil }
        var left = entropy.below(total)
        for kind in kinds {
            if left < kind.weight { return kind }
            left -= kind.weight
        }
        preconditionFailure("the weights changed")
    }

    private func inject() {
        guard let kind = draw() else { return }
        let engines = cluster.plan.engineCount
        let rank = Int(entropy.below(UInt64(engines)))
        count += 1
        cluster.simulation.record("fault", UInt64(count))
        switch kind {
        case .crash: crash(entropy.chance(1, in: 3) ? Array(0..<engines) : [rank])
        case .boundary: crashAtBoundary()
        case .partition: partition()
        case .network:
            let isSlow = entropy.chance(1, in: 2)
            say("network is \(isSlow ? "slow" : "bad")")
            cluster.fabric.faults = isSlow ? FaultSchedule.slowNetwork : .harsh
            after(50 + entropy.below(1_000)) { self.cluster.fabric.faults = .none }
        case .connections:
            say("engine \(rank) loses its connections")
            for node in nodes where node != rank { cluster.fabric.breakConnections(rank, node) }
        case .pause: pause(rank)
        case .disks:
            say("disks are slow")
            let good = cluster.goodDevices
            var slow = good
            slow.latencyMax = .milliseconds(20)
            cluster.devices.setFaults(slow)
            after(50 + entropy.below(1_000)) { self.cluster.devices.setFaults(good) }
        case .client: killClient()
        case .cancel: cancelTasks()
        case .clock: skew()
        }
    }

    /// All engines, then all clients.
    private var nodes: [Int] {
        Array(0..<cluster.plan.engineCount) + cluster.clients.map(\.node)
    }

    private func crash(_ ranks: [Int]) {
        say("engines \(ranks) are killed")
        for rank in ranks {
            cluster.kill(rank: rank)
            // Some are back while those who wait for them still do.
            let pause = 10 + entropy.below(entropy.chance(1, in: 4) ? 100 : 1_500)
            after(pause) { self.cluster.start(rank: rank) }
            // Then what was left is taken up, and what got no answer is sent again. Whoever does
            // that may be killed once more.
            if entropy.chance(1, in: 6) {
                after(pause + entropy.below(60)) { self.crashAtBoundary() }
            }
        }
    }

    /// Kills whichever engine is next to begin or end a write or a flush, or one of the next
    /// that do.
    private func crashAtBoundary() {
        let boundary = Int(entropy.below(24))
        cluster.devices.crash(atBoundary: boundary)
        let pause = 10 + entropy.below(1_000)
        after(40) { [self] in
            cluster.devices.crash(atBoundary: nil)
            for rank in 0..<cluster.plan.engineCount where cluster.isDead(rank: rank) {
                say("engine \(rank) was killed at boundary \(boundary) of its device")
                cluster.kill(rank: rank)
                after(pause) { self.cluster.start(rank: rank) }
            }
        }
    }

    /// Some engines are cut off from the others, and from some of the clients, or from clients
    /// alone.
    private func partition() {
        let engines = 0..<cluster.plan.engineCount
        var inside = Set(engines.filter { _ in entropy.chance(1, in: 2) })
        inside.insert(Int(entropy.below(UInt64(engines.count))))
        var outside = entropy.chance(1, in: 3) ? [] : Set(engines).subtracting(inside)
        for client in cluster.clients where entropy.chance(1, in: 2) { outside.insert(client.node) }
        let kind = entropy.below(3)
        say("\(inside.sorted()) are cut off from \(outside.sorted()), kind \(kind)")
        switch kind {
        case 0: cluster.fabric.partition(inside, outside)
        case 1: cluster.fabric.partitionOneWay(from: inside, to: outside)
        default: cluster.fabric.partitionOneWay(from: outside, to: inside)
        }
        after(20 + entropy.below(2_000)) { self.cluster.fabric.heal() }
    }

    private func killClient() {
        let client = cluster.clients[Int(entropy.below(UInt64(cluster.clients.count)))]
        guard client.isAlive else { return }
        say("client \(client.index) is killed")
        client.kill(in: cluster)
        after(10 + entropy.below(500)) { [self] in client.start(in: cluster) }
    }

    /// Cancels what some lanes of a client do: at once, or one after the other.
    private func cancelTasks() {
        let client = cluster.clients[Int(entropy.below(UInt64(cluster.clients.count)))]
        say("tasks of client \(client.index) are cancelled")
        for lane in 0..<cluster.options.laneCount {
            after(entropy.below(20)) { client.cancel(lane: lane) }
        }
    }

    /// Sets one wall clock wrong.
    private func skew() {
        let nodes = nodes
        let node = nodes[Int(entropy.below(UInt64(nodes.count)))]
        let allowed = Int64(HybridLogicalClock.uncertaintyMax.nanosecondsClamped)
        let most = Int64(FaultSchedule.skewMax.nanosecondsClamped)
        let isAllowed = entropy.chance(1, in: 2)
        var offset = Int64(entropy.below(UInt64(isAllowed ? allowed : most - allowed)))
        if !isAllowed { offset += allowed }
        if entropy.chance(1, in: 2) { offset = -offset }
        guard cluster.setSkew(node: node, offset) else { return }
        say("the clock of node \(node) is off by \(offset / 1_000_000) ms")
        after(50 + entropy.below(1_500)) { [self] in
            _ = cluster.setSkew(node: node, 0)
            say("the clock of node \(node) is right again")
        }
    }

    private func pause(_ rank: Int) {
        guard cluster.isRunning[rank] else { return }
        let incarnation = cluster.incarnations[rank]
        say("engine \(rank) is paused")
        cluster.simulation.pause(node: rank, incarnation: incarnation)
        // At times longer than clients wait: requests and replies are late.
        let pause = 10 + entropy.below(3_000)
        after(pause) {
            self.cluster.simulation.resume(node: rank, incarnation: incarnation)
        }
        // What it makes of what has expired meanwhile may not be on its device yet.
        guard entropy.chance(1, in: 4) else { return }
        after(pause + entropy.below(40)) { [self] in
            if cluster.isRunning[rank], cluster.incarnations[rank] == incarnation { crash([rank]) }
        }
    }

    private func say(_ what: String) {
        guard cluster.options.isVerbose else { return }
        let time = (cluster.simulation.now.nanoseconds - 1_000_000_000) / 1_000_000
        LogFacilities.standardError("\(time) ms: \(what)")
    }
}
