import ArgumentParser

/// What every simulation under faults is told: which seeds, for how long, and what to print.
struct SeedOptions: ParsableArguments {
    @Option(help: "How many seeds to run.")
    var seeds = 1

    @Option(help: "The first seed.")
    var seed: UInt64 = 1

    @Option(help: "Virtual milliseconds of workload.")
    var milliseconds = 2_000

    @Flag(help: "Print every fault.")
    var verbose = false

    @Option(help: "Log mask of all processes, such as debug or cart=debug.")
    var log: String?

    @Flag(help: "Print every event that the hash covers, to compare two runs.")
    var events = false

    @Flag(help: "Print only failures and the total.")
    var quiet = false

    mutating func validate() throws {
        guard seeds > 0, milliseconds > 0 else {
            throw ValidationError("counts must be positive")
        }
        guard UInt64(seeds) <= .max - seed else {
            throw ValidationError("there are no \(seeds) seeds from \(seed) on")
        }
    }

    /// What stands before a violation on its line.
    static let violationMark = "  VIOLATION "

    /// The seeds to run.
    var all: Range<UInt64> { seed..<seed + UInt64(seeds) }

    /// Prints what became of a seed, and the command that repeats it when it failed.
    func report(
        _ summary: String, violations: [String], shortfalls: [String], command: String
    ) {
        let isGood = violations.isEmpty && shortfalls.isEmpty
        if !quiet || !isGood { print(summary) }
        for violation in violations { print(SeedOptions.violationMark + violation) }
        for shortfall in shortfalls { print("  TOO LITTLE: \(shortfall)") }
        if !isGood { print("  repeat with: \(command) --verbose") }
    }
}

/// Kinds of faults as they are named on the command line, separated by commas.
enum FaultList<Kind: CaseIterable & Hashable & RawRepresentable<String>> {
    static var all: [String] { Kind.allCases.map(\.rawValue) }

    static var help: ArgumentHelp {
        "What may go wrong, separated by commas: \(all.joined(separator: ", ")), or none."
    }

    static func parse(_ text: String) throws -> Set<Kind> {
        if text == "none" { return [] }
        var kinds: Set<Kind> = []
        for name in text.split(separator: ",") {
            guard let kind = Kind(rawValue: String(name)) else {
                throw ValidationError(
                    "there is no fault '\(name)'; there are: " + all.joined(separator: ", "))
            }
            kinds.insert(kind)
        }
        return kinds
    }
}
