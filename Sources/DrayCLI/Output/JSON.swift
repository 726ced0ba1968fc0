internal import Foundation

/// What `--json` prints: sorted keys, so that two runs can be compared as text.
enum JSON {
    /// `value` as indented JSON text.
    static func text(_ value: some Encodable) throws(CommandFailure) -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        do {
            return String(decoding: try encoder.encode(value), as: UTF8.self)
        } catch {
            throw CommandFailure("output", "cannot be written as JSON: \(error)")
        }
    }

    /// Reads a value from the bytes of `file`.
    static func decode<Value: Decodable>(
        _ type: Value.Type, from bytes: [UInt8], file: String
    ) throws(CommandFailure) -> Value {
        do {
            return try JSONDecoder().decode(type, from: Data(bytes))
        } catch {
            throw CommandFailure(
                file, "not what Dray wrote there: \(error)",
                advice: "restore the file or choose another directory")
        }
    }
}

/// A name in JSON: text where it is UTF-8, else its bytes in base 64 under `NAME_base64`.
struct JSONName {
    var bytes: [UInt8]

    /// The name as text; nil when it is no UTF-8.
    var text: String? { String(validating: bytes, as: UTF8.self) }

    /// The bytes in base 64; nil when the name is text.
    var base64: String? { text == nil ? Data(bytes).base64EncodedString() : nil }
}

/// An array that is printed part by part, so that its length costs no memory.
struct JSONArray {
    private var hasElements = false

    /// Prints the next elements.
    mutating func write(_ values: [some Encodable]) throws(CommandFailure) {
        guard !values.isEmpty else { return }
        // The elements are what stands in the text of a whole array between its brackets.
        let elements = try JSON.text(values).dropFirst().dropLast(2)
        try Terminal.write(Array(((hasElements ? "," : "[") + elements).utf8))
        hasElements = true
    }

    /// Prints the end. Call it once, after the last elements.
    func end() throws(CommandFailure) {
        try Terminal.print(hasElements ? "\n]" : "[]")
    }
}
