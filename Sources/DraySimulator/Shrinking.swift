internal import DrayPlacement

/// How a run of a seed can fail. Two that are equal are taken for the same failure.
package enum RunFailure: Hashable, Sendable, CustomStringConvertible {
    case violation(Violation.Kind)
    /// The process has ended itself: with a signal, or with what it said last, without its numbers.
    case trap(String)
    /// It takes longer than any run does.
    case hang

    package var description: String {
        switch self {
        case .violation(let kind): kind.rawValue
        case .trap(let what): "trap: \(what)"
        case .hang: "hang"
        }
    }
}

/// What a run has shown: how it failed, and that in words.
package struct Finding: Sendable {
    package var failure: RunFailure
    package var details: String

    package init(_ failure: RunFailure, _ details: String) {
        self.failure = failure
        self.details = details
    }

    package init(_ violation: Violation) {
        self.init(.violation(violation.kind), violation.details)
    }
}

/// Finds out how little is enough for a seed to fail in the way in which it does.
package struct Shrinking {
    private let seed: UInt64
    private let failure: RunFailure
    /// Runs the seed with other options, and returns everything that is wrong.
    private let run: (ClusterSimulation.Options) throws -> [Finding]
    private let say: (String) -> Void

    /// For a seed that fails with `failure`.
    package init(
        _ seed: UInt64, _ failure: RunFailure, say: @escaping (String) -> Void,
        run: @escaping (ClusterSimulation.Options) throws -> [Finding]
    ) {
        self.seed = seed
        self.failure = failure
        self.run = run
        self.say = say
    }

    /// Makes one thing after another smaller as long as the run shows the same failure. Says what
    /// it has reached.
    package func smallest(
        _ options: ClusterSimulation.Options
    ) throws -> ClusterSimulation.Options {
        var best = options
        // A cluster that cannot be made has tested nothing.
        if failure == .violation(.setUp) { return best }
        var isSmaller = true
        while isSmaller {
            isSmaller = false
            for candidate in candidates(best) {
                let findings = try run(candidate)
                guard let same = findings.first(where: { $0.failure == failure }) else { continue }
                best = candidate
                isSmaller = true
                say("still fails: \(best.command(seed: seed)): \(failure): \(same.details)")
                break
            }
        }
        return best
    }

    /// What is one step smaller than `options`, the largest steps first.
    private func candidates(_ options: ClusterSimulation.Options) -> [ClusterSimulation.Options] {
        var candidates: [ClusterSimulation.Options] = []
        func add(_ change: (inout ClusterSimulation.Options) -> Void) {
            var candidate = options
            change(&candidate)
            candidates.append(candidate)
        }
        let plan = ClusterSimulation.Plan(options, seed: seed)
        for kind in FaultKind.allCases where options.faults.contains(kind) {
            add { $0.faults.remove(kind) }
        }
        let time = options.milliseconds
        for part in [time / 2, time * 3 / 4] where part >= 50 {
            add { $0.duration = .milliseconds(part) }
        }
        for clients in 1..<max(1, plan.clientCount) { add { $0.clientCount = clients } }
        for lanes in 1..<max(1, options.laneCount) { add { $0.laneCount = lanes } }
        // Fewer engines than replicas cannot hold the container.
        let enginesMin = plan.objectClass.replicaCount
        for engines in enginesMin..<max(enginesMin, plan.engineCount) {
            add { $0.engineCount = engines }
        }
        if plan.targetCount > 1 {
            add {
                // One device is all that one target can have.
                $0.targetCount = 1
                $0.deviceCount = nil
            }
        }
        if plan.deviceCount > 1 { add { $0.deviceCount = 1 } }
        return candidates
    }
}

extension ClusterSimulation.Options {
    /// The words after `scripts/simulate` that run `seed` with these options.
    package func arguments(seed: UInt64) -> [String] {
        var words = ["--seed", "\(seed)"]
        func add(_ name: String, _ value: Int?) {
            if let value { words += [name, "\(value)"] }
        }
        add("--engines", engineCount)
        add("--targets", targetCount)
        add("--devices", deviceCount)
        add("--clients", clientCount)
        if let objectClass { words += ["--class", objectClass] }
        let standard = ClusterSimulation.Options()
        if laneCount != standard.laneCount { add("--lanes", laneCount) }
        if duration != standard.duration { add("--milliseconds", Int(milliseconds)) }
        if faults != standard.faults {
            let names = FaultKind.allCases.filter(faults.contains).map(\.rawValue)
            words += ["--faults", names.isEmpty ? "none" : names.joined(separator: ",")]
        }
        return words
    }

    /// The command that runs `seed` with these options, from the root of the repository.
    package func command(seed: UInt64) -> String {
        (["scripts/simulate"] + arguments(seed: seed)).joined(separator: " ")
    }

    fileprivate var milliseconds: Int64 {
        duration.components.seconds * 1_000 + duration.components.attoseconds
            / 1_000_000_000_000_000
    }
}
