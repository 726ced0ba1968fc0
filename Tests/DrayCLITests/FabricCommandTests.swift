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
        #expect(rows.contains { $0.provider == "ofi+shm" && $0.isUsable && $0.canWait == false })
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
}
