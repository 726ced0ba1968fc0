/// What one simulated run did and found.
public struct SimulationReport: Sendable {
    public var seed: UInt64
    /// What the cluster was like.
    public var cluster = ""
    /// The object class of the container.
    public var objectClass = ""
    public var operations = 0
    /// Those of `operations` that are part of the histories of shared values.
    public var sharedOperations = 0
    public var acknowledgedWrites = 0
    /// Transactions that have committed.
    public var commits = 0
    /// Snapshots of which everything was read.
    public var snapshots = 0
    /// Operations that may have happened, or not.
    public var unknownOutcomes = 0
    /// Operations that have failed and are known not to have happened.
    public var refusals = 0
    public var faults = 0
    public var crashes = 0
    /// Values and extents that were compared in all of their replicas at the end.
    public var comparedValues = 0
    /// Blocks that were damaged at the end, and reads that were refused because of it.
    public var rottenBlocks = 0
    public var damagedReads = 0
    public var virtualSeconds = 0.0
    public var turns: UInt64 = 0
    public var events: UInt64 = 0
    public var eventHash: UInt64 = 0
    /// Everything that must not be. Empty when the run is good.
    public var violations: [Violation] = []

    /// A run below any of these has tested too little to count.
    public static let operationsMin = 200
    public static let sharedOperationsMin = 80
    public static let acknowledgedWritesMin = 80
    public static let commitsMin = 10
    public static let faultsMin = 8
    /// What every client writes when the faults are over is more.
    public static let comparedValuesMin = 15
    public static let damagedReadsMin = 1

    public init(seed: UInt64) { self.seed = seed }

    /// Whether the clients have done enough, and enough has befallen them.
    var hasDoneEnough: Bool {
        operations >= SimulationReport.operationsMin
            && sharedOperations >= SimulationReport.sharedOperationsMin
            && acknowledgedWrites >= SimulationReport.acknowledgedWritesMin
            && commits >= SimulationReport.commitsMin && faults >= SimulationReport.faultsMin
    }

    /// The floors that the run did not reach.
    public var shortfalls: [String] {
        var shortfalls: [String] = []
        if operations < SimulationReport.operationsMin {
            shortfalls.append("\(operations) operations")
        }
        if sharedOperations < SimulationReport.sharedOperationsMin {
            shortfalls.append("\(sharedOperations) operations on shared values")
        }
        if acknowledgedWrites < SimulationReport.acknowledgedWritesMin {
            shortfalls.append("\(acknowledgedWrites) acknowledged writes")
        }
        if commits < SimulationReport.commitsMin { shortfalls.append("\(commits) commits") }
        if faults < SimulationReport.faultsMin { shortfalls.append("\(faults) faults") }
        if comparedValues < SimulationReport.comparedValuesMin {
            shortfalls.append("\(comparedValues) values compared")
        }
        if damagedReads < SimulationReport.damagedReadsMin {
            shortfalls.append("\(damagedReads) reads of rotten blocks")
        }
        return shortfalls
    }

    /// Whether the run is good and has tested enough.
    public var passed: Bool { violations.isEmpty && shortfalls.isEmpty }

    /// One line.
    public var summary: String {
        "seed \(seed): \(cluster): \(operations) operations "
            + "(\(sharedOperations) on shared values), \(acknowledgedWrites) acknowledged writes, "
            + "\(commits) commits, \(snapshots) snapshots, "
            + "\(unknownOutcomes) unknown outcomes, \(refusals) refusals, "
            + "\(faults) faults, \(crashes) crashes, "
            + "\(comparedValues) compared values, \(damagedReads) damaged reads, "
            + "\((virtualSeconds * 10).rounded() / 10) s virtual, \(turns) turns, "
            + "hash \(String(eventHash, radix: 16))"
    }
}
