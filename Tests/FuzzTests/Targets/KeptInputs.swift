import Glibc

/// Inputs that a fuzzer made because they reach code that others do not: `Fuzz/corpus` has a file
/// for each target, with an input in each line, in hexadecimal digits.
enum KeptInputs {
    static func read(_ path: String) -> [[UInt8]] {
        guard let file = fopen(path, "r") else { return [] }
        defer { fclose(file) }
        var text: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while case let count = fread(&buffer, 1, buffer.count, file), count > 0 {
            text += buffer[0..<count]
        }
        return text.split(separator: UInt8(ascii: "\n")).map(bytes)
    }

    private static func bytes(_ line: ArraySlice<UInt8>) -> [UInt8] {
        let digits = line.map { UInt8(hexadecimal: $0) }
        precondition(digits.count.isMultiple(of: 2), "an input of half a byte")
        return stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
    }
}

extension UInt8 {
    fileprivate init(hexadecimal digit: UInt8) {
        switch digit {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): self = digit - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): self = digit - UInt8(ascii: "a") + 10
        default: preconditionFailure("\(digit) is no hexadecimal digit")
        }
    }
}
