internal import ArgumentParser

/// What both harnesses are told: how often and what they disturb, and where files go.
struct FaultOptions: ParsableArguments {
    @Option(help: "How often something is killed or stopped.")
    var cycles = 100

    @Option(help: "What is drawn.")
    var seed: UInt64 = 1

    @Option(help: "Where files and logs go meanwhile: on a disk.")
    var directory = "/var/tmp"

    @Flag(help: "Print every cycle.")
    var verbose = false

    mutating func validate() throws {
        guard cycles > 0 else { throw ValidationError("counts must be positive") }
    }
}

/// Prints what must not be, and where too little was tested.
func printFindings(violations: [String], shortfalls: [String]) {
    for violation in violations { print("  VIOLATION \(violation)") }
    for shortfall in shortfalls { print("  TOO LITTLE: \(shortfall)") }
}
