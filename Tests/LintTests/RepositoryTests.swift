import Testing

/// The house rules, checked on every file of the repository.
@Suite struct RepositoryTests {
    static let repository = Repository()

    /// No file of the repository is larger.
    static let fileSizeMax = 512 << 10

    @Test func theRepositoryIsFound() {
        #expect(Self.repository.file("Package.swift") != nil)
        #expect(Self.repository.files.count > 50)
        #expect(Self.repository.files.contains { $0.path.hasPrefix("Sources/DrayRuntime/") })
    }

    @Test func everyFileKeepsTheRules() {
        for file in Self.repository.files {
            for rule in Rules.all {
                for violation in rule(file) { Issue.record("\(violation)") }
            }
        }
    }

    @Test func publicDeclarationsAreDocumented() {
        let names = Rules.requirements(in: Self.repository.files)
        for file in Self.repository.files {
            for violation in Rules.documentation(file, documentedElsewhere: names) {
                Issue.record("\(violation)")
            }
        }
    }

    @Test func layersPointDownwards() throws {
        let package = try #require(Self.repository.file("Package.swift"))
        #expect(PackageRules.targets(package).count > 20)
        for violation in PackageRules.check(package) { Issue.record("\(violation)") }
    }

    /// Each target says what it is for, on a page with one title.
    @Test func everyTargetHasAReadme() throws {
        let package = try #require(Self.repository.file("Package.swift"))
        let shims = [
            "CLibfabric", "CSharedMemory", "CUring", "CISAL", "CXXHash", "CCrypto", "CDrayRuntime",
        ]
        for target in PackageRules.targets(package)
        where target.kind != ".testTarget(" && !shims.contains(target.name) {
            let folder = target.name.hasSuffix("TestSupport") ? "Tests" : "Sources"
            let path = "\(folder)/\(target.name)/README.md"
            guard let readme = Self.repository.file(path) else {
                Issue.record("\(path) is missing")
                continue
            }
            for violation in readme.titleViolations { Issue.record("\(violation)") }
        }
    }

    @Test func everyPageHasOneTitle() {
        for page in Self.repository.files where page.path.hasSuffix(".md") {
            for violation in page.titleViolations { Issue.record("\(violation)") }
        }
    }

    @Test func noFileIsLarge() {
        for (path, size) in Self.repository.sizes where size > Self.fileSizeMax {
            Issue.record("\(path) has \(size) bytes; \(Self.fileSizeMax) are allowed")
        }
    }
}

extension SourceFile {
    /// A page begins with its title, and has no other of that rank.
    var titleViolations: [Violation] {
        var inFence = false
        let titles = lines.enumerated().filter { _, line in
            if line.hasPrefix("```") { inFence.toggle() }
            return !inFence && line.hasPrefix("# ")
        }
        if titles.first?.offset != 0 {
            return [Violation(path: path, line: 1, message: "does not begin with a '# ' title")]
        }
        return titles.dropFirst().map {
            Violation(path: path, line: $0.offset + 1, message: "a second title")
        }
    }
}
