import Testing

/// Each rule finds what it is for, and leaves alone what is right.
@Suite struct RuleTests {
    static func lint(_ text: String, at path: String) -> [String] {
        let file = SourceFile(path: path, text: text)
        return (Rules.all.flatMap { $0(file) } + Rules.documentation(file)).map(\.message)
    }

    static let core = "Sources/VOS/Sample.swift"

    @Test(arguments: [
        "    let tab = 1\t", "\tlet x = 1", "let x = 1 ", String(repeating: "x", count: 101),
        "// FIX" + "ME later", "let x = 1  // TO" + "DO", "// XX" + "X",
        "Task { await f() }", "Task(priority: .high) { }", "Task.detached { }", "let date = Date()",
        "try await Task.sleep(for: .seconds(1))", "await Task.yield()", "Task.immediate { }",
        "let clock = ContinuousClock()", "var g = SystemRandomNumberGenerator()",
        "DispatchQueue.main.async { }", "import Foundation", "internal import Foundation",
        "final class A: @unchecked Sendable {}", "internal import CLibfabric",
        "internal import CUring", "internal import CISAL", "let x = try! f()",
        "fatalError(\"no\")", "for unsafe x in list { }", "let x = list.randomElement()",
        "do { try f() } catch {}", "do { try f() } catch {\n}",
        "public func undocumented() {}", "public struct Undocumented {}",
        "@inlinable public func undocumented() {}", "public final class Undocumented {}",
    ])
    func findsFaults(text: String) {
        #expect(!Self.lint(text, at: Self.core).isEmpty)
    }

    @Test(arguments: [
        "let x = 1", String(repeating: "x", count: 100), "// A Task { in a comment",
        "let text = \"Task { and Date() in a literal\"", "let t = \"\\(f(\"x\")) Task {\"",
        "let myTask = SomeTask(1)", "xstream.spawn { }", "Update()", "let x = try? f()",
        "let fatalErrors = 1", "/// Documented.\npublic func documented() {}",
        "/// Documented.\n@inlinable\npublic func documented() {}", "func hidden() {}",
        "public import DrayRuntime", "do { try f() } catch {\n    log(error)\n}",
        "let text = \"\"\"\n    Task { }\n    \"\"\"", "list.shuffled(using: &entropy)",
    ])
    func leavesGoodCodeAlone(text: String) {
        #expect(Self.lint(text, at: Self.core) == [])
    }

    @Test(arguments: [
        ("Task(executorPreference: self) { }", "Sources/DrayRuntime/A.swift", true),
        ("Task(executorPreference: self) { }", "Sources/CaRT/A.swift", false),
        ("import Foundation", "Sources/DrayCLI/A.swift", true),
        ("import Foundation", "Sources/Dray/A.swift", false),
        ("internal import CLibfabric", "Sources/DrayFabric/A.swift", true),
        ("internal import CUring", "Sources/BIO/A.swift", true),
        ("internal import CUring", "Sources/DrayFabric/A.swift", false),
        ("internal import CISAL", "Sources/DrayRuntime/A.swift", true),
        ("struct A: @unchecked Sendable {}", "Sources/DrayRuntime/A.swift", true),
        ("Task { }", "Tests/VOSTests/A.swift", true),
        ("let x = try! f()", "Tests/VOSTests/A.swift", false),
    ])
    func placesAreKept(text: String, path: String, isAllowed: Bool) {
        #expect(Self.lint(text, at: path).isEmpty == isAllowed)
    }

    /// What a protocol documents is not documented again.
    @Test func implementationsOfRequirements() {
        let requirement = SourceFile(
            path: Self.core,
            text: "public protocol P {\n    /// Runs.\n    func run()\n}\nfunc other() {}\n")
        let names = Rules.requirements(in: [requirement])
        #expect(names.contains("run"))
        #expect(!names.contains("other"))
        let text = "extension A: P {\n    public func run() {}\n    public func walk() {}\n}\n"
        let found = Rules.documentation(
            SourceFile(path: Self.core, text: text), documentedElsewhere: names)
        #expect(found.map(\.line) == [3])
    }

    @Test(arguments: [70, 71]) func functionLength(lines: Int) {
        let body = Array(repeating: "        work()", count: lines - 2)
        let text = (["struct A {", "    func long() {"] + body + ["    }", "}"])
            .joined(separator: "\n")
        #expect(Self.lint(text, at: Self.core).isEmpty == (lines <= 70))
    }

    @Test(arguments: [1_000, 1_001]) func fileLength(lines: Int) {
        let text = String(repeating: "let x = 1\n", count: lines)
        #expect(Self.lint(text, at: Self.core).isEmpty == (lines <= 1_000))
    }

    static let package = """
        targets: [
            .target(name: "A"),
            .target(
                name: "B",
                dependencies: ["A", logging],
                swiftSettings: settings),
            .testTarget(name: "BTests", dependencies: [
                "A",
                "B",
            ]),
        ]
        """

    @Test func packageOrder() {
        let good = SourceFile(path: "Package.swift", text: Self.package)
        #expect(PackageRules.targets(good).map(\.name) == ["A", "B", "BTests"])
        #expect(PackageRules.targets(good).map(\.dependencies) == [[], ["A"], ["A", "B"]])
        #expect(PackageRules.check(good) == [])
        let upwards =
            Self.package.before(".target(\n") + ".target(name: \"C\", "
            + "dependencies: [\"B\"]),\n    .target(\n" + Self.package.after(".target(\n")
        let bad = SourceFile(path: "Package.swift", text: upwards)
        #expect(PackageRules.check(bad).map(\.message) == ["C depends on B, a layer above it"])
    }

    @Test(arguments: [".unsafeFlags([\"-O\"])", "let flags = [\"-Ounchecked\"]"])
    func packageSettings(text: String) {
        #expect(!PackageRules.check(SourceFile(path: "Package.swift", text: text)).isEmpty)
    }

    @Test(arguments: [
        ("# Title\n\nText\n", true), ("Text\n", false), ("# One\n# Two\n", false), ("", false),
        ("## Small\n", false), ("# One\n```\n# a comment\n```\n", true),
    ])
    func titles(text: String, isRight: Bool) {
        #expect(SourceFile(path: "a.md", text: text).titleViolations.isEmpty == isRight)
    }
}
