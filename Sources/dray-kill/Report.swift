internal import DrayRuntime

/// What a run did and found.
struct Report: Sendable {
    /// What was answered in a time: operations of all kinds, and reads of those who only read.
    struct Rate: Sendable, CustomStringConvertible {
        var operations = 0
        var reads = 0
        var time = Duration.zero

        static func += (left: inout Rate, right: Rate) {
            left.operations += right.operations
            left.reads += right.reads
            left.time += right.time
        }

        private func perSecond(_ count: Int) -> Int {
            let milliseconds = milliseconds(time)
            return milliseconds == 0 ? 0 : count * 1_000 / Int(milliseconds)
        }

        var description: String {
            "\(perSecond(operations)) operations/s and \(perSecond(reads)) reads/s"
        }
    }

    /// How long something took, several times.
    struct Times: Sendable, CustomStringConvertible {
        var count = 0
        var total = Duration.zero
        var longest = Duration.zero

        mutating func add(_ time: Duration) {
            count += 1
            total += time
            longest = max(longest, time)
        }

        var description: String {
            count == 0
                ? "never"
                : "\(milliseconds(total / count)) ms, at most \(milliseconds(longest)) ms"
        }
    }

    var total = Client.Tally()
    var sharedOperations = 0
    var epochs = 0
    var cycles = 0
    var kills = 0
    var stops = 0
    /// Objects whose replicas were compared.
    var compared = 0
    var duration = Duration.zero
    /// Rates with all engines, with one killed, and with one stopped.
    var undisturbed = Rate()
    var withoutOne = Rate()
    var withOneStopped = Rate()
    var recovery = Times()
    var convergence = Times()
    /// Everything that must not be. Empty when the run is good.
    var violations: [String] = []
    /// Where the files are, if they are kept.
    var files: String?

    mutating func add(recovery time: Duration) { recovery.add(time) }

    mutating func add(convergence time: Duration) { convergence.add(time) }

    mutating func add(_ quiet: Rate, _ away: Rate, _ kind: Fault.Kind) {
        cycles += 1
        undisturbed += quiet
        switch kind {
        case .kill(let ranks) where ranks.count == 1: withoutOne += away
        case .stop: withOneStopped += away
        case .kill, .nothing: break
        }
    }

    /// A run below these has tested too little to count: so many for each cycle.
    static let operationsMin = 50
    static let commitsMin = 3

    /// The floors that the run did not reach.
    var shortfalls: [String] {
        var shortfalls: [String] = []
        if total.operations < Report.operationsMin * cycles {
            shortfalls.append("\(total.operations) operations")
        }
        if total.commits < Report.commitsMin * cycles {
            shortfalls.append("\(total.commits) commits")
        }
        return shortfalls
    }

    var summary: String {
        """
        \(cycles) cycles in \(milliseconds(duration) / 1_000) s: \(kills) engines killed, \
        \(stops) stopped
        \(total.operations) operations (\(sharedOperations) on shared values), \
        \(total.acknowledgedWrites) acknowledged writes, \(total.commits) commits, \
        \(total.unknownOutcomes) unknown outcomes, \(total.refusals) refusals
        \(undisturbed) with all engines; \(withoutOne) while one is killed; \
        \(withOneStopped) while one is stopped
        engines serve after \(recovery); all operations succeed after \(convergence)
        \(epochs) histories checked, replicas of \(compared) objects compared: \
        \(violations.count) violations
        """
    }
}
