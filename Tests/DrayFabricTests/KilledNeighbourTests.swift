import DrayFabric
import DrayRuntime
import DrayTestSupport
import Glibc
import Testing

/// Processes that write to one through shared memory get SIGKILL again and again. With libfabric
/// one of them has the lock of that one's memory some day, and the provider waits for it for ever:
/// the process ends then, and says why. It never just stands still. Ours has no lock: whoever is
/// killed, messages of the others arrive.
@Suite(.serialized) struct KilledNeighbourTests {
    static let neighbours = 4
    static let duration = Duration.seconds(8)

    static let kinds = FabricKind.allCases.filter {
        $0 == .sharedMemory || $0 == .libfabricSharedMemory
    }

    @Test(arguments: kinds)
    func neverStandsStill(kind: FabricKind) async throws {
        let clock = World.real().clock
        let address = "\(kind)://test-\(getpid())-\(clock.now.nanoseconds)"
        let victim = try PeerProcess(
            main: "NeighbourMain", variable: "\(NeighbourMain.victimVariable)=\(address)")
        var neighbours: [PeerProcess] = []
        var killed = 0
        let end = clock.now + Self.duration
        while clock.now < end {
            while neighbours.count < Self.neighbours {
                neighbours.append(
                    try PeerProcess(
                        main: "NeighbourMain",
                        variable: "\(NeighbourMain.writerVariable)=\(address)"))
            }
            var alive: [PeerProcess] = []
            for neighbour in neighbours {
                if await neighbour.status(within: .milliseconds(5)) == nil {
                    alive.append(neighbour)
                } else {
                    killed += 1
                }
            }
            neighbours = alive
        }
        for neighbour in neighbours { neighbour.kill() }
        // Its own time is over by now, or its provider stands still, which takes seconds to notice.
        let status = try #require(await victim.status(within: .seconds(60)), "it stands still")
        // Ended by itself, with 0 or the status of one that cannot go on.
        #expect(
            status == 0 || kind == .libfabricSharedMemory && status == 75 << 8, "\(status)")
        // With libfabric the first one may end it all.
        #expect(killed > Self.neighbours || kind == .libfabricSharedMemory, "nobody was killed")
        if getenv("FABRIC_TEST_TRACE") != nil { print("status \(status), \(killed) killed") }
    }
}

@Suite struct NeighbourMain {
    static let victimVariable = "DRAY_FABRIC_TEST_VICTIM"
    static let writerVariable = "DRAY_FABRIC_TEST_WRITER"

    private static func kind(of address: String) -> FabricKind {
        FabricKind(rawValue: String(address.prefix { $0 != ":" }))!
    }

    /// Takes what comes, for a while. Ends with 1 when nothing comes for long.
    @Test(.enabled(if: getenv(victimVariable) != nil)) func victim() async throws {
        let address = String(cString: getenv(Self.victimVariable)!)
        let kind = Self.kind(of: address)
        try await withFabric(kind, limit: KilledNeighbourTests.duration) { rig in
            let node = try rig.makeNode(address)
            var heardAt = rig.xstream.now
            for index in 0..<64 {
                try node.postReceive(index * 4096, 4096, token: UInt64(index))
            }
            while rig.xstream.now < rig.deadline {
                node.poll()
                let done = node.completions
                node.completions = []
                for one in done where one.kind == .received {
                    heardAt = rig.xstream.now
                    try node.postReceive(Int(one.token) * 4096, 4096, token: one.token)
                }
                await rig.xstream.yield()
            }
            _exit(rig.xstream.now.since(heardAt) < .seconds(3) ? 0 : 1)
        }
    }

    /// Sends as much as it can, and is killed in the middle of it.
    @Test(.enabled(if: getenv(writerVariable) != nil)) func writer() async throws {
        let address = try FabricAddress(parsing: String(cString: getenv(Self.writerVariable)!))
        let parent = getppid()
        let killer = World.real().makeXStream(name: "killer")
        var entropy = Entropy(seed: UInt64(getpid()))
        let delay = UInt32(1000 + entropy.below(20_000))
        try await withFabric(Self.kind(of: address.description), limit: .seconds(60)) { rig in
            let node = try rig.makeNode()
            node.peer = try node.endpoint.insert(address)
            var isDoomed = false
            while rig.xstream.now < rig.deadline, getppid() == parent {
                if try node.sends(0, 2048, token: 1), !isDoomed {
                    isDoomed = true
                    killer.submit {
                        usleep(delay)
                        kill(getpid(), SIGKILL)
                    }
                }
                node.poll()
                node.completions = []
            }
            _exit(0)
        }
    }
}
