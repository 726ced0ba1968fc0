/// Names, one a line: escaped for people, as they are for programs.
struct NameLines {
    private let null: Bool
    private let escapes: Bool

    /// - Parameter null: whether names end with a zero byte, which no name contains.
    init(null: Bool) {
        self.null = null
        escapes = !null && Terminal.isTerminal(1)
    }

    /// The bytes to print for one name, its end included.
    func line(_ name: [UInt8], prefix: String = "") -> [UInt8] {
        let shown = escapes ? Array(EscapedName.text(name).utf8) : name
        return Array(prefix.utf8) + shown + [null ? 0 : UInt8(ascii: "\n")]
    }
}
