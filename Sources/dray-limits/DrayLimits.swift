internal import ArgumentParser
internal import CaRT
internal import DrayRuntime
internal import Glibc

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

    /// Prints the findings; throws the exit code when one is above its limit.
    static func report(_ findings: [Finding]) throws {
        func text(_ value: Double) -> String { "\((value * 1000).rounded() / 1000)" }
        for finding in findings {
            print(
                finding.holds ? "ok  " : "FAIL",
                "\(finding.what): \(text(finding.found)) \(finding.unit)",
                "(limit \(text(finding.limit)))")
        }
        guard findings.allSatisfy(\.holds) else { throw ExitCode.failure }
    }
}

/// A message of 64 bytes.
struct Question: Message {
    static let id = ProtocolID(base: 0x41, version: 1)
    static let atOnce = Procedure<Question, Question>(id, index: 0, name: "answered at once")
    static let byTask = Procedure<Question, Question>(id, index: 1, name: "answered by a task")
    /// Ends the process that serves.
    static let end = Procedure<EmptyMessage, EmptyMessage>(id, index: 2, name: "end")

    var words: (UInt64, UInt64, UInt64, UInt64) = (1, 2, 3, 4)
    var more: (UInt64, UInt64, UInt64, UInt64) = (5, 6, 7, 8)

    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&words.0)
        try coder.code(&words.1)
        try coder.code(&words.2)
        try coder.code(&words.3)
        try coder.code(&more.0)
        try coder.code(&more.1)
        try coder.code(&more.2)
        try coder.code(&more.3)
    }
}

/// What is resident of this process's memory, in KiB.
func residentKibibytes() throws -> Double {
    let descriptor = unsafe open("/proc/self/statm", O_RDONLY | O_CLOEXEC)
    var buffer = [UInt8](repeating: 0, count: 256)
    let count = unsafe read(descriptor, &buffer, buffer.count)
    close(descriptor)
    let words = String(decoding: buffer.prefix(max(0, count)), as: UTF8.self).split(separator: " ")
    guard words.count > 1, let pages = Double(words[1]) else {
        throw ValidationError("the kernel does not say how much memory is resident")
    }
    return pages * Double(sysconf(Int32(_SC_PAGESIZE))) / 1024
}
