internal import ArgumentParser
internal import Foundation

@main
struct DrayLimits: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dray-limits",
        abstract: "Check what the transport takes: allocations and memory.",
        discussion: """
            Ends with 1 when a limit is exceeded. Only a release build says anything about \
            allocations.
            """,
        subcommands: [Calls.self, Endpoints.self, Serve.self])
}

/// A limit, what was found, and whether it holds.
struct Finding {
    var what: String
    var found: Double
    var limit: Double
    var unit: String

    var holds: Bool { found <= limit }

    /// A line of the report.
    var line: String {
        String(
            format: "%@ %@: %.3f %@ (limit %.3f)", holds ? "ok  " : "FAIL", what, found, unit, limit
        )
    }

    /// Prints the findings; throws the exit code when one is above its limit.
    static func report(_ findings: [Finding]) throws {
        for finding in findings { print(finding.line) }
        guard findings.allSatisfy(\.holds) else { throw ExitCode.failure }
    }
}

/// What the kernel says of this process's memory, in KiB.
func residentKibibytes() -> Double {
    let status = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
    let line = status.split(separator: "\n").first { $0.hasPrefix("VmRSS:") }
    let words = line?.split(whereSeparator: { $0 == " " || $0 == "\t" }) ?? []
    guard words.count > 1, let value = Double(words[1]) else {
        fatalError("the kernel does not say how much memory is resident")
    }
    return value
}
