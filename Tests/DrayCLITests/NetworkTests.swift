import DrayRuntime
import Testing

@testable import DrayCLI

/// Engines that listen on several networks at once: with several providers, or at several
/// addresses.
@Suite(.serialized) struct NetworkTests {
    /// Runs `dray` with variables of the environment.
    private func run(
        _ program: Program, _ arguments: [String], with variables: [String] = []
    ) throws -> String {
        let result = try program.run(arguments.map { Array($0.utf8) }, through: variables)
        #expect(result.status == 0, "\(arguments): \(result.error)")
        return result.text
    }

    /// The values of a counter of targets (and not of system contexts) on one network, by rank.
    private func values(_ metrics: String, _ name: String, provider: String, network: Int)
        -> [Int]
    {
        let label = network == 0 ? "" : ",network=\"\(network)\""
        return (0..<3).map { rank in
            let begin = "\(name){rank=\"\(rank)\",tag=\"1\",provider=\"\(provider)\"\(label)} "
            let line = metrics.split(separator: "\n").first { $0.hasPrefix(begin) }
            return line.flatMap { Int($0.dropFirst(begin.count)) } ?? 0
        }
    }

    /// Stores a value in three replicas by way of `there`, reads it by way of `here`, and returns
    /// its size: too large to travel inline.
    private func store(
        _ program: Program, _ there: [String], reading here: [String]
    ) throws -> Int {
        _ = try run(program, ["pool", "create", "tank", "--size", "128MiB"] + there)
        _ = try run(
            program, ["container", "create", "tank/data", "--class", "RP_3G1"] + there)
        let value = String(repeating: "0123456789abcdef", count: 6000)
        _ = try run(program, ["kv", "put", "tank/data", "key", value] + there)
        #expect(try run(program, ["kv", "get", "tank/data", "key"] + here).hasPrefix(value))
        return value.utf8.count
    }

    struct Case: CustomTestStringConvertible {
        /// Options of `cluster start`.
        var options: [String]
        /// The provider of the second network.
        var provider: String
        var testDescription: String { options.joined(separator: " ") }
    }

    static let cases = [
        Case(
            options: ["--provider", "ofi+tcp", "--provider", "ofi+tcp;ofi_rxm"],
            provider: "ofi+tcp;ofi_rxm"),
        Case(options: ["--provider", "ofi+tcp", "--provider", "ofi+shm"], provider: "ofi+shm"),
        Case(options: ["--host", "127.0.0.1", "--host", "127.0.0.2"], provider: "ofi+tcp"),
    ]

    /// A client of the second network writes: all replicas pull its data over that network, while
    /// the engines call each other over the first one. A client of the first network reads it.
    @Test(arguments: cases) func clientsUseAnyNetwork(test: Case) throws {
        let program = try Program()
        defer { try? program.end() }
        let cluster = ["--cluster", program.cluster.text]
        _ = try run(
            program,
            ["cluster", "start", "--engines", "3", "--targets", "1", "--device-size", "256MiB"]
                + test.options + cluster)
        let file = try ClusterFile.read(program.cluster)
        let second = try file.engines.map { try #require($0.secondary?.first) }
        #expect(second.allSatisfy { $0.hasPrefix(test.provider + "://") })
        let there = ["--cluster", second.joined(separator: ",")]
        let size = try store(program, there, reading: cluster)
        let metrics = try run(program, ["metrics"] + cluster)
        let pulls = values(
            metrics, "dray_cart_bulk_bytes_total", provider: test.provider, network: 1)
        #expect(pulls.allSatisfy { $0 >= size }, "\(pulls)")
        let requests = "dray_cart_requests_received_total"
        let direct = values(metrics, requests, provider: test.provider, network: 1)
        #expect(direct.filter { $0 > 0 }.count == 1, "only the leader: \(direct)")
        let first = values(metrics, requests, provider: "ofi+tcp", network: 0)
        #expect(first.filter { $0 > 0 }.count >= 2, "the other members: \(first)")
    }

    /// Over shared memory, which takes some descriptors for each client: engines take as many as
    /// they may have.
    @Test func sharedMemory() throws {
        let program = try Program()
        defer { try? program.end() }
        let cluster = ["--cluster", program.cluster.text]
        _ = try run(
            program,
            [
                "cluster", "start", "--engines", "3", "--targets", "1", "--device-size", "256MiB",
                "--provider", "shm",
            ] + cluster, with: ["prlimit", "--nofile=300:"])
        let file = try ClusterFile.read(program.cluster)
        #expect(file.engines.allSatisfy { $0.address.hasPrefix("shm://") })
        let size = try store(program, cluster, reading: cluster)
        let metrics = try run(program, ["metrics"] + cluster)
        let pulls = values(metrics, "dray_cart_bulk_bytes_total", provider: "shm", network: 0)
        #expect(pulls.allSatisfy { $0 >= size }, "\(pulls)")
        let status = try run(program, ["cluster", "status", "--json"] + cluster)
        let lines = status.split(separator: "\n")
        let process = try #require(lines.first { $0.contains("\"pid\"") }).filter { $0.isNumber }
        let limits = try LocalFiles.read(LocalPath("/proc/\(process)/limits"))
        let words = String(decoding: limits, as: UTF8.self)
        let line = try #require(
            words.split(separator: "\n").first { $0.hasPrefix("Max open files") })
        let numbers = line.split(separator: " ").compactMap { Int($0) }
        #expect(numbers.count == 2 && numbers[0] == numbers[1], "\(line)")
    }

    /// Of a cluster with several providers, a client takes the one that it is asked to take, and
    /// TCP when nobody asks, even where shared memory comes first.
    @Test func clientsChoose() throws {
        let program = try Program()
        defer { try? program.end() }
        let cluster = ["--cluster", program.cluster.text]
        _ = try run(
            program,
            [
                "cluster", "start", "--targets", "1", "--device-size", "256MiB", "--provider",
                "ofi+shm", "--provider", "ofi+tcp",
            ] + cluster)
        func requests(_ provider: String) throws -> Int {
            let name = "dray_cart_sessions{rank=\"0\",tag=\"0\",provider=\"\(provider)\""
            // Asked for by a client of TCP, which has a session itself.
            let text = try run(program, ["metrics"] + cluster, with: ["DRAY_PROVIDER=ofi+tcp"])
            let line = try #require(text.split(separator: "\n").first { $0.hasPrefix(name) })
            return try #require(line.split(separator: " ").last.flatMap { Int($0) })
        }
        let before = try (requests("ofi+shm"), requests("ofi+tcp"))
        _ = try run(program, ["pool", "list"] + cluster)
        #expect(try requests("ofi+shm") == before.0)
        _ = try run(program, ["pool", "list"] + cluster, with: ["DRAY_PROVIDER=ofi+shm,ofi+tcp"])
        #expect(try requests("ofi+shm") > before.0)
    }

    /// `--provider` may be repeated, and goes over the environment.
    @Test func providersOfAnEngine() throws {
        let program = try Program()
        defer { try? program.end() }
        let text = try run(
            program,
            [
                "engine", "start", "--provider", "ofi+tcp", "--provider", "ofi+shm",
                "--print-config",
            ], with: ["DRAY_PROVIDER=ofi+verbs"])
        #expect(text.contains("provider: \"ofi+tcp,ofi+shm\"  # flag"))
    }
}
