internal import Glibc

/// Standard output and standard error, as bytes.
enum Terminal {
    /// Whether a person looks at `descriptor`.
    static func isTerminal(_ descriptor: Int32) -> Bool { isatty(descriptor) == 1 }

    /// Writes all of `bytes` to standard output.
    static func write(_ bytes: [UInt8]) throws(CommandFailure) {
        try write(bytes, to: 1)
    }

    /// Writes text and an end of line to standard output.
    static func print(_ text: String) throws(CommandFailure) {
        try write(Array((text + "\n").utf8), to: 1)
    }

    /// Writes a line to standard error. What goes wrong with that has nowhere to be told.
    static func note(_ line: String) {
        let bytes = Array((line + "\n").utf8)
        _ = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(2, $0.baseAddress, $0.count) }
    }

    static func write(_ bytes: [UInt8], to descriptor: Int32) throws(CommandFailure) {
        var done = 0
        while done < bytes.count {
            let count = unsafe bytes.withUnsafeBytes { buffer in
                unsafe Glibc.write(
                    descriptor, buffer.baseAddress?.advanced(by: done), buffer.count - done)
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else {
                throw CommandFailure("output", "cannot be written: \(SystemError.text(errno))")
            }
            done += count
        }
    }

    /// Columns of the terminal behind `descriptor`; 80 when it does not say.
    static func width(_ descriptor: Int32) -> Int {
        var size = winsize()
        let result = unsafe ioctl(descriptor, UInt(TIOCGWINSZ), &size)
        return result == 0 && size.ws_col > 0 ? Int(size.ws_col) : 80
    }
}

/// Words for an error number of the kernel.
enum SystemError {
    static func text(_ code: Int32) -> String {
        // SAFETY: `strerror` gives a string that lives until its next call on this thread.
        guard let text = unsafe strerror(code) else { return "error \(code)" }
        return unsafe String(cString: text)
    }
}
