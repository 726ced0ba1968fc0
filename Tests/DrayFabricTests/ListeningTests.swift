import DrayRuntime
import DrayTestSupport
import Glibc
import Testing

@testable import DrayFabric

/// Whether anybody listens at an address, as the kernel there says.
@Suite(.serialized) struct ListeningTests {
    @Test(arguments: FabricKind.knownToKernels)
    func saysWhoIsThere(kind: FabricKind) async throws {
        try await withFabric(kind) { rig in
            let asker = try rig.makeNode()
            let other = try rig.makeNode()
            let address = other.endpoint.address
            func ask() async throws -> Listening {
                var answer = Listening.unknown
                try await rig.wait(for: "an answer") {
                    answer = asker.endpoint.listening(at: address)
                    for node in rig.nodes { _ = node.endpoint.prepareToBlock() }
                    return answer != .unknown
                }
                return answer
            }
            // More often than connections wait to be taken, at one that blocks now and then.
            for _ in 0..<600 { #expect(try await ask() == .accepted) }
            other.close()
            #expect(try await ask() == .refused)
            let next = try rig.makeNode(address.description)
            #expect(try await ask() == .accepted)
            next.close()
            #expect(try await ask() == .refused)
        }
    }

    /// One that never comes to answer, as it is busy or stopped, is not taken for dead.
    @Test func doesNotAnswer() throws {
        let place = try freePlace()
        var probes = ListenerProbes()
        #expect(answer(of: place, &probes) == .refused)
        do {
            var listener = try ProbeListener(at: place)
            #expect(isTaken(place))
            #expect(answer(of: place, &probes) == .accepted)
            for _ in 0..<2000 { #expect(probes.ask(place) != .refused) }
            listener.answer()
        }
        #expect(answer(of: place, &probes) == .refused)
        var next = try ProbeListener(at: place)
        #expect(answer(of: place, &probes) == .accepted)
        next.answer()
        #expect(answer(of: place, &probes) == .accepted)
    }

    private func answer(of place: SocketAddress, _ probes: inout ListenerProbes) -> Listening {
        for _ in 0..<5000 {
            let answer = probes.ask(place)
            if answer != .unknown { return answer }
            usleep(1000)
        }
        return .unknown
    }

    private func isTaken(_ place: SocketAddress) -> Bool {
        do throws(FabricError) {
            var listener = try ProbeListener(at: place)
            listener.answer()
            return false
        } catch {
            return true
        }
    }

    /// A port that nobody listens on.
    private func freePlace() throws -> SocketAddress {
        var entropy = World.real().entropy
        while true {
            let port = 10_000 + entropy.below(20_000)
            let place = try #require(SocketAddress(parsing: "127.0.0.1:\(port)"))
            if !isTaken(place) { return place }
        }
    }
}
