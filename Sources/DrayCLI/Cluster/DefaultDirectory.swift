internal import Glibc

/// Where things are when nobody says so.
enum DefaultDirectory {
    /// The development cluster's directory: `$XDG_STATE_HOME/dray`, else `~/.local/state/dray`.
    static func cluster() throws(CommandFailure) -> LocalPath {
        if let state = Environment["XDG_STATE_HOME"], state.first == UInt8(ascii: "/") {
            return LocalPath(state).appending(Array("dray".utf8))
        }
        guard let home = Environment["HOME"], !home.isEmpty else {
            throw CommandFailure(
                .usage, "cluster", "neither XDG_STATE_HOME nor HOME is set",
                advice: "say --cluster DIRECTORY or set DRAY_CLUSTER")
        }
        return LocalPath(home).appending(Array(".local/state/dray".utf8))
    }
}

/// The process's environment, as bytes.
enum Environment {
    /// The value of a variable. Nil when it is not set; never empty.
    static subscript(name: String) -> [UInt8]? {
        // SAFETY: nothing in this process changes its environment.
        guard let value = unsafe getenv(name) else { return nil }
        let bytes = unsafe UnsafeBufferPointer(start: value, count: strlen(value))
            .map { UInt8(bitPattern: $0) }
        return bytes.isEmpty ? nil : bytes
    }

    /// The value as text; what is no UTF-8 is replaced.
    static func text(_ name: String) -> String? {
        Environment[name].map { String(decoding: $0, as: UTF8.self) }
    }

    /// The variables that configure Dray, for the world; what is no UTF-8 is replaced.
    static var dray: [String: String] {
        var result: [String: String] = [:]
        // SAFETY: nothing in this process changes its environment, which ends with a null pointer.
        var next = unsafe environ
        while let entry = unsafe next.pointee {
            let text = unsafe String(cString: entry)
            unsafe next += 1
            guard text.hasPrefix("DRAY_"), let equals = text.firstIndex(of: "=") else { continue }
            result[String(text[..<equals])] = String(text[equals...].dropFirst())
        }
        return result
    }
}
