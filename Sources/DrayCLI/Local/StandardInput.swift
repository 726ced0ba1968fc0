internal import Glibc

/// Standard input, as bytes.
enum StandardInput {
    /// Everything up to its end. Fails when that is more than `max` bytes.
    static func readAll(max: Int) throws(CommandFailure) -> [UInt8] {
        var bytes: [UInt8] = []
        while let part = try next() {
            bytes += part
            guard bytes.count <= max else {
                throw CommandFailure(
                    .usage, "standard input", "has more than \(max) bytes",
                    advice: "store it with 'dray fs put'")
            }
        }
        return bytes
    }

    /// Waits until whoever holds the other end closes it.
    static func waitForEnd() throws(CommandFailure) {
        while try next() != nil {}
    }

    private static func next() throws(CommandFailure) -> [UInt8]? {
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = unsafe buffer.withUnsafeMutableBytes { bytes in
                unsafe read(0, bytes.baseAddress, bytes.count)
            }
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else {
                throw CommandFailure("standard input", SystemError.text(errno))
            }
            return count == 0 ? nil : Array(buffer.prefix(count))
        }
    }
}
