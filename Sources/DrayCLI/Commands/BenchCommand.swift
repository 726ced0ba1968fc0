internal import ArgumentParser
internal import Dray
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime

struct BenchCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measure storage: of a cluster (the default), or of one target alone.",
        subcommands: [ObjectBenchCommand.self, VOSBenchCommand.self],
        defaultSubcommand: ObjectBenchCommand.self)
}

struct ObjectBenchCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "objects", abstract: "Durable writes and reads of objects of a cluster.",
        discussion: """
            Writes and reads values of one size in objects of the given class, so many at a time, \
            each under a key of its own. Every write is on stable storage when it counts. What is \
            read is compared with what was written, byte for byte. The objects are removed \
            afterwards.
            """)

    @Argument(help: "POOL/CONTAINER") var container: ContainerPath
    @Option(
        name: .customLong("class"),
        help: "Object class: S1, S2, …, SX, or RP_2G1, …, RP_6GX; the container's if not given.",
        completion: .list(ClassArgument.names))
    var objectClass: ClassArgument?
    @Option(name: .long, help: "Bytes of each value: a list with commas, measured in turn.")
    var size = [CommaList([Size(bytes: 4096)])]
    @Option(
        name: .long,
        help: "Objects that the values are spread over; each has a leader of its own.")
    var objects = 1
    @Option(name: .long, help: "Objects that each write changes, in one transaction.")
    var perTransaction = 1
    @Option(name: .long, help: "Operations in flight: a list with commas, measured in turn.")
    var depth = [CommaList([1, 16, 64])]
    @Option(name: .long, help: "Reads among the operations, in percent.") var read = 0
    @Option(name: .long, help: "How long each measurement takes.")
    var time = HumanDuration(.seconds(5))
    @Option(name: .long, help: "So many operations in each measurement, whatever time they take.")
    var count: UInt64?
    @Option(
        name: .long, help: "Wait before each operation: shows what the first after a rest costs.")
    var pause = HumanDuration(.zero)
    @Option(name: .long, help: "Values that are written and read; at most 1 GiB together.")
    var values = 4096
    @Flag(inversion: .prefixedNo, help: "Compare what is read with what was written.")
    var verify = true
    @Option(name: .long, help: "What keys and contents are made from.") var seed: UInt64 = 1
    @OptionGroup var cluster: ClusterOptions
    @OptionGroup var output: OutputOptions

    static let sizeMax: UInt64 = 1 << 30
    static let depthMax = 4096

    func validate() throws {
        let sizes = size.flatMap(\.elements)
        guard (0...100).contains(read) else { throw ValidationError("--read is 0 to 100.") }
        guard (1...4096).contains(objects) else {
            throw ValidationError("--objects is 1 to 4096.")
        }
        guard (1...64).contains(perTransaction) else {
            throw ValidationError("--per-transaction is 1 to 64.")
        }
        guard
            perTransaction == 1
                || sizes.allSatisfy({ $0.bytes * UInt64(perTransaction) <= 1 << 20 })
        else {
            throw ValidationError(
                "A transaction writes at most 1MiB: --per-transaction times --size.")
        }
        guard values > 0 else { throw ValidationError("--values must be at least 1.") }
        guard sizes.allSatisfy({ (1...64 << 20).contains($0.bytes) }) else {
            throw ValidationError("--size is 1 byte to 64MiB.")
        }
        guard
            depth.flatMap(\.elements).allSatisfy({
                (1...ObjectBenchCommand.depthMax).contains($0)
            })
        else {
            throw ValidationError("--depth is 1 to \(ObjectBenchCommand.depthMax).")
        }
    }

    func run() async throws {
        let results = try await cluster.withCluster {
            (cluster, _) async throws(CommandFailure) -> [BenchResult] in
            let container = try await cluster.container(container, .readWrite)
            var results: [BenchResult] = []
            for size in size.flatMap(\.elements) {
                for depth in depth.flatMap(\.elements) {
                    let plan = BenchPlan(
                        objectClass: objectClass?.objectClass ?? container.objectClass,
                        objects: objects, perTransaction: perTransaction, size: Int(size.bytes),
                        depth: depth, readPercent: read, duration: time.duration, count: count,
                        values: max(
                            depth, min(values, Int(ObjectBenchCommand.sizeMax / size.bytes))),
                        verify: verify, seed: seed, pause: pause.duration)
                    let result = try await cluster.run { () async throws(CommandFailure) in
                        try await Bench(plan, container, cluster.xstream).run()
                    }
                    results.append(result)
                }
            }
            return results
        }
        try output.print(results, text: BenchResult.table(results))
    }
}

/// One measurement.
struct BenchPlan: Sendable {
    var objectClass: ObjectClass
    /// The values are spread over them.
    var objects: Int
    /// Objects that each write changes.
    var perTransaction: Int
    var size: Int
    var depth: Int
    var readPercent: Int
    var duration: Duration
    var count: UInt64?
    var values: Int
    var verify: Bool
    var seed: UInt64
    /// Before each operation.
    var pause: Duration
}

/// What one measurement found. Times in seconds.
struct BenchResult: Codable, Hashable, Sendable {
    var objectClass: String
    var size: Int
    var depth: Int
    var readPercent: Int
    var seconds: Double
    var writes: Side
    var reads: Side
    var verified: UInt64

    struct Side: Codable, Hashable, Sendable {
        var operations: UInt64
        var perSecond: Double
        var bytesPerSecond: Double
        var mean: Double
        var median: Double
        var percentile99: Double
        var percentile999: Double
        var maximum: Double

        init(_ histogram: LatencyHistogram, size: Int, seconds: Double) {
            operations = histogram.count
            perSecond = seconds > 0 ? Double(histogram.count) / seconds : 0
            bytesPerSecond = perSecond * Double(size)
            mean = Double(histogram.mean) / 1e9
            median = Double(histogram.percentile(0.5)) / 1e9
            percentile99 = Double(histogram.percentile(0.99)) / 1e9
            percentile999 = Double(histogram.percentile(0.999)) / 1e9
            maximum = Double(histogram.maximum) / 1e9
        }
    }

    static func table(_ results: [BenchResult]) -> String {
        var table = Table([
            ("CLASS", .left), ("SIZE", .right), ("DEPTH", .right), ("WHAT", .left),
            ("OPS/S", .right), ("BYTES/S", .right), ("MEAN", .right), ("P50", .right),
            ("P99", .right), ("P99.9", .right), ("MAX", .right),
        ])
        func time(_ seconds: Double) -> String {
            HumanDuration(.nanoseconds(Int64(seconds * 1e9))).description
        }
        for result in results {
            for (what, side) in [("write", result.writes), ("read", result.reads)]
            where side.operations > 0 {
                table.add([
                    result.objectClass, "\(Size(bytes: UInt64(result.size)))", "\(result.depth)",
                    what, Decimal.text(side.perSecond, digits: 0),
                    "\(Size(bytes: UInt64(side.bytesPerSecond)))/s", time(side.mean),
                    time(side.median), time(side.percentile99), time(side.percentile999),
                    time(side.maximum),
                ])
            }
        }
        return table.text
    }
}
