import Glibc
import Testing

@testable import DrayRuntime

@Suite struct IdlePolicyTests {
    /// How long the policy spins when nothing happens from `time` on.
    static func spin(_ policy: inout IdlePolicy, from time: UInt64) -> UInt64 {
        var now = time
        while look(&policy, at: now) { now += 100 }
        return now - time
    }

    /// A look at `time` that takes `duration` ns and finds nothing: whether to go on.
    static func look(_ policy: inout IdlePolicy, at time: UInt64, taking duration: UInt64 = 50)
        -> Bool
    {
        policy.shouldSpin(
            from: Instant(nanoseconds: time), to: Instant(nanoseconds: time + duration))
    }

    static func policy(afterIdlePeriodsOf idle: Duration) -> (IdlePolicy, UInt64) {
        var policy = IdlePolicy()
        var time: UInt64 = 1_000_000
        for _ in 0..<20 {
            let spent = spin(&policy, from: time)
            time += max(spent, idle.nanosecondsClamped)
            policy.worked(at: Instant(nanoseconds: time))
            time += 1_000
        }
        return (policy, time)
    }

    /// Round trips of a local network, and writes at its other end, are spun through.
    @Test(arguments: [5, 11, 20, 40, 190]) func shortPeriodsAreSpunThrough(microseconds: Int) {
        var (policy, time) = Self.policy(afterIdlePeriodsOf: .microseconds(microseconds))
        let spin = Self.spin(&policy, from: time)
        #expect(spin >= UInt64(microseconds) * 1_000)
        #expect(spin <= IdlePolicy.spinMaximum.nanosecondsClamped + 100)
    }

    /// Who waits long anyway sleeps at once.
    @Test(arguments: [500, 1_000, 1_000_000]) func longPeriodsAreSlept(microseconds: Int) {
        var (policy, time) = Self.policy(afterIdlePeriodsOf: .microseconds(microseconds))
        #expect(Self.spin(&policy, from: time) <= 1_100)
    }

    /// Where a round takes long because another thread had the processor, spinning ends.
    @Test func aSharedProcessorIsNotSpunOn() {
        var (policy, time) = Self.policy(afterIdlePeriodsOf: .microseconds(10))
        let before = Self.look(&policy, at: time)
        time += IdlePolicy.crowdedAfter.nanosecondsClamped + 50
        let after = Self.look(&policy, at: time)
        #expect(before)
        #expect(!after)
        policy.worked(at: Instant(nanoseconds: time + 1_000_000))
        #expect(Self.spin(&policy, from: time + 2_000_000) <= 1_100)
    }

    /// A provider that copies a large transfer while it is asked for completions takes long and has
    /// nothing to tell: the xstream is neither idle nor is its processor shared.
    @Test(arguments: [6, 60, 250]) func transfersUnderWayAreSpunThrough(microseconds: UInt64) {
        var (policy, time) = Self.policy(afterIdlePeriodsOf: .microseconds(10))
        let end = time + 1_500_000
        while time < end {
            #expect(Self.look(&policy, at: time, taking: microseconds * 1_000))
            time += microseconds * 1_000 + 1_000
        }
        policy.worked(at: Instant(nanoseconds: time))
        let spin = Self.spin(&policy, from: time + 1_000)
        #expect(spin >= 10_000, "what took long was taken for rest")
    }

    /// Where every look takes long, it does not spin for ever.
    @Test func slowLooksAreNoTransfers() {
        var policy = IdlePolicy()
        var time: UInt64 = 1_000_000
        while Self.look(&policy, at: time, taking: 50_000), time < 1_000_000_000 { time += 51_000 }
        #expect(time - 1_000_000 <= IdlePolicy.movesMaximum.nanosecondsClamped + 200_000)
        // Nor does it after a sleep.
        time += 1_000_000
        #expect(!Self.look(&policy, at: time, taking: 50_000))
    }

    /// What comes at once is waited for without a system call; after that others get their turn.
    @Test func aLongerSpinOffersTheProcessor() {
        var policy = IdlePolicy()
        let keeps = IdlePolicy.keepsProcessor.nanosecondsClamped
        let beforeAny = policy.shouldYield(at: Instant(nanoseconds: 1_000_000))
        _ = Self.look(&policy, at: 1_000_000, taking: 0)
        #expect(!beforeAny)
        #expect(!policy.shouldYield(at: Instant(nanoseconds: 1_000_000 + keeps)))
        #expect(policy.shouldYield(at: Instant(nanoseconds: 1_000_001 + keeps)))
        policy.worked(at: Instant(nanoseconds: 1_010_000))
        #expect(!policy.shouldYield(at: Instant(nanoseconds: 1_020_000)))
    }

    @Test func pausesGrowAndBeginAnewAfterWork() {
        var policy = IdlePolicy()
        let pauses = (0..<10).map { _ in policy.nextPause() }
        #expect(pauses.first == IdlePolicy.pauseMinimum)
        #expect(pauses.last == IdlePolicy.pauseMaximum)
        #expect(pauses == pauses.sorted())
        _ = Self.look(&policy, at: 1)
        policy.worked(at: Instant(nanoseconds: 2))
        #expect(policy.nextPause() == IdlePolicy.pauseMinimum)
    }
}

@Suite(.serialized) struct IdleTests {
    /// Never has anything; counts how often it is asked.
    final class Silent: PollSource {
        let readiness: BlockReadiness
        private(set) var polls = 0

        init(_ readiness: BlockReadiness) { self.readiness = readiness }

        func poll() -> Int {
            polls += 1
            return 0
        }

        func prepareToBlock() -> BlockReadiness { readiness }
    }

    /// How often an xstream with nothing to do but six timers looks for work in `duration`. A
    /// round costs some 10 µs, the block included; to count them instead of their time gives the
    /// same answer on a busy machine.
    static func polls(in duration: Duration, _ readiness: BlockReadiness) async -> Int {
        let xstream = World.real().makeXStream(name: "idle")
        let polls = await xstream.run { () -> Int in
            let source = Silent(readiness)
            xstream.addSource(source)
            for _ in 0..<6 { await xstream.sleep(for: duration / 6) }
            return source.polls
        }
        xstream.stop()
        return polls
    }

    /// An xstream that can block looks for work when something happens, and spins at most for its
    /// first idle periods.
    @Test func anIdleXStreamBlocks() async {
        let polls = await Self.polls(in: .milliseconds(1_500), .idle)
        #expect(polls > 6)
        #expect(polls < 10_000)
    }

    /// A source with nothing to wait on, like a provider without a wait object, is looked at once
    /// every `pauseMaximum`.
    @Test func aSourceWithoutDescriptorIsPolledSeldom() async {
        let polls = await Self.polls(in: .milliseconds(1_500), .pause)
        #expect(polls > 100)
        #expect(polls < 10_000)
    }

    /// The best of a few, as the machine may be busy with other tests.
    @Test(arguments: [false, true]) func theFirstEventAfterAPauseIsServedSoon(pausing: Bool) async {
        let world = World.real()
        let xstream = world.makeXStream(name: "late")
        if pausing { await xstream.run { xstream.addSource(Silent(.pause)) } }
        var best = Duration.seconds(1)
        for _ in 0..<5 {
            usleep(100_000)
            let sent = world.clock.now
            let served = await withCheckedContinuation { done in
                xstream.submit { done.resume(returning: world.clock.now) }
            }
            best = min(best, served.since(sent))
        }
        #expect(best < .milliseconds(1))
        xstream.stop()
    }

    /// More xstreams than processors, each waiting for another all the time: nobody starves.
    @Test func moreXStreamsThanProcessorsMakeProgress() async {
        let world = World.real()
        let xstreams = (0..<6).map { world.makeXStream(name: "crowd\($0)") }
        let begin = world.clock.now
        await withTaskGroup { group in
            for index in 0..<6 {
                let (here, there) = (xstreams[index], xstreams[(index + 1) % 6])
                group.addTask {
                    await here.run {
                        for _ in 0..<500 { await there.run { () -> Void in } }
                    }
                }
            }
        }
        #expect(world.clock.now.since(begin) < .seconds(10))
        for xstream in xstreams { xstream.stop() }
    }
}
