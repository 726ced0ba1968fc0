/// Reads values as people write them. Whole numbers only; nil for anything else.
enum ConfigurationText {
    /// Digits alone.
    static func number(_ text: some StringProtocol) -> Int? {
        guard (1...18).contains(text.utf8.count),
            text.utf8.allSatisfy({ (0x30...0x39).contains($0) })
        else { return nil }
        return Int(text)
    }

    /// `4096`, `64k`, `20KiB`, `1MiB`: powers of 1024.
    static func size(_ text: String) -> Int? {
        scaled(
            text,
            [
                "": 1, "b": 1, "k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20,
                "g": 1 << 30, "gib": 1 << 30,
            ])
    }

    /// `500ms`, `60s`, `2m`, `1h`; a bare number is seconds.
    static func duration(_ text: String) -> Duration? {
        let microseconds = scaled(
            text,
            [
                "us": 1, "ms": 1000, "": 1_000_000, "s": 1_000_000, "m": 60_000_000,
                "h": 3_600_000_000,
            ])
        return microseconds.map { .microseconds($0) }
    }

    private static func scaled(_ text: String, _ units: [String: Int]) -> Int? {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        guard let factor = units[text.dropFirst(digits.count).lowercased()],
            let value = number(digits)
        else { return nil }
        let (product, overflow) = value.multipliedReportingOverflow(by: factor)
        return overflow ? nil : product
    }
}
