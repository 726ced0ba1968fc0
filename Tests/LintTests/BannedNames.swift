/// A name that may be used in some places only.
struct BannedName {
    /// What must not occur in code. Bounded by non-identifier characters where it begins or ends
    /// with a letter.
    let text: String
    /// What to write instead, or why not.
    let replacement: String
    /// Targets where it is allowed all the same.
    var allowed: Set<String> = []
    /// Whether tests are checked too.
    var appliesToTests = false

    static let all: [BannedName] = [
        BannedName(text: "Task {", replacement: "xstream.spawn {", allowed: ["DrayRuntime"]),
        BannedName(
            text: "Task(", replacement: "xstream.spawnCancellable", allowed: ["DrayRuntime"]),
        BannedName(text: "Task.detached", replacement: "xstream.spawn", allowed: ["DrayRuntime"]),
        BannedName(text: "Task.immediate", replacement: "xstream.spawn"),
        BannedName(text: "Task.sleep", replacement: "xstream.sleep"),
        BannedName(text: "Task.yield", replacement: "xstream.yield()"),
        BannedName(text: "Date()", replacement: "world.clock.wallNanoseconds"),
        BannedName(text: "ContinuousClock", replacement: "world.clock.now"),
        BannedName(text: "SuspendingClock", replacement: "world.clock.now"),
        BannedName(text: "clock_gettime", replacement: "world.clock.now"),
        BannedName(text: "SystemRandomNumberGenerator", replacement: "world.entropy.fork(_:)"),
        BannedName(text: ".randomElement()", replacement: ".randomElement(using: &entropy)"),
        BannedName(text: ".shuffled()", replacement: ".shuffled(using: &entropy)"),
        BannedName(text: "arc4random", replacement: "world.entropy.fork(_:)"),
        BannedName(text: "DispatchQueue", replacement: "an XStream"),
        BannedName(text: "import Dispatch", replacement: "an XStream"),
        BannedName(
            text: "import Foundation", replacement: "the standard library, Glibc or DrayRuntime",
            allowed: ["DrayCLI"]),
        BannedName(
            text: "@unchecked Sendable", replacement: "confinement to an xstream, Atomic or Mutex",
            allowed: ["DrayRuntime"]),
        BannedName(
            text: "import CLibfabric", replacement: "DrayFabric", allowed: ["DrayFabric"]),
        BannedName(
            text: "import CSharedMemory", replacement: "DrayFabric", allowed: ["DrayFabric"]),
        BannedName(text: "import CUring", replacement: "BIO", allowed: ["BIO"]),
        BannedName(text: "import CISAL", replacement: "DrayRuntime", allowed: ["DrayRuntime"]),
        BannedName(
            text: "import CXXHash", replacement: "DrayChecksums", allowed: ["DrayChecksums"]),
        BannedName(
            text: "import CCrypto", replacement: "DrayChecksums", allowed: ["DrayChecksums"]),
        BannedName(
            text: "import CDrayRuntime", replacement: "DrayRuntime", allowed: ["DrayRuntime"]),
        BannedName(text: "try!", replacement: "handle the error", appliesToTests: true),
        BannedName(text: "fatalError", replacement: "precondition, or throw", appliesToTests: true),
        BannedName(
            text: "for unsafe ", replacement: "indices: the formatter breaks `for unsafe x in`",
            appliesToTests: true),
    ]
}
