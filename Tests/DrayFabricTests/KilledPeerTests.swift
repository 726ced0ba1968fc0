import DrayFabric
import DrayRuntime
import DrayTestSupport
import Glibc
import Testing

/// What happens to one who talks to a process that gets SIGKILL and is started again at the same
/// address. The findings are in the README of DrayFabric.
@Suite(.serialized) struct KilledPeerTests {
    enum Way: String, CaseIterable {
        case samePeer, insertAgain
    }

    @Test(arguments: FabricKind.connected, Way.allCases)
    func overConnections(kind: FabricKind, way: Way) async throws {
        try await Self.restartedPeerIsReached(kind: kind, way: way)
    }

    /// In a process of its own, as it may have to end: where a process died with one of the
    /// provider's locks, nobody gets it again.
    @Test(
        .enabled(if: FabricKind.allCases.contains(.libfabricSharedMemory)),
        arguments: Way.allCases)
    func overSharedMemory(way: Way) async throws {
        let caller = try PeerProcess(
            main: "SharedMemoryCallerMain",
            variable: "\(SharedMemoryCallerMain.wayVariable)=\(way.rawValue)")
        let status = try #require(await caller.status(within: .seconds(90)), "it stands still")
        // Or it has ended because a lock of a killed process stays locked.
        #expect(status == 0 || status == 75 << 8)
    }

    static func restartedPeerIsReached(kind: FabricKind, way: Way) async throws {
        try await withFabric(kind, limit: .seconds(60)) { rig in
            let address = try freeAddress(kind, rig)
            let caller = try Caller(rig: rig, address: address)
            var report = "\(kind.rawValue) \(way):"
            var child = try PeerProcess(address: address.description)
            for round in 0..<2 {
                let took = try await caller.reach(child)
                report += "\n  round \(round): answer after \(took)"
                if kind != .libfabricSharedMemory { try await caller.startReads(8) }
                child.kill()
                let seen = await caller.observe(for: .milliseconds(100))
                report += "\n  after the kill: \(seen)"
                if kind != .libfabricSharedMemory {
                    // Reads under way end at once, with an error: unless they are over, as an
                    // adapter serves them without the process.
                    let reads = seen.filter { $0.kind == .read }
                    #expect(reads.count == 8)
                    #expect(kind == .verbs || reads.contains { $0.error != nil })
                }
                let refusals = await caller.pester(for: .milliseconds(60))
                report += "\n  sends to the dead: \(refusals)"
                #expect(refusals["posted", default: 0] == 0)
                #expect(refusals["read", default: 0] == 0)
                if way == .insertAgain { caller.forget() }
                child = try PeerProcess(address: address.description)
                if way == .insertAgain { try caller.insert() }
            }
            report += "\n  at last: answer after \(try await caller.reach(child))"
            child.kill()
            if getenv("FABRIC_TEST_TRACE") != nil { print(report) }
        }
    }

    private static func freeAddress(_ kind: FabricKind, _ rig: Rig) throws -> FabricAddress {
        if kind == .libfabricSharedMemory {
            return try FabricAddress(
                parsing: "ofi+shm://test-\(getpid())-\(rig.xstream.now.nanoseconds)")
        }
        let node = try rig.makeNode()
        defer { node.close() }
        return node.endpoint.address
    }
}

@Suite struct SharedMemoryCallerMain {
    static let wayVariable = "DRAY_FABRIC_TEST_CALLER"

    @Test(.enabled(if: getenv(wayVariable) != nil)) func call() async throws {
        let way = KilledPeerTests.Way(rawValue: String(cString: getenv(Self.wayVariable)!))!
        try await KilledPeerTests.restartedPeerIsReached(kind: .libfabricSharedMemory, way: way)
    }
}

/// Calls a peer process.
final class Caller {
    let rig: Rig
    let node: Node
    let address: FabricAddress
    private var number: UInt64 = 0
    private var exposed: RemoteMemory?
    private var hasPeer = false

    init(rig: Rig, address: FabricAddress) throws {
        self.rig = rig
        self.address = address
        node = try rig.makeNode()
        for index in 0..<64 {
            try node.postReceive(index * Ping.sizeMax, Ping.sizeMax, token: UInt64(index))
        }
        try insert()
    }

    func forget() {
        guard hasPeer else { return }
        node.endpoint.remove(node.peer)
        hasPeer = false
    }

    func insert() throws {
        precondition(!hasPeer)
        node.peer = try node.endpoint.insert(address)
        hasPeer = true
    }

    /// Sends until `child` answers; returns how long that took.
    func reach(_ child: PeerProcess) async throws -> Duration {
        let start = rig.xstream.now
        var nextSend = start
        while true {
            if rig.xstream.now >= nextSend {
                nextSend = rig.xstream.now + .milliseconds(20)
                number += 1
                let offset = (64 + Int(number % 64)) * Ping.sizeMax
                let length = Ping.write(
                    number: number, address: node.endpoint.address, to: node, at: offset)
                if try node.sends(offset, length, token: 1 << 32) == false {
                    nextSend = rig.xstream.now + .milliseconds(2)
                }
            }
            node.poll()
            if take(from: child) { return rig.xstream.now.since(start) }
            guard rig.xstream.now < rig.deadline else { throw TestTimeOut(waitingFor: "an answer") }
            await rig.xstream.yield()
        }
    }

    private func take(from child: PeerProcess) -> Bool {
        var isAnswered = false
        for one in node.completions where one.kind == .received && one.error == nil {
            let offset = Int(one.token) * Ping.sizeMax
            let sender = node.memory.bytes.load(fromByteOffset: offset + 8, as: UInt64.self)
            if sender == UInt64(child.identifier) {
                isAnswered = true
                exposed = RemoteMemory(
                    address: node.memory.bytes.load(fromByteOffset: offset + 16, as: UInt64.self),
                    key: node.memory.bytes.load(fromByteOffset: offset + 24, as: UInt64.self))
            }
            try? node.postReceive(offset, Ping.sizeMax, token: one.token)
        }
        node.completions = []
        return isAnswered
    }

    func startReads(_ count: Int) async throws {
        for index in 0..<count {
            try await node.read(
                1 << 20, 1 << 20, remote: exposed!, token: UInt64(index) + 1000)
        }
    }

    /// The completions that come within `duration`.
    func observe(for duration: Duration) async -> [Completion] {
        let start = rig.xstream.now
        var seen: [Completion] = []
        while rig.xstream.now.since(start) < duration {
            node.poll()
            seen += node.completions
            node.completions = []
            await rig.xstream.yield()
        }
        return seen
    }

    /// What sends to nobody give, and how many reads from nobody succeed.
    func pester(for duration: Duration) async -> [String: Int] {
        let start = rig.xstream.now
        var results: [String: Int] = [:]
        while rig.xstream.now.since(start) < duration {
            do {
                try node.trySend(100 * Ping.sizeMax, 64, token: 1 << 33)
                results["posted", default: 0] += 1
            } catch {
                results["\(error)", default: 0] += 1
            }
            if rig.kind != .libfabricSharedMemory, let exposed {
                try? node.tryRead(1 << 20, 64, remote: exposed, token: 1 << 34)
            }
            let seen = await observe(for: .milliseconds(5))
            results["read", default: 0] += seen.count { $0.kind == .read && $0.error == nil }
        }
        return results
    }
}
