internal import DrayRuntime

/// Disturbs processes that call each other, and watches what the others achieve meanwhile.
final class TransportHarness {
    private let setting: TransportSetting
    private let xstream: XStream
    private let processes: TransportProcesses
    private var entropy: Entropy
    private var report: TransportKillReport

    private init(
        _ setting: TransportSetting, provider: String, on xstream: XStream
    ) throws(Failure) {
        self.setting = setting
        self.xstream = xstream
        entropy = Entropy(seed: setting.seed).fork("faults \(provider)")
        report = TransportKillReport(provider: provider)
        processes = try TransportProcesses(setting, provider: provider, xstream: xstream)
    }

    /// Everything from the start of the processes to their end.
    static func run(
        _ setting: TransportSetting, provider: String, cycles: Int, on xstream: XStream
    ) async -> TransportKillReport {
        var report = TransportKillReport(provider: provider)
        do throws(Failure) {
            let harness = try TransportHarness(setting, provider: provider, on: xstream)
            do throws(Failure) {
                try await harness.run(cycles)
            } catch {
                harness.report.violations.append(error.description)
            }
            await harness.processes.remove(keeping: !harness.report.violations.isEmpty)
            report = harness.report
        } catch {
            report.violations.append(error.description)
        }
        return report
    }

    private func run(_ cycles: Int) async throws(Failure) {
        let begin = xstream.now
        for index in 0..<processes.count { try processes.start(index) }
        try await processes.waitUntilOpen()
        await xstream.sleep(for: .milliseconds(200))
        for cycle in 0..<cycles { try await disturb(cycle) }
        let (lines, violations) = try await processes.end()
        report.lines = lines
        report.violations += violations
        report.kills = processes.kills
        report.stops = processes.stops
        report.duration = xstream.now.since(begin)
    }

    private func draw(_ range: ClosedRange<UInt64>) -> Duration {
        .milliseconds(Int64(range.lowerBound + entropy.below(UInt64(range.count))))
    }

    private func disturb(_ cycle: Int) async throws(Failure) {
        let all = 0..<processes.count
        let one = Int(entropy.below(UInt64(all.count)))
        let kind = entropy.below(10)
        let victims =
            kind == 0 ? all.filter { $0 == one || entropy.chance(1, in: 2) } : [one]
        let others = all.filter { !victims.contains($0) }
        let before = try await measure(others, for: draw(200...600))
        let pause = draw(0...700)
        var during = TransportKillReport.Rate()
        var text = ""
        switch kind {
        case 0...5:
            text = "SIGKILL \(victims), started after \(milliseconds(pause)) ms"
            for victim in victims { try await processes.kill(victim) }
            during += try await measure(others, for: pause)
            for victim in victims { try processes.start(victim) }
        case 6...8:
            let time = draw(50...2_500)
            text = "SIGSTOP \(victims) for \(milliseconds(time)) ms"
            for victim in victims { try processes.stop(victim) }
            during += try await measure(others, for: time)
            for victim in victims { processes.resume(victim) }
        default:
            text = "SIGSTOP \(victims), SIGKILL after \(milliseconds(pause)) ms"
            for victim in victims { try processes.stop(victim) }
            during += try await measure(others, for: pause)
            for victim in victims { try await processes.kill(victim) }
            for victim in victims { try processes.start(victim) }
        }
        try await processes.waitUntilOpen()
        if !others.isEmpty {
            report.undisturbed += before
            report.disturbed += during
        }
        report.cycles += 1
        if setting.isVerbose {
            print("  cycle \(cycle): \(text); \(before) before, \(during) meanwhile")
        }
    }

    /// What `others` have of each other in a time.
    private func measure(
        _ others: [Int], for time: Duration
    ) async throws(Failure) -> TransportKillReport.Rate {
        func replies() -> Int {
            var sum = 0
            for caller in others {
                for context in 0..<setting.contexts {
                    for callee in others { sum += processes.statuses[caller][context, callee] }
                }
            }
            return sum
        }
        let (begin, count) = (xstream.now, replies())
        await xstream.sleep(for: time)
        return TransportKillReport.Rate(
            replies: replies() - count, time: xstream.now.since(begin))
    }
}

/// What a run did and found.
struct TransportKillReport: Sendable {
    /// Replies in a time.
    struct Rate: Sendable, CustomStringConvertible {
        var replies = 0
        var time = Duration.zero

        static func += (left: inout Rate, right: Rate) {
            left.replies += right.replies
            left.time += right.time
        }

        var perSecond: Int {
            let milliseconds = milliseconds(time)
            return milliseconds == 0 ? 0 : replies * 1_000 / Int(milliseconds)
        }

        var description: String { "\(perSecond) replies/s" }
    }

    let provider: String
    var cycles = 0
    var kills = 0
    var stops = 0
    var duration = Duration.zero
    /// What those who are not disturbed have of each other, before and meanwhile.
    var undisturbed = Rate()
    var disturbed = Rate()
    /// What each process did in its last life.
    var lines: [String] = []
    /// Everything that must not be. Empty when the run is good.
    var violations: [String] = []

    /// Less is too little: for each cycle, and of the undisturbed rate in per cent.
    private static let repliesMin = 20
    private static let rateMin = 50

    /// The floors that the run did not reach.
    var shortfalls: [String] {
        guard violations.isEmpty else { return [] }
        var shortfalls: [String] = []
        if undisturbed.replies < TransportKillReport.repliesMin * cycles {
            shortfalls.append("\(undisturbed.replies) replies before faults")
        }
        if disturbed.perSecond * 100 < undisturbed.perSecond * TransportKillReport.rateMin {
            shortfalls.append("survivors have \(disturbed), before \(undisturbed)")
        }
        return shortfalls
    }

    var summary: String {
        """
        \(provider): \(cycles) cycles in \(milliseconds(duration) / 1_000) s: \(kills) killed, \
        \(stops) stopped; among those who are not: \(undisturbed) before, \(disturbed) meanwhile; \
        \(violations.count) violations
        """
            + lines.map { "\n  last life: \($0)" }.joined()
    }
}
