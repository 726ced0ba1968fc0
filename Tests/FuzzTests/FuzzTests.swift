import DrayRuntime
import Glibc
import Testing

/// Hostile and damaged input for every decoder, a fixed number of inputs each.
@Suite struct FuzzTests {
    private let root = #filePath.split(separator: "/", omittingEmptySubsequences: false)
        .dropLast(3).joined(separator: "/")

    @Test(arguments: FuzzTarget.allCases)
    func survivesItsCorpus(target: FuzzTarget) {
        let corpus = target.corpus
        #expect(!corpus.isEmpty)
        for input in corpus { input.withUnsafeBytes { target.run($0) } }
        [UInt8]().withUnsafeBytes { target.run($0) }
    }

    @Test(arguments: FuzzTarget.allCases)
    func survivesMutations(target: FuzzTarget) {
        var mutator = FuzzMutator(seed: 1)
        let corpus = target.corpus
        for _ in 0..<(target == .context ? 300 : 4_000) {
            mutator.mutate(corpus).withUnsafeBytes { target.run($0) }
        }
    }

    /// Inputs that libFuzzer made, and are kept since they reach code that others do not.
    @Test(arguments: FuzzTarget.allCases)
    func survivesKeptInputs(target: FuzzTarget) {
        let inputs = KeptInputs.read("\(root)/Fuzz/corpus/\(target.rawValue).txt")
        #expect(inputs.count > 5)
        for input in inputs { input.withUnsafeBytes { target.run($0) } }
    }

    /// Inputs that once did harm.
    @Test(arguments: FuzzTarget.allCases)
    func survivesWhatWasFound(target: FuzzTarget) {
        for input in FuzzFindings.inputs(of: target) { input.withUnsafeBytes { target.run($0) } }
    }

    /// A sample that its own decoder refuses is no seed.
    @Test(arguments: FuzzTarget.allCases)
    func samplesAreGood(target: FuzzTarget) {
        var names: Set<String> = []
        for decoder in target.decoders {
            #expect(decoder.isGood(decoder.sample), "\(decoder.name)")
            #expect(names.insert(decoder.name).inserted, "\(decoder.name) is there twice")
        }
    }

    /// Every type in the sources that is decoded from the wire has a target.
    @Test func everyDecoderIsThere() throws {
        let known = Set(FuzzTarget.allCases.flatMap { $0.decoders.map(\.name) })
        var found: Set<String> = []
        for module in ["CaRT", "DrayProtocol", "DrayRuntime", "DrayFabric", "DrayEngine", "Dray"] {
            try visit("\(root)/Sources/\(module)", &found)
        }
        #expect(found.count > 60)
        #expect(found.subtracting(known).sorted() == [])
    }

    private func visit(_ path: String, _ found: inout Set<String>) throws {
        guard let directory = opendir(path) else { return }
        defer { closedir(directory) }
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name.hasSuffix(".swift") {
                scan(try text("\(path)/\(name)"), &found)
            } else if !name.hasPrefix("."), !name.contains(".") {
                try visit("\(path)/\(name)", &found)
            }
        }
    }

    private func text(_ path: String) throws -> String {
        let file = try #require(fopen(path, "r"))
        defer { fclose(file) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while case let count = fread(&buffer, 1, buffer.count, file), count > 0 {
            bytes += buffer[0..<count]
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Types that say that they are messages: `struct Name: Message, … {`.
    private func scan(_ text: String, _ found: inout Set<String>) {
        for line in text.split(separator: "\n") where line.contains(": ") && line.hasSuffix("{") {
            let words = line.split { ": ,{".contains($0) }
            // In comments, a declaration is an example.
            guard words.first?.hasPrefix("//") == false,
                let kind = words.firstIndex(where: { $0 == "struct" || $0 == "extension" }),
                kind + 1 < words.count,
                words[(kind + 2)...].contains(where: { $0 == "Message" || $0 == "ByteCodable" }),
                !line.contains("<")
            else { continue }
            found.insert(String(words[kind + 1].split(separator: ".").last ?? ""))
        }
    }
}
