import Foundation
import Testing

@testable import DrayCLI

@Suite struct FabricCommandTests {
    @Test func lists() throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        let table = try program.run("fabric", "list", "--provider", "ofi+tcp")
        #expect(table.status == 0, "\(table.error)")
        #expect(table.text.hasPrefix("PROVIDER"))
        #expect(table.text.contains("127.0.0.1"))
        #expect(!table.text.contains("ofi+shm"))
        let json = try program.run("fabric", "list", "--all", "--json")
        let rows = try JSONDecoder().decode([FabricRow].self, from: Data(json.output))
        for provider in ["shm", "ofi+shm"] {
            #expect(rows.contains { $0.provider == provider && $0.isUsable && $0.canWait == true })
        }
        #expect(rows.contains { !$0.isUsable && $0.problem != nil })
        let two = try program.run(
            "fabric", "list", "--provider", "ofi+tcp", "--provider", "ofi+shm", "--json")
        let both = try JSONDecoder().decode([FabricRow].self, from: Data(two.output))
        #expect(Set(both.map(\.provider)) == ["ofi+tcp", "ofi+shm"])
        let none = try program.run("fabric", "list", "--provider", "ofi+nothing", "--json")
        #expect(none.status == 4)
        #expect(none.text == "[]\n" || none.text == "[\n\n]\n")
        #expect(none.error.hasPrefix("dray: ofi+nothing: "))
    }

    /// What is configured, by option over variable over default, and what uses it.
    @Test func configuration() throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        let environment = ["env", "DRAY_INTERFACE=lo", "DRAY_CREDITS=7", "DRAY_PORT=4000"]
        func run(_ arguments: String..., with more: [String] = []) throws -> Program.Result {
            try program.run(
                arguments.map { Array($0.utf8) }, through: Array(environment.dropFirst()) + more)
        }
        let json = try run("fabric", "config", "--json", "--port", "5000")
        let report = try JSONDecoder().decode(
            FabricConfigurationReport.self, from: Data(json.output))
        func value(_ name: String) -> [String] {
            report.values.filter { $0.name == name }.flatMap { [$0.value, $0.source] }
        }
        #expect(value("port") == ["5000", "option"])
        #expect(value("credits") == ["7", "environment"])
        #expect(value("timeout") == ["60s", "default"])
        #expect(report.addresses == ["ofi+tcp://127.0.0.1:5000"])
        let table = try run("fabric", "config")
        #expect(table.text.contains("DRAY_EAGER_LIMIT"))
        #expect(table.text.hasSuffix("contexts listen at: ofi+tcp://127.0.0.1:4000\n"))
        let several = try run(
            "fabric", "config", "--provider", "ofi+tcp", "--provider", "ofi+shm")
        #expect(
            several.text.hasSuffix(
                "contexts listen at: ofi+tcp://127.0.0.1:4000, ofi+shm\n"
                    + "clients take the first that engines have: ofi+tcp, ofi+shm\n"),
            "\(several.text)")
        for variable in ["DRAY_EAGER_LIMIT=1", "DRAY_INTERFACE=eth77"] {
            let bad = try run("fabric", "config", with: [variable])
            #expect(bad.status == 64)
            let name = variable.prefix { $0 != "=" }
            #expect(bad.error.hasPrefix("dray: \(name): cannot use '"), "\(bad.error)")
        }
        // The self-test takes the provider, the interface and the sizes from there.
        let test = try run(
            "self-test", "--repetitions", "5", "--in-flight", "1", "--size", "3000", "--json",
            with: ["DRAY_PROVIDER=ofi+tcp;ofi_rxm", "DRAY_EAGER_LIMIT=2KiB"])
        #expect(test.status == 0, "\(test.error)")
        #expect(test.text.contains("\"provider\" : \"ofi+tcp;ofi_rxm\""))
        #expect(test.text.contains("\"from\" : \"ofi+tcp;ofi_rxm://127.0.0.1:"))
        let wrong = try run("self-test", with: ["DRAY_TIMEOUT=never"])
        #expect(wrong.status == 64 && wrong.error.hasPrefix("dray: DRAY_TIMEOUT: "))
    }

    /// Engines and clients are made with what the environment says.
    @Test func enginesAndClientsUseIt() throws {
        let program = try Program()
        defer { try? program.end() }
        func dray(_ arguments: String..., with: [String]) throws -> Program.Result {
            try program.run(
                arguments.map { Array($0.utf8) } + [
                    Array("--cluster".utf8), program.cluster.bytes,
                ],
                through: with)
        }
        let settings = ["DRAY_PROVIDER=ofi+tcp;ofi_rxm", "DRAY_EAGER_LIMIT=2KiB"]
        let started = try dray(
            "cluster", "start", "--targets", "1", "--device-size", "256MiB", "--json",
            with: settings)
        try #require(started.status == 0, "\(started.error)")
        #expect(started.text.contains("ofi+tcp;ofi_rxm://127.0.0.1:"))
        // A client whose environment names another provider takes the engines'.
        let client = ["DRAY_PROVIDER=ofi+shm", "DRAY_INTERFACE="]
        #expect(try dray("pool", "create", "tank", "--size", "128MiB", with: client).status == 0)
        let wrong = try dray("pool", "list", with: ["DRAY_EAGER_LIMIT=much"])
        #expect(wrong.status == 64 && wrong.error.hasPrefix("dray: DRAY_EAGER_LIMIT: "))
        // Requests of 3000 bytes go inline by default; the engine takes only 2 KiB.
        let test = try dray(
            "self-test", "--engines", "--tag", "1", "--repetitions", "5", "--in-flight", "1",
            "--size", "3000", "--request", "inline", with: [])
        #expect(test.status == 0, "\(test.error)")
        let reads = try dray("metrics", "--name", "dray_cart_bulk_reads", with: [])
        #expect(
            reads.text.contains(
                "dray_cart_bulk_reads_total{rank=\"0\",tag=\"1\",provider=\"ofi+tcp;ofi_rxm\"} 10\n"
            ), "\(reads.text)")
    }
}
