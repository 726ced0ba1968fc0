/// The rules for Package.swift: layers, and no settings that others could not use.
enum PackageRules {
    struct Target {
        let name: String
        let line: Int
        let kind: String
        let dependencies: [String]
    }

    static func check(_ file: SourceFile) -> [Violation] {
        order(file) + settings(file)
    }

    /// The targets in the order that they are declared in.
    static func targets(_ file: SourceFile) -> [Target] {
        let kinds = [".target(", ".executableTarget(", ".testTarget(", ".systemLibrary("]
        var targets: [Target] = []
        var start: Int?
        func finish(before end: Int) {
            guard let first = start else { return }
            let text = file.lines[first..<end].joined(separator: " ")
            let kind = kinds.first { text.contains($0) } ?? ""
            let name = quoted(text.after("name:")).first ?? ""
            let list = text.after("dependencies:").before("]")
            targets.append(
                Target(name: name, line: first + 1, kind: kind, dependencies: quoted(list)))
        }
        for (index, line) in file.lines.enumerated()
        where kinds.contains(where: { line.drop(while: { $0 == " " }).hasPrefix($0) }) {
            finish(before: index)
            start = index
        }
        finish(before: file.lines.count)
        return targets
    }

    /// A target depends only on targets that are declared before it.
    static func order(_ file: SourceFile) -> [Violation] {
        let targets = targets(file)
        let names = Set(targets.map(\.name))
        var seen: Set<String> = []
        var violations: [Violation] = []
        for target in targets {
            for dependency in target.dependencies
            where names.contains(dependency) && !seen.contains(dependency) {
                violations.append(
                    Violation(
                        path: file.path, line: target.line,
                        message: "\(target.name) depends on \(dependency), a layer above it"))
            }
            seen.insert(target.name)
        }
        return violations
    }

    static func settings(_ file: SourceFile) -> [Violation] {
        let banned = [
            ("unsafeFlags", "other packages could not depend on Dray"),
            ("-Ounchecked", "it removes preconditions"),
        ]
        return file.violations { _, line in
            let code = line.before("//")
            return banned.first { code.contains($0.0) }.map { "\($0.0): \($0.1)" }
        }
    }

    /// The string literals in `text`.
    private static func quoted(_ text: String) -> [String] {
        text.split(separator: "\"", omittingEmptySubsequences: false).enumerated()
            .filter { $0.offset % 2 == 1 }.map { String($0.element) }
    }
}

extension String {
    /// What follows the first occurrence of `mark`; empty without one.
    func after(_ mark: String) -> String {
        firstRange(of: mark).map { String(self[$0.upperBound...]) } ?? ""
    }

    /// What stands before the first occurrence of `mark`; everything without one.
    func before(_ mark: String) -> String {
        firstRange(of: mark).map { String(self[..<$0.lowerBound]) } ?? self
    }
}
