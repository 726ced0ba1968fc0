import DraySimulator

/// Finds out how little is enough for a seed to fail.
enum Shrinking {
    /// The command that runs `seed` with these options.
    static func command(_ seed: UInt64, _ options: ClusterSimulation.Options) -> String {
        var words = ["dray-simulate --seed \(seed)"]
        if let engines = options.engineCount { words.append("--engines \(engines)") }
        if let targets = options.targetCount { words.append("--targets \(targets)") }
        if let devices = options.deviceCount { words.append("--devices \(devices)") }
        if let clients = options.clientCount { words.append("--clients \(clients)") }
        if let objectClass = options.objectClass { words.append("--class \(objectClass)") }
        let standard = ClusterSimulation.Options()
        if options.laneCount != standard.laneCount { words.append("--lanes \(options.laneCount)") }
        if options.duration != standard.duration {
            words.append("--milliseconds \(milliseconds(options.duration))")
        }
        if options.faults != standard.faults {
            let names = FaultKind.allCases.filter(options.faults.contains).map(\.rawValue)
            words.append("--faults " + (names.isEmpty ? "none" : names.joined(separator: ",")))
        }
        return words.joined(separator: " ")
    }

    private static func milliseconds(_ duration: Duration) -> Int64 {
        duration.components.seconds * 1_000 + duration.components.attoseconds
            / 1_000_000_000_000_000
    }

    /// Makes one thing after another smaller as long as the run still shows a violation. Says what
    /// it has reached.
    static func smallest(
        _ seed: UInt64, _ options: ClusterSimulation.Options, say: (String) -> Void
    ) -> ClusterSimulation.Options {
        var best = options
        best.isVerbose = false
        best.printsEvents = false
        best.logLevel = nil
        var isSmaller = true
        while isSmaller {
            isSmaller = false
            for candidate in candidates(best) {
                let report = ClusterSimulation(seed: seed, options: candidate).run()
                guard let violation = report.violations.first else { continue }
                best = candidate
                isSmaller = true
                say("still fails: \(command(seed, best)): \(violation)")
                break
            }
        }
        return best
    }

    /// What is one step smaller than `options`, the largest steps first.
    private static func candidates(
        _ options: ClusterSimulation.Options
    ) -> [ClusterSimulation.Options] {
        var candidates: [ClusterSimulation.Options] = []
        func add(_ change: (inout ClusterSimulation.Options) -> Void) {
            var candidate = options
            change(&candidate)
            candidates.append(candidate)
        }
        for kind in FaultKind.allCases where options.faults.contains(kind) {
            add { $0.faults.remove(kind) }
        }
        let time = milliseconds(options.duration)
        for part in [time / 2, time * 3 / 4] where part >= 50 {
            add { $0.duration = .milliseconds(part) }
        }
        for clients in 1..<(options.clientCount ?? 4) { add { $0.clientCount = clients } }
        for lanes in 1..<max(1, options.laneCount) { add { $0.laneCount = lanes } }
        for engines in 1..<(options.engineCount ?? 5) { add { $0.engineCount = engines } }
        if (options.targetCount ?? 2) > 1 { add { $0.targetCount = 1 } }
        if (options.deviceCount ?? 2) > 1 { add { $0.deviceCount = 1 } }
        return candidates
    }
}
