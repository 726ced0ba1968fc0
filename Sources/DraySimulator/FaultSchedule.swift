internal import BIO
internal import DrayFabric
internal import DrayRuntime

/// Injects faults at random moments: crashes, restarts, partitions, pauses, bad networks and slow
/// disks. Every fault ends by itself after a while.
final class FaultSchedule {
    private unowned let cluster: ClusterSimulation
    private let end: Instant
    private var entropy: Entropy
    private var isStopped = false

    /// Faults injected so far.
    private(set) var count = 0

    init(_ cluster: ClusterSimulation, until end: Instant) {
        self.cluster = cluster
        self.end = end
        entropy = cluster.simulation.entropy.fork("faults")
    }

    func start() { scheduleNext() }

    func stop() { isStopped = true }

    private func scheduleNext() {
        let pause = 20 + entropy.below(400)
        let time = cluster.simulation.now + .milliseconds(Int64(pause))
        cluster.simulation.schedule(at: time) { [self] in
            guard !isStopped, cluster.simulation.now < end else { return }
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

    private func inject() {
        let engines = cluster.options.engineCount
        let rank = Int(entropy.below(UInt64(engines)))
        count += 1
        cluster.simulation.record("fault", UInt64(count))
        switch entropy.below(11) {
        case 0, 1: crash([rank])
        case 2: crash(Array(0..<engines))
        case 3, 4, 5: crashAtBoundary()
        case 6: partition(rank)
        case 7:
            say("network is bad")
            cluster.fabric.faults = .harsh
            after(50 + entropy.below(1_000)) { self.cluster.fabric.faults = .none }
        case 8:
            say("engine \(rank) loses its connections")
            for client in 0..<cluster.options.clientCount {
                cluster.fabric.breakConnections(
                    rank, ClusterSimulation.clientNodeFirst + client)
            }
        case 9: pause(rank)
        default:
            say("disks are slow")
            let good = cluster.goodDevices
            var slow = good
            slow.latencyMax = .milliseconds(20)
            cluster.devices.setFaults(slow)
            after(50 + entropy.below(1_000)) { self.cluster.devices.setFaults(good) }
        }
    }

    private func crash(_ ranks: [Int]) {
        say("engines \(ranks) are killed")
        for rank in ranks {
            cluster.kill(rank: rank)
            after(10 + entropy.below(1_500)) { self.cluster.start(rank: rank) }
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
            for rank in 0..<cluster.options.engineCount where cluster.isDead(rank: rank) {
                say("engine \(rank) was killed at boundary \(boundary) of its device")
                cluster.kill(rank: rank)
                after(pause) { self.cluster.start(rank: rank) }
            }
        }
    }

    private func partition(_ rank: Int) {
        var others = Set(0..<cluster.options.engineCount)
        others.remove(rank)
        for client in 0..<cluster.options.clientCount where entropy.chance(1, in: 2) {
            others.insert(ClusterSimulation.clientNodeFirst + client)
        }
        let kind = entropy.below(3)
        say("engine \(rank) is cut off from \(others.sorted()), kind \(kind)")
        switch kind {
        case 0: cluster.fabric.partition([rank], others)
        case 1: cluster.fabric.partitionOneWay(from: [rank], to: others)
        default: cluster.fabric.partitionOneWay(from: others, to: [rank])
        }
        after(20 + entropy.below(2_000)) { self.cluster.fabric.heal() }
    }

    private func pause(_ rank: Int) {
        guard cluster.isRunning[rank] else { return }
        let incarnation = cluster.incarnations[rank]
        say("engine \(rank) is paused")
        cluster.simulation.pause(node: rank, incarnation: incarnation)
        // At times longer than clients wait: requests and replies are late.
        after(10 + entropy.below(3_000)) {
            self.cluster.simulation.resume(node: rank, incarnation: incarnation)
        }
    }

    private func say(_ what: String) {
        guard cluster.options.isVerbose else { return }
        let time = (cluster.simulation.now.nanoseconds - 1_000_000_000) / 1_000_000
        LogFacilities.standardError("\(time) ms: \(what)")
    }
}
