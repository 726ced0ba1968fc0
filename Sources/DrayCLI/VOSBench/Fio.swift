internal import DrayRuntime
internal import Glibc

/// `fio`, which tells what the device gives without a store: one job of random transfers with
/// io_uring and O_DIRECT.
struct Fio {
    /// Where the program stands.
    let program: LocalPath
    /// The file or device, and the part of it to use.
    let file: LocalPath
    let range: Range<UInt64>

    /// What one job found. Times in seconds.
    struct Figures: Codable, Hashable, Sendable {
        var perSecond: Double
        var bytesPerSecond: Double
        var median: Double
        var percentile99: Double
    }

    /// The program in one of the directories of `PATH`; nil where there is none.
    static func find() -> LocalPath? {
        let directories = Environment["PATH"] ?? Array("/usr/bin:/bin".utf8)
        for directory in directories.split(separator: UInt8(ascii: ":")) {
            let path = LocalPath(Array(directory)).appending(Array("fio".utf8))
            if unsafe path.withCString({ unsafe access($0, X_OK) }) == 0 { return path }
        }
        return nil
    }

    /// Runs one job. `xstream` sleeps meanwhile.
    func run(
        writing: Bool, size: Int, depth: Int, time: Duration, seed: UInt64, on xstream: XStream
    ) async throws(CommandFailure) -> Figures {
        let output = LocalPath(file.bytes + Array(".\(getpid()).json".utf8))
        defer { try? LocalFiles.remove(output) }
        let milliseconds = max(1, time.nanosecondsClamped / 1_000_000)
        let options =
            [
                "--name=limit", "--ioengine=io_uring", "--direct=1", "--output-format=json",
                "--rw=\(writing ? "randwrite" : "randread")", "--bs=\(size)", "--iodepth=\(depth)",
                "--offset=\(range.lowerBound)", "--size=\(range.count)", "--time_based",
                "--runtime=\(milliseconds)ms", "--norandommap", "--randseed=\(seed >> 1)",
                "--allow_file_create=0",
            ].map { Array($0.utf8) } + [
                Array("--output=".utf8) + output.bytes,
                Array("--filename=".utf8) + Fio.escape(file.bytes),
            ]
        let pid: Int32
        do throws(Errno) {
            pid = try ChildProcess.spawn(
                program, options, input: .null, output: .null, error: .null, detached: false)
        } catch {
            throw CommandFailure(program.text, error.text)
        }
        var status = ChildProcess.reap(pid)
        while status == nil {
            await xstream.sleep(for: .milliseconds(5))
            status = ChildProcess.reap(pid)
        }
        let bytes = (try? LocalFiles.read(output)) ?? []
        guard status == 0, let figures = try Fio.figures(bytes, writing: writing) else {
            let said = String(decoding: bytes.prefix(300), as: UTF8.self)
            throw CommandFailure(
                "fio", "failed with status \((status ?? 0) >> 8 & 0xff): \(said)",
                advice: "say --no-fio to do without")
        }
        return figures
    }

    /// A colon separates file names.
    private static func escape(_ path: [UInt8]) -> [UInt8] {
        path.flatMap { $0 == UInt8(ascii: ":") ? [UInt8(ascii: "\\"), $0] : [$0] }
    }

    // MARK: - What it prints

    private struct Output: Decodable {
        struct Job: Decodable {
            var read: Side
            var write: Side
        }
        struct Side: Decodable {
            var iops: Double
            var bw_bytes: Double
            var clat_ns: Latency
        }
        struct Latency: Decodable {
            var percentile: [String: Double]?
        }
        var jobs: [Job]
    }

    /// The figures in `bytes`: JSON, after what else it had to say. Nil: there are none.
    static func figures(_ bytes: [UInt8], writing: Bool) throws(CommandFailure) -> Figures? {
        guard let start = bytes.firstIndex(of: UInt8(ascii: "{")) else { return nil }
        let output = try JSON.decode(Output.self, from: Array(bytes[start...]), file: "fio")
        guard let job = output.jobs.first else { return nil }
        let side = writing ? job.write : job.read
        let percentiles = side.clat_ns.percentile ?? [:]
        return Figures(
            perSecond: side.iops, bytesPerSecond: side.bw_bytes,
            median: (percentiles["50.000000"] ?? 0) / 1e9,
            percentile99: (percentiles["99.000000"] ?? 0) / 1e9)
    }
}
