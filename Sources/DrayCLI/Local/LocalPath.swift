/// A path of the machine's own file system, as bytes.
struct LocalPath: Hashable, Sendable {
    var bytes: [UInt8]

    init(_ bytes: [UInt8]) {
        self.bytes = bytes
    }

    init(_ text: String) {
        bytes = Array(text.utf8)
    }

    /// The path of `name` in this directory.
    func appending(_ name: [UInt8]) -> LocalPath {
        bytes.last == UInt8(ascii: "/")
            ? LocalPath(bytes + name) : LocalPath(bytes + [UInt8(ascii: "/")] + name)
    }

    /// The last step; empty for the root.
    var name: [UInt8] {
        Array(bytes.split(separator: UInt8(ascii: "/")).last ?? [])
    }

    /// The path for a message.
    var text: String { EscapedName.text(bytes) }

    /// Calls `body` with the path as the kernel wants it.
    func withCString<Value>(_ body: (UnsafePointer<CChar>) -> Value) -> Value {
        var terminated = bytes.map { CChar(bitPattern: $0) }
        terminated.append(0)
        return unsafe terminated.withUnsafeBufferPointer { buffer in
            guard let base = buffer.baseAddress else {
                preconditionFailure("an array with an element has an address")
            }
            return unsafe body(base)
        }
    }
}

extension LocalPath {
    /// The same path from the root on, whatever the working directory will be.
    func absolute() throws(CommandFailure) -> LocalPath {
        if bytes.first == UInt8(ascii: "/") { return self }
        do throws(Errno) {
            return LocalPath(try LocalFiles.target(of: LocalPath("/proc/self/cwd")))
                .appending(bytes)
        } catch {
            throw CommandFailure("working directory", error.text)
        }
    }
}
