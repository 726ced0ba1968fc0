import Testing

@testable import DrayRuntime

@Suite struct TimerQueueTests {
    /// Random additions, cancellations and firings, against a sorted array.
    @Test(arguments: 1...20) func behavesLikeASortedArray(seed: UInt64) {
        struct Expected {
            let deadline: UInt64
            let number: Int
        }
        var entropy = Entropy(seed: seed)
        var queue = TimerQueue()
        var model: [Expected] = []
        var handles: [Int: Timer] = [:]
        var fired: [Int] = []
        var time: UInt64 = 0
        for number in 0..<2_000 {
            switch entropy.below(10) {
            case 0..<5:
                let deadline = time + entropy.below(1_000)
                handles[number] = queue.add(deadline: Instant(nanoseconds: deadline)) {
                    fired.append(number)
                }
                model.append(Expected(deadline: deadline, number: number))
            case 5..<8:
                guard !model.isEmpty else { continue }
                let victim = model.remove(at: Int(entropy.below(UInt64(model.count))))
                handles[victim.number]?.cancel()
                handles[victim.number]?.cancel()
            default:
                time += entropy.below(200)
                var timers: [Timer] = []
                queue.takeDue(at: Instant(nanoseconds: time), into: &timers)
                for timer in timers { _ = timer.fire() }
                let due = model.filter { $0.deadline <= time }.sorted {
                    ($0.deadline, $0.number) < ($1.deadline, $1.number)
                }
                model.removeAll { $0.deadline <= time }
                #expect(fired == due.map(\.number))
                fired = []
            }
            let bound = queue.earliest.nanoseconds
            #expect(bound <= model.map(\.deadline).min() ?? .max)
            let next = queue.next
            #expect(next?.nanoseconds == model.map(\.deadline).min())
            let slack = max(model.count, TimerQueue.sweepMinimum) + 1
            #expect(queue.entryCount <= model.count + slack)
        }
    }

    /// Deadlines that are cancelled as fast as they are set take no memory.
    @Test func cancelledTimersAreSwept() {
        var queue = TimerQueue()
        for index in 0..<100_000 {
            queue.add(deadline: Instant(nanoseconds: 60_000_000_000 + UInt64(index))) {}.cancel()
        }
        #expect(queue.entryCount <= TimerQueue.sweepMinimum + 1)
        let next = queue.next
        #expect(next == nil)
    }

    @Test func aBodyMayCancelATimerThatIsDueWithIt() {
        var queue = TimerQueue()
        var fired: [Int] = []
        var second: Timer?
        _ = queue.add(deadline: Instant(nanoseconds: 1)) {
            fired.append(1)
            second?.cancel()
        }
        second = queue.add(deadline: Instant(nanoseconds: 1)) { fired.append(2) }
        var due: [Timer] = []
        queue.takeDue(at: Instant(nanoseconds: 1), into: &due)
        let count = due.count { $0.fire() }
        #expect(fired == [1])
        #expect(count == 1)
    }

    @Test func cancellingReleasesWhatTheBodyCaptured() {
        final class Captured {}
        var queue = TimerQueue()
        weak var captured: Captured?
        let timer: Timer
        do {
            let object = Captured()
            captured = object
            timer = queue.add(deadline: .never) { _ = object }
        }
        #expect(captured != nil)
        timer.cancel()
        #expect(captured == nil)
    }
}
