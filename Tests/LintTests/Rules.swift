/// The rules for single files. Each is a function from a file to what is wrong with it.
enum Rules {
    typealias Rule = @Sendable (SourceFile) -> [Violation]

    static let lineLengthMax = 100
    static let fileLinesMax = 1_000
    static let functionLinesMax = 70

    static let all: [Rule] = [
        layout, markers, bannedNames, fileLength, functionLength, emptyCatch,
    ]

    /// No line over 100 characters, no tabs, no spaces at the end.
    static func layout(_ file: SourceFile) -> [Violation] {
        file.violations { _, line in
            // Rows of a table cannot be broken.
            let isRow = file.path.hasSuffix(".md") && line.hasPrefix("|")
            if line.count > lineLengthMax && !isRow {
                return "\(line.count) columns, \(lineLengthMax) allowed"
            }
            if line.contains("\t") { return "a tab" }
            if line.hasSuffix(" ") && !file.path.hasSuffix(".md") { return "spaces at the end" }
            return nil
        }
    }

    /// No notes to ourselves: what is to do belongs into an issue.
    static func markers(_ file: SourceFile) -> [Violation] {
        let words = ["FIX" + "ME", "TO" + "DO", "XX" + "X"]
        return file.violations { _, line in
            words.first { contains($0, in: line) }.map { "\($0) left in the text" }
        }
    }

    static func bannedNames(_ file: SourceFile) -> [Violation] {
        guard file.isSwift, file.isSource || file.isTest else { return [] }
        let names = BannedName.all.filter {
            !$0.allowed.contains(file.target) && ($0.appliesToTests || file.isSource)
        }
        return file.violations(inCode: true) { _, line in
            names.first { contains($0.text, in: line) }.map {
                "'\($0.text)' is banned here; use \($0.replacement)"
            }
        }
    }

    static func fileLength(_ file: SourceFile) -> [Violation] {
        guard file.isSwift, file.lines.count > fileLinesMax + 1 else { return [] }
        return [
            Violation(
                path: file.path, line: 0,
                message: "\(file.lines.count) lines, \(fileLinesMax) allowed")
        ]
    }

    /// A function ends at the line with its closing brace, which has the indentation of `func`.
    static func functionLength(_ file: SourceFile) -> [Violation] {
        guard file.isSwift else { return [] }
        var violations: [Violation] = []
        for (index, line) in file.code.enumerated() where startsFunction(line) {
            let indentation = line.prefix { $0 == " " }
            let end = file.code[index...].firstIndex { other in
                other.hasPrefix(indentation + "}") || (other == line && other.hasSuffix("}"))
            }
            // A requirement of a protocol has no body: the next one would count for it.
            let body = file.code[index...].firstIndex { $0.isEmpty || $0.contains("{") }
            guard let body, !file.code[body].isEmpty else { continue }
            guard let end, end - index + 1 > functionLinesMax else { continue }
            violations.append(
                Violation(
                    path: file.path, line: index + 1,
                    message: "a function of \(end - index + 1) lines, "
                        + "\(functionLinesMax) allowed"))
        }
        return violations
    }

    static func startsFunction(_ line: String) -> Bool {
        let words = line.split(separator: " ")
        guard line.contains("func ") || line.contains("init(") || line.contains("init<"),
            !line.contains(" = ")
        else { return false }
        return words.prefix(8).contains {
            $0 == "func" || $0.hasPrefix("init(") || $0.hasPrefix("init<")
        }
    }

    static func emptyCatch(_ file: SourceFile) -> [Violation] {
        guard file.isSwift, file.isSource else { return [] }
        return file.violations(inCode: true) { index, line in
            guard contains("catch", in: line), line.hasSuffix("{") || line.contains("{}") else {
                return nil
            }
            let next = index + 1 < file.lines.count ? file.lines[index + 1] : ""
            let isEmpty = line.contains("{}") || next.drop { $0 == " " }.hasPrefix("}")
            return isEmpty ? "an empty catch: handle the error or say why it does not matter" : nil
        }
    }

    /// Public declarations have a documentation comment. `documentedElsewhere` are the names of
    /// functions that a protocol documents; their implementations need not repeat it.
    static func documentation(
        _ file: SourceFile, documentedElsewhere: Set<String> = []
    ) -> [Violation] {
        guard file.isSwift, file.isSource else { return [] }
        let kinds: Set<Substring> = [
            "func", "struct", "class", "enum", "actor", "protocol", "typealias", "macro",
        ]
        return file.violations(inCode: true) { index, line in
            let words = line.split(separator: " ")
            guard let position = words.firstIndex(of: "public"), position < 3,
                let kind = words.first(where: { kinds.contains($0) })
            else { return nil }
            if kind == "func", documentedElsewhere.contains(functionName(line)) { return nil }
            var before = index - 1
            while before >= 0 {
                let text = file.lines[before].drop { $0 == " " }
                if text.hasPrefix("///") { return nil }
                // Attributes may stand in between, and plain comments.
                guard text.hasPrefix("@") || text.hasPrefix("//") else { break }
                before -= 1
            }
            return "a public \(kind) without a documentation comment"
        }
    }

    /// Functions of the standard library's and swift-metrics' protocols.
    static let wellKnownRequirements: Set<String> = [
        "next", "hash", "encode", "==", "<", "+", "-", "makeCounter", "makeTimer", "makeMeter",
        "destroyCounter", "destroyRecorder", "destroyMeter", "destroyTimer",
    ]

    /// The functions that the protocols in `files` require.
    static func requirements(in files: [SourceFile]) -> Set<String> {
        var names = wellKnownRequirements
        for file in files where file.isSwift {
            var inProtocol = false
            for line in file.code {
                if line.split(separator: " ").prefix(3).contains("protocol") { inProtocol = true }
                if line.hasPrefix("}") { inProtocol = false }
                if inProtocol, line.contains("func ") { names.insert(functionName(line)) }
            }
        }
        return names
    }

    static func functionName(_ line: String) -> String {
        String(
            line.after("func ").prefix { $0 != "(" && $0 != "<" || line.contains("func <") }
                .prefix { $0 != "(" && $0 != " " })
    }

    /// Whether `text` occurs in `line` as whole words.
    static func contains(_ text: String, in line: String) -> Bool {
        func isWord(_ character: Character?) -> Bool {
            guard let character else { return false }
            return character.isLetter || character.isNumber || character == "_"
        }
        var rest = Substring(line)
        while let range = rest.firstRange(of: text) {
            let before =
                range.lowerBound > line.startIndex
                ? line[line.index(before: range.lowerBound)] : nil
            let after = range.upperBound < line.endIndex ? line[range.upperBound] : nil
            let startsInside = isWord(text.first) && isWord(before)
            let endsInside = isWord(text.last) && isWord(after)
            if !startsInside && !endsInside { return true }
            rest = rest[line.index(after: range.lowerBound)...]
        }
        return false
    }
}

extension SourceFile {
    /// The violations that `check` finds line by line.
    func violations(
        inCode: Bool = false, _ check: (Int, String) -> String?
    ) -> [Violation] {
        (inCode ? code : lines).enumerated().compactMap { index, line in
            check(index, line).map {
                Violation(path: path, line: index + 1, message: $0)
            }
        }
    }
}
