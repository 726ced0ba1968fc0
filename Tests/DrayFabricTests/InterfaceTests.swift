import DrayRuntime
import Testing

@testable import DrayFabric

@Suite struct InterfaceTests {
    private func list(_ provider: Set<String> = []) async throws -> [FabricInterface] {
        let world = World.real()
        let fabric = LibfabricFabric(entropy: world.entropy.fork("fabric"))
        let xstream = world.makeXStream(name: "test")
        defer { xstream.stop() }
        return try await xstream.run { () async throws(FabricError) -> [FabricInterface] in
            try fabric.interfaces(provider: provider, on: xstream)
        }
    }

    /// The machine's own loop is everywhere, and so are TCP and shared memory.
    @Test func findsWhatEveryMachineHas() async throws {
        let all = try await list()
        let loop = all.filter { $0.host == "127.0.0.1" && $0.isUsable }
        let tcp = try #require(loop.first { $0.provider == "ofi+tcp" })
        #expect(tcp.interface == "lo")
        #expect(tcp.canWait == true)
        #expect(tcp.hasRemoteMemory)
        #expect(loop.contains { $0.provider == "ofi+tcp;ofi_rxm" })
        for provider in ["shm", "ofi+shm"] {
            let shared = try #require(all.first { $0.provider == provider })
            #expect(shared.isUsable)
            #expect(shared.canWait == true)
            #expect(shared.host == nil && shared.interface == nil)
        }
        // Whatever has no endpoints of the kind that Dray needs says so.
        #expect(all.contains { !$0.isUsable })
        for interface in all where !interface.isReliableDatagram || !interface.hasRemoteMemory {
            #expect(interface.problem != nil, "\(interface)")
        }
        #expect(Set(all).count == all.count, "something is listed twice")
    }

    @Test func filtersByProvider() async throws {
        let some = try await list(["ofi+shm", "ofi+tcp"])
        #expect(Set(some.map(\.provider)) == ["ofi+shm", "ofi+tcp"])
        #expect(try await list(["shm"]).map(\.provider) == ["shm"])
        #expect(try await list(["ofi+nothing"]).isEmpty)
    }

    /// An endpoint of a listed place listens there.
    @Test func opensWhereItSays() async throws {
        let world = World.real()
        let fabric = LibfabricFabric(entropy: world.entropy.fork("fabric"))
        let xstream = world.makeXStream(name: "test")
        defer { xstream.stop() }
        let opened = try await xstream.run { () async throws(FabricError) -> [(String, String)] in
            var opened: [(String, String)] = []
            for place in try fabric.interfaces(provider: ["ofi+tcp"], on: xstream)
            where place.isUsable {
                let host = place.host ?? ""
                let text = host.contains(":") ? "[\(host)]" : host
                let endpoint = try fabric.makeEndpoint("ofi+tcp://\(text):0", on: xstream)
                opened.append(("ofi+tcp://\(text):", endpoint.address.description))
                endpoint.close()
            }
            return opened
        }
        #expect(!opened.isEmpty)
        for (wanted, got) in opened { #expect(got.hasPrefix(wanted)) }
    }

    /// An address may name the domain; one that the machine does not have is refused.
    @Test func listensOnADomain() async throws {
        let world = World.real()
        let fabric = LibfabricFabric(entropy: world.entropy.fork("fabric"))
        let xstream = world.makeXStream(name: "test")
        defer { xstream.stop() }
        let address = try await xstream.run { () async throws(FabricError) -> String in
            let endpoint = try fabric.makeEndpoint("ofi+tcp://lo/127.0.0.1:0", on: xstream)
            defer { endpoint.close() }
            return endpoint.address.description
        }
        #expect(address.hasPrefix("ofi+tcp://127.0.0.1:"))
        for bad in ["ofi+tcp://nothing7/127.0.0.1:0", "ofi+tcp:///127.0.0.1:0"] {
            await #expect(throws: FabricError.self) {
                try await xstream.run { () async throws(FabricError) -> Void in
                    try fabric.makeEndpoint(bad, on: xstream).close()
                }
            }
        }
    }

    @Test(arguments: ["127.0.0.1", "::1", "fd00::7"])
    func hosts(text: String) { #expect(FabricAddress.isHost(text)) }

    @Test(arguments: ["", "lo", "127.0.0.1:5", "[::1]", "300.1.1.1", "::1:x"])
    func noHosts(text: String) { #expect(!FabricAddress.isHost(text)) }

    @Test(arguments: [
        ("net", 1 << 16 | 17, "ofi+tcp"), ("net", 1 << 16 | 18, "ofi+net"),
        ("tcp", 2 << 16, "ofi+tcp"), ("tcp;ofi_rxm", 1 << 16 | 17, "ofi+tcp;ofi_rxm"),
        ("verbs;ofi_rxm", 2 << 16, "ofi+verbs;ofi_rxm"),
    ])
    func spellsProviders(library: String, version: Int, name: String) {
        #expect(LibfabricFabric.name(ofLibrary: library, version: UInt32(version)) == name)
    }

    @Test func knowsTheMachinesInterfaces() throws {
        let all = NetworkInterface.all()
        let loop = try #require(all.first { $0.name == "lo" })
        #expect(loop.hosts.first == "127.0.0.1")
        #expect(all.map(\.name) == all.map(\.name).sorted())
        #expect(!all.flatMap(\.hosts).contains { $0.hasPrefix("fe80") })
    }

    @Test func theSimulationHasItsOwn() async throws {
        let simulation = Simulation(seed: 1)
        let fabric = SimulatedFabric(simulation: simulation)
        let world = simulation.world(node: 1)
        let xstream = world.makeXStream(name: "test")
        #expect(try fabric.interfaces(provider: [], on: xstream).map(\.provider) == ["sim"])
        #expect(try fabric.interfaces(provider: ["ofi+tcp"], on: xstream).isEmpty)
    }
}
