import DrayPlacement
import Testing

@testable import DraySimulator

/// What seeds draw. So many are what scripts/test runs.
@Suite struct PlanTests {
    private typealias Plan = ClusterSimulation.Plan
    private static let seeds: ClosedRange<UInt64> = 1...500

    @Test func namesOfClassesAreRight() {
        #expect(Plan.objectClasses.count == 9)
        #expect(Set(Plan.objectClasses.map(\.replicaCount)) == Set(1...6))
    }

    /// Every class is met, with every number of engines that can hold it, and often enough.
    @Test func everyClassIsMet() {
        var counts: [ObjectClass: [Int: Int]] = [:]
        for seed in Self.seeds {
            let plan = Plan(ClusterSimulation.Options(), seed: seed)
            #expect(plan.objectClass.replicaCount <= plan.engineCount, "seed \(seed)")
            counts[plan.objectClass, default: [:]][plan.engineCount, default: 0] += 1
        }
        for objectClass in Plan.objectClasses {
            let met = counts[objectClass] ?? [:]
            #expect(met.values.reduce(0, +) >= 10, "\(objectClass)")
            for engines in max(3, objectClass.replicaCount)...7 {
                #expect(met[engines] ?? 0 > 0, "\(objectClass) on \(engines) engines")
            }
        }
    }

    /// Who makes a failing cluster smaller has the same objects as long as they fit.
    @Test func fewerEnginesKeepTheClass() {
        for seed in Self.seeds {
            let plan = Plan(ClusterSimulation.Options(), seed: seed)
            for engines in plan.objectClass.replicaCount...plan.engineCount {
                var options = ClusterSimulation.Options()
                options.engineCount = engines
                #expect(Plan(options, seed: seed).objectClass == plan.objectClass, "seed \(seed)")
            }
        }
    }
}
