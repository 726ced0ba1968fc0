internal import Glibc

/// What the kernel says of this process.
struct ProcessFigures: Equatable {
    /// Memory that is resident, and the most that was, in bytes.
    var resident: UInt64
    var residentPeak: UInt64

    /// Figures of now. Throws when `/proc` is not there.
    static func current() throws(CommandFailure) -> ProcessFigures {
        let status = try fields("/proc/self/status")
        guard let resident = status["VmRSS"], let peak = status["VmHWM"] else {
            throw CommandFailure("/proc/self/status", "does not tell resident memory")
        }
        // Both in KiB.
        return ProcessFigures(resident: resident << 10, residentPeak: peak << 10)
    }

    /// Makes the peak begin again from what is resident now. Where the kernel does not let us, it
    /// stays that of the whole process, which is never less.
    static func resetPeak() {
        guard let file = try? OpenFile(LocalPath("/proc/self/clear_refs"), O_WRONLY) else { return }
        try? Terminal.write(Array("5".utf8), to: file.descriptor)
    }

    private static func fields(_ path: String) throws(CommandFailure) -> [String: UInt64] {
        do throws(Errno) {
            return parse(String(decoding: try LocalFiles.read(LocalPath(path)), as: UTF8.self))
        } catch {
            throw CommandFailure(path, error.text, advice: "is /proc mounted?")
        }
    }

    /// Lines of `NAME: NUMBER`, with or without a unit. Others are left out.
    static func parse(_ text: String) -> [String: UInt64] {
        var fields: [String: UInt64] = [:]
        for line in text.split(separator: "\n") {
            let parts = line.split(separator: ":", maxSplits: 1)
            guard parts.count == 2,
                let number = parts[1].split(whereSeparator: { $0 == " " || $0 == "\t" }).first
                    .flatMap({ UInt64($0) })
            else { continue }
            fields[String(parts[0])] = number
        }
        return fields
    }
}
