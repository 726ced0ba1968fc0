public import CaRT
internal import DrayRuntime

/// What a failure detector does in groups of one size, measured on `MembershipSimulation`.
public struct MembershipFigures: Sendable {
    public var memberCount: Int
    /// Messages lost, in per cent.
    public var lossPercent: Int

    /// From a SIGKILL until the first member knew of it: mean and longest, in seconds.
    public var firstDetection = Span()
    /// From a SIGKILL until all knew.
    public var allKnow = Span()
    /// From the first to the last who knew.
    public var deathSpread = Span()
    /// From a SIGSTOP until the first suspicion.
    public var firstSuspicion = Span()
    /// From the first to the last who shared a suspicion; those travel with pings only.
    public var suspicionSpread = Span()
    /// Messages sent by each member in a second, and bytes in one, while nothing happens.
    public var messagesPerSecond = 0.0
    public var bytesPerMessage = 0.0
    /// Seconds of the group's life with nothing but loss, and what was suspected and declared dead
    /// wrongly in them, by anybody.
    public var quietSeconds = 0.0
    public var suspicions = 0
    public var falseDeaths = 0
    /// Deaths and returns that were not known to all within 20 s.
    public var failures = 0

    /// Mean and greatest of some times, in seconds.
    public struct Span: Sendable {
        public private(set) var mean = 0.0
        public private(set) var longest = 0.0
        private var count = 0.0

        public init() {}

        mutating func add(nanoseconds: UInt64) {
            let seconds = Double(nanoseconds) / 1e9
            mean = (mean * count + seconds) / (count + 1)
            count += 1
            longest = max(longest, seconds)
        }
    }

    /// Measures a group of `memberCount` members, of which `trials` are killed and as many stopped
    /// one after the other, after `quietTime` with nothing but loss.
    public init(
        memberCount: Int, lossPercent: Int, trials: Int, quietTime: Duration,
        swim: SwimOptions = SwimOptions(), seed: UInt64
    ) {
        precondition(memberCount > 1)
        self.memberCount = memberCount
        self.lossPercent = lossPercent
        var options = MembershipSimulation.Options(memberCount: memberCount)
        options.swim = swim
        options.lossPerMillion = UInt64(lossPercent) * 10_000
        let group = MembershipSimulation(options, seed: seed)
        var entropy = Entropy(seed: seed).fork("trials")
        group.run(for: .seconds(5))
        beQuiet(group, quietTime)
        for _ in 0..<trials {
            // Anywhere in a period.
            group.run(for: .milliseconds(Int64(1000 + entropy.below(1000))))
            kill(Int(entropy.below(UInt64(memberCount))), in: group)
            group.run(for: .milliseconds(Int64(1000 + entropy.below(1000))))
            stop(Int(entropy.below(UInt64(memberCount))), in: group)
        }
    }

    private mutating func beQuiet(_ group: MembershipSimulation, _ time: Duration) {
        group.forget()
        group.run(for: time)
        quietSeconds = Double(time.nanosecondsClamped) / 1e9
        messagesPerSecond = Double(group.messageCount) / Double(memberCount) / quietSeconds
        bytesPerMessage = Double(group.byteCount) / Double(max(1, group.messageCount))
        let suspected = group.changes.filter { $0.member.state == .suspect }
        suspicions = Set(suspected.map(\.member)).count
        falseDeaths += group.falseDeaths.count
    }

    private mutating func kill(_ rank: Int, in group: MembershipSimulation) {
        group.forget()
        let begin = group.now
        group.kill(rank)
        let isKnown = group.run(for: .seconds(20)) { group.all(hold: UInt32(rank), for: .dead) }
        if isKnown, let first = first(.dead, of: rank, in: group) {
            firstDetection.add(nanoseconds: first - begin)
            allKnow.add(nanoseconds: group.now - begin)
            deathSpread.add(nanoseconds: group.now - first)
        } else {
            failures += 1
        }
        falseDeaths += group.falseDeaths.count
        group.restart(rank)
        awaitReturn(of: rank, in: group)
    }

    private mutating func stop(_ rank: Int, in group: MembershipSimulation) {
        group.forget()
        let begin = group.now
        group.stop(rank)
        let isKnown = group.run(for: .seconds(20)) {
            group.all(hold: UInt32(rank), for: .suspect)
        }
        if isKnown, let first = first(.suspect, of: rank, in: group) {
            firstSuspicion.add(nanoseconds: first - begin)
            suspicionSpread.add(nanoseconds: group.now - first)
        } else {
            failures += 1
        }
        // For less than the suspicion time: it must not die of it.
        group.resume(rank)
        awaitReturn(of: rank, in: group)
        falseDeaths += group.falseDeaths.count
    }

    private mutating func awaitReturn(of rank: Int, in group: MembershipSimulation) {
        let isBack = group.run(for: .seconds(20)) { group.all(hold: UInt32(rank), for: .alive) }
        if !isBack { failures += 1 }
    }

    private func first(
        _ state: SwimState, of rank: Int, in group: MembershipSimulation
    ) -> UInt64? {
        group.changes.first {
            $0.member.rank == UInt32(rank) && $0.member.state == state
        }?.time
    }
}
