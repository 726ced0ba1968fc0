internal import ArgumentParser
internal import BIO
internal import DrayEngine
internal import DrayRuntime
internal import Glibc

struct VOSBenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "vos", abstract: "Measure the storage of one target, without a network.",
        discussion: """
            Formats a store in a file, or on a block device, and works on it as a target of an \
            engine does: with io_uring, on a thread of its own. Beside each measurement 'fio' does \
            the same transfers, with the same size, depth and device, to a file of its own. What \
            this command has not made itself is never overwritten; a block device must be empty.

            The parts (--only): 'open' fills a store with --keys, opens it in a new process, and \
            reads any of them there; 'recover' kills a process when its log is as full as it \
            gets between two checkpoints, and opens the store; 'update' and 'fetch' use --cache \
            times ten, in bytes of values, keys and what belongs to them, and then as much as \
            the cache holds; 'enumerate' lists keys that the cache holds; 'background' compares \
            updates while aggregation and checkpoints run, and while they do not; 'overwrite' \
            tells the bytes written for each byte updated, and the blocks in use for each live \
            byte, of values and keys and of values alone.

            What is read is compared with what was written. Updates are on stable storage.
            """)

    /// Whether work in the background runs.
    enum Switch: String, ExpressibleByArgument, CaseIterable, Sendable {
        case on, off
    }

    @Argument(
        help: "File or block device; by default a file in this directory, removed afterwards.",
        completion: .file())
    var path: ByteArgument?
    @Option(name: .long, help: "Size of a file that is made, and of that for fio.")
    var deviceSize = Size(bytes: 4 << 30)
    @Option(name: .long, help: "Size of the log (default: as an engine makes it).")
    var logSize: Size?
    @Option(name: .long, help: "What to measure: a list with commas (default: everything).")
    var only: [CommaList<VOSBenchPlan.Part>] = []
    @Option(name: .long, help: "Bytes of each value: a list with commas, measured in turn.")
    var size = [CommaList([64, 4096, 1 << 20].map { Size(bytes: $0) })]
    @Option(name: .long, help: "Operations in flight: a list with commas, measured in turn.")
    var depth = [CommaList([1, 16, 64])]
    @Option(name: .long, help: "Memory of the store for values.")
    var cache = Size(bytes: 16 << 20)
    @Option(name: .long, help: "Memory of the store for its index, of whatever size that is.")
    var indexMemory = Size(bytes: 64 << 20)
    @Option(name: .long, help: "How long each measurement takes.")
    var time = HumanDuration(.seconds(3))
    @Option(name: .long, help: "Rounds of each measurement, in turn with fio; medians are shown.")
    var rounds = 1
    @Option(name: .long, help: "Keys of the store that is opened.")
    var keys: UInt64 = 1_000_000
    @Option(name: .long, help: "Bytes of each distribution key, 8 to 1024.")
    var keySize = 32
    @Option(name: .long, help: "Bytes that are overwritten, keys included.")
    var workingSet = Size(bytes: 256 << 20)
    @Option(name: .long, help: "Bytes of values that overwrite them (default: 4 × --working-set).")
    var overwrite: Size?
    @Option(
        name: .long, help: "How long overwriting, or filling the log before a kill, takes at most.")
    var overwriteTime = HumanDuration(.seconds(60))
    @Option(name: .long, help: "How long versions are kept that newer ones hide.")
    var retention = HumanDuration(.seconds(1))
    @Option(name: .long, help: "Work in the background: a list of on and off, measured in turn.")
    var background = [CommaList([Switch.on, .off])]
    @Flag(inversion: .prefixedNo, help: "Compare with fio.") var fio = true
    @Option(name: .long, help: "What keys and contents are made from.") var seed: UInt64 = 1
    @Option(name: .long, help: "What to log: LEVEL, then FACILITY=LEVEL for exceptions.")
    var log: String = "error"
    /// Opens what is there, reads it, prints what that took, and ends.
    @Flag(name: .long, help: .hidden) var openOnly = false
    /// Opens what is there, overwrites it, prints what the log holds, and is killed.
    @Flag(name: .long, help: .hidden) var loadOnly = false
    @OptionGroup var output: OutputOptions

    static let sizeMax: UInt64 = 1 << 20
    static let depthMax = 1024

    func validate() throws {
        let sizes = size.flatMap(\.elements)
        guard sizes.allSatisfy({ (1...VOSBenchCommand.sizeMax).contains($0.bytes) }) else {
            throw ValidationError("--size is 1 byte to 1MiB.")
        }
        guard depth.flatMap(\.elements).allSatisfy({ (1...VOSBenchCommand.depthMax).contains($0) })
        else { throw ValidationError("--depth is 1 to \(VOSBenchCommand.depthMax).") }
        guard (1...1000).contains(rounds) else { throw ValidationError("--rounds is 1 to 1000.") }
        guard (8...1024).contains(keySize) else {
            throw ValidationError("--key-size is 8 to 1024.")
        }
        guard (1...1_000_000_000).contains(keys) else {
            throw ValidationError("--keys is 1 to 1000000000.")
        }
        guard deviceSize.bytes >= BenchFile.sizeMin, deviceSize.bytes <= 1 << 50 else {
            throw ValidationError("--device-size is 64MiB to 1PiB.")
        }
        if let logSize, logSize.bytes < BlockStore.logSizeMin || logSize.bytes % 4096 != 0 {
            throw ValidationError("--log-size is at least 64KiB, in whole blocks of 4KiB.")
        }
        guard (256 << 10...1 << 40).contains(indexMemory.bytes) else {
            throw ValidationError("--index-memory is 256KiB to 1TiB.")
        }
        guard cache.bytes <= 1 << 40, workingSet.bytes <= 1 << 50 else {
            throw ValidationError("--cache is at most 1TiB, --working-set 1PiB.")
        }
        guard time.duration > .zero, overwriteTime.duration > .zero else {
            throw ValidationError("--time and --overwrite-time are more than nothing.")
        }
    }

    func run() throws {
        AllocatorSettings.apply()
        let logs = LogFacilities()
        do throws(LogMaskError) {
            try logs.set(mask: log)
        } catch {
            throw CommandFailure(.usage, "--log", "\(error)")
        }
        var world = World.real(log: logs)
        world.devices = RealDeviceStore(log: logs)
        if openOnly {
            return try Terminal.print(
                try JSON.text(
                    try onStore(world) { bench async throws(CommandFailure) in
                        try await bench.openOnly()
                    }))
        }
        if loadOnly {
            return try onStore(world) { bench async throws(CommandFailure) in
                try await bench.loadOnly()
            }
        }
        let report = try measure(world)
        try output.print(report, text: report.text)
    }

    /// Makes the files of the benchmark, or takes them, and measures what is asked for.
    private func measure(_ world: World) throws(CommandFailure) -> VOSBenchReport {
        let path = self.path.map { LocalPath($0.bytes) } ?? LocalPath("dray-bench-\(getpid()).tmp")
        let fioPath = LocalPath(path.bytes + Array(".fio".utf8))
        let program = fio ? Fio.find() : nil
        if fio, program == nil { Terminal.note("fio is not installed: nothing to compare with") }
        let run = Interruptible(temporary: self.path == nil ? [path, fioPath] : [])
        let command = self
        return try run.run(world) { xstream async throws(CommandFailure) in
            let file = try await BenchFile.prepare(
                path, size: command.deviceSize.bytes, world: world, on: xstream)
            let plan = try command.plan(for: file)
            var fio: Fio?
            if let program, !plan.parts.isDisjoint(with: [.update, .fetch]) {
                if let range = file.fioRange {
                    fio = Fio(program: program, file: path, range: range)
                } else {
                    let other = try await BenchFile.prepare(
                        fioPath, size: file.range.upperBound, world: world, on: xstream)
                    fio = Fio(program: program, file: fioPath, range: other.range)
                }
            }
            return try await VOSBench(plan, file, fio: fio, world: world, on: xstream).run()
        }
    }

    /// Does something with the store that another process has made.
    private func onStore<Value: Sendable>(
        _ world: World,
        _ body: sending @escaping (VOSBench) async throws(CommandFailure) -> Value
    ) throws(CommandFailure) -> Value {
        guard let path else { throw CommandFailure(.usage, "the path", "is missing") }
        let command = self
        return try Interruptible(temporary: []).run(world) { xstream async throws(CommandFailure) in
            let file = try await BenchFile.prepare(
                LocalPath(path.bytes), size: command.deviceSize.bytes, world: world, on: xstream)
            return try await body(
                VOSBench(try command.plan(for: file), file, fio: nil, world: world, on: xstream))
        }
    }

    func plan(for file: BenchFile) throws(CommandFailure) -> VOSBenchPlan {
        let log = logSize?.bytes ?? DevicePartitions.logSize(of: file.range)
        guard log < UInt64(file.range.count) / 2 else {
            throw CommandFailure(.usage, "--log-size", "is more than half of the device")
        }
        return VOSBenchPlan(
            parts: Set(only.isEmpty ? VOSBenchPlan.Part.allCases : only.flatMap(\.elements)),
            sizes: size.flatMap(\.elements).map { Int($0.bytes) },
            depths: depth.flatMap(\.elements), cache: Int(cache.bytes),
            indexMemory: Int(indexMemory.bytes), logSize: log,
            time: time.duration, rounds: rounds, keys: keys, keySize: keySize,
            workingSet: workingSet.bytes,
            overwrite: overwrite?.bytes ?? 4 * workingSet.bytes,
            overwriteTime: overwriteTime.duration, retention: retention.duration,
            background: background.flatMap(\.elements).map { $0 == .on }, seed: seed)
    }
}
