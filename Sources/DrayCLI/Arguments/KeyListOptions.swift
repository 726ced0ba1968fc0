internal import ArgumentParser
internal import Dray
internal import DrayPlacement
internal import DrayRuntime

/// Which keys a list has, in which order, where it begins and ends, and how it is printed.
struct KeyListOptions: ParsableArguments {
    @Option(name: .long, help: "Begin after this key.") var after: ByteArgument?
    @Option(name: .long, help: "List at most so many keys.") var limit: Int = .max
    @Option(name: .long, help: "Only keys that begin with this.") var prefix: ByteArgument?
    @Option(name: .long, help: "Only keys from this one on.") var from: ByteArgument?
    @Option(name: .long, help: "Only keys before this one.") var before: ByteArgument?
    @Flag(name: .long, help: "The last key first.") var reverse = false
    @Flag(name: [.customShort("0"), .long], help: "End each key with a zero byte.")
    var null = false

    func validate() throws {
        if limit < 1 { throw ValidationError("--limit must be at least 1.") }
    }

    private func range(of type: KeyType) throws(CommandFailure) -> KeyRange {
        let range = KeyRange(
            from: try type.key(from), upTo: try type.key(before), isReversed: reverse)
        guard let prefix else { return range }
        guard type == .lexical else {
            throw CommandFailure(.usage, "--prefix", "these keys are integers")
        }
        return range.narrowed(to: KeyRange(prefix: prefix.bytes))
    }

    /// Prints keys page by page, as lines or JSON. Integers are in decimal.
    func print(
        _ type: KeyType = .lexical, json: Bool,
        _ page: (KeyRange, [UInt8]?, Int) async throws(CommandFailure) -> (
            keys: [[UInt8]], more: Bool
        )
    ) async throws(CommandFailure) {
        let lines = NameLines(null: null)
        let range = try range(of: type)
        var array = JSONArray()
        var last = try type.key(after)
        var left = limit
        while left > 0 {
            let (keys, hasMore) = try await page(range, last, min(1000, left))
            let names = keys.map(type.name)
            if json {
                try array.write(names.map { KeyValueCommand.Pair(key: $0, value: nil) })
            } else {
                try Terminal.write(names.flatMap { lines.line($0) })
            }
            left -= keys.count
            guard hasMore, let next = keys.last else { break }
            last = next
        }
        if json { try array.end() }
    }
}

extension KeyType {
    /// The key that an argument names.
    func key(_ argument: ByteArgument?) throws(CommandFailure) -> [UInt8]? {
        guard let argument, self == .integer else { return argument?.bytes }
        guard let text = String(validating: argument.bytes, as: UTF8.self),
            let value = UInt64(text)
        else {
            throw CommandFailure(.usage, "key \(argument.text)", "these keys are integers")
        }
        return IntegerKey.bytes(value)
    }

    /// How a key is shown.
    fileprivate func name(_ key: [UInt8]) -> [UInt8] {
        guard self == .integer, let value = IntegerKey.value(key) else { return key }
        return Array("\(value)".utf8)
    }
}

/// A type of keys as an argument.
struct KeyTypeArgument: ExpressibleByArgument, Hashable, Sendable, CustomStringConvertible {
    var type: KeyType

    init(_ type: KeyType) { self.type = type }

    init?(argument: String) {
        guard let type = KeyType(rawValue: argument) else { return nil }
        self.type = type
    }

    static var allValueStrings: [String] { KeyType.allCases.map(\.rawValue) }

    var description: String { type.rawValue }
}
