internal import ArgumentParser

/// An argument that is bytes: a file's name, a key, a value.
///
/// Swift turns the process's arguments into `String`s and replaces what is no UTF-8. To keep every
/// byte, `ByteArgument.processArguments` first writes such bytes as characters of the last
/// private-use plane (U+10FF00 on, one per half byte), and this type reads them back.
/// Valid text is unchanged.
struct ByteArgument: ExpressibleByArgument, Hashable, Sendable {
    var bytes: [UInt8]

    /// The first of the 32 escape characters: 16 for the upper half of a byte, 16 for the lower.
    private static let escapeBase: UInt32 = 0x10ff00

    init(_ bytes: [UInt8]) {
        self.bytes = bytes
    }

    init(argument: String) {
        bytes = ByteArgument.bytes(of: argument)
    }

    /// The bytes as text for a message.
    var text: String { EscapedName.text(bytes) }

    var defaultValueDescription: String { text }

    /// The arguments of this process after the program's name, every byte kept.
    static func processArguments() -> [String] {
        var arguments: [String] = []
        for index in 1..<max(1, Int(CommandLine.argc)) {
            // SAFETY: the kernel gave `argc` pointers to strings that end with a zero byte and
            // live as long as the process.
            guard let pointer = unsafe CommandLine.unsafeArgv[index] else { continue }
            arguments.append(escape(unsafe bytes(ofCString: pointer)))
        }
        return arguments
    }

    /// The bytes before the terminating zero.
    private static func bytes(ofCString pointer: UnsafePointer<CChar>) -> [UInt8] {
        var bytes: [UInt8] = []
        var index = 0
        while unsafe pointer[index] != 0 {
            bytes.append(UInt8(bitPattern: unsafe pointer[index]))
            index += 1
        }
        return bytes
    }

    /// Text that `bytes(of:)` turns into exactly `bytes` again.
    static func escape(_ bytes: [UInt8]) -> String {
        if let text = String(validating: bytes, as: UTF8.self),
            !text.unicodeScalars.contains(where: { $0.value >= escapeBase })
        {
            return text
        }
        var text = String.UnicodeScalarView()
        var rest = bytes[...]
        while let first = rest.first {
            var decoder = UTF8()
            var iterator = rest.prefix(4).makeIterator()
            if case .scalarValue(let scalar) = decoder.decode(&iterator),
                scalar.value < escapeBase
            {
                text.append(scalar)
                rest = rest.dropFirst(UTF8.width(scalar))
            } else {
                text.append(contentsOf: escapes(of: first))
                rest = rest.dropFirst()
            }
        }
        return String(text)
    }

    private static func escapes(of byte: UInt8) -> [Unicode.Scalar] {
        // A byte becomes one character per half, so that no character of the plane's end, which
        // are not characters at all, is needed.
        [UInt32(byte >> 4), UInt32(byte & 15) + 16].compactMap {
            Unicode.Scalar(escapeBase + $0)
        }
    }

    /// The bytes that an argument stands for.
    static func bytes(of argument: String) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(argument.utf8.count)
        var high: UInt8?
        for scalar in argument.unicodeScalars {
            guard scalar.value >= escapeBase else {
                bytes.append(contentsOf: UTF8.encode(scalar).map { Array($0) } ?? [])
                continue
            }
            let half = scalar.value - escapeBase
            if half < 16 {
                high = UInt8(half)
            } else if half < 32, let upper = high {
                bytes.append(upper << 4 | UInt8(half - 16))
                high = nil
            }
        }
        return bytes
    }
}
