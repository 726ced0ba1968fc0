/// A text file of the repository, by lines.
struct SourceFile {
    /// Relative to the root of the repository.
    let path: String
    let lines: [String]
    /// The lines with comments and the contents of string literals blanked.
    let code: [String]

    init(path: String, text: String) {
        self.path = path
        lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        code = SourceFile.blank(lines)
    }

    var isSwift: Bool { path.hasSuffix(".swift") }
    var isSource: Bool { path.hasPrefix("Sources/") }
    var isTest: Bool { path.hasPrefix("Tests/") }

    /// The target that the file belongs to, for files below Sources and Tests.
    var target: String {
        let parts = path.split(separator: "/")
        return parts.count > 2 ? String(parts[1]) : ""
    }

    /// Replaces comments and literals, so that rules look at code alone. Knows nested strings in
    /// interpolations only roughly: an interpolation counts as part of its literal.
    private static func blank(_ lines: [String]) -> [String] {
        var inMultiline = false
        return lines.map { line in
            var result = ""
            var inString = false
            var depth = 0
            var rest = Substring(line)
            while let character = rest.first {
                if rest.hasPrefix("\"\"\"") {
                    inMultiline.toggle()
                    rest = rest.dropFirst(3)
                } else if inMultiline {
                    rest = rest.dropFirst(1)
                } else if inString {
                    if rest.hasPrefix("\\(") {
                        depth += 1
                        rest = rest.dropFirst(2)
                        continue
                    }
                    if depth > 0 {
                        if character == "(" { depth += 1 }
                        if character == ")" { depth -= 1 }
                    } else if character == "\"" {
                        inString = false
                        result += "\""
                    }
                    rest = rest.dropFirst(character == "\\" && depth == 0 ? 2 : 1)
                } else if rest.hasPrefix("//") {
                    break
                } else {
                    if character == "\"" { inString = true }
                    result.append(character)
                    rest = rest.dropFirst()
                }
            }
            return result
        }
    }
}

/// Something that a rule does not like.
struct Violation: CustomStringConvertible, Equatable {
    let path: String
    /// Counted from 1; 0 stands for the whole file.
    let line: Int
    let message: String

    var description: String { "\(path):\(line): \(message)" }
}
