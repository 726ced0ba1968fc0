import DrayFabric
import DrayRuntime
import DrayTestSupport
import Glibc
import Testing

/// This test program once more, as a process of its own that can be killed. It runs the suite
/// `main` only.
final class PeerProcess {
    let identifier: pid_t
    private var isRunning = true

    static let addressVariable = "DRAY_FABRIC_TEST_PEER"

    /// A process that answers messages at `address`.
    convenience init(address: String) throws {
        try self.init(
            main: "PeerProcessMain", variable: "\(PeerProcess.addressVariable)=\(address)")
    }

    init(main: String, variable: String) throws {
        let arguments = [
            "/proc/self/exe", "--testing-library", "swift-testing", "--filter", main,
        ]
        var environment: [String] = [variable]
        let kept = [
            "PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "HOME", "FI_LOG_LEVEL", FabricKind.variable,
            "ASAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS",
        ]
        for name in kept {
            if let value = getenv(name) { environment.append("\(name)=\(String(cString: value))") }
        }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0)
        if getenv("FI_LOG_LEVEL") == nil {
            posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0)
        }
        var argumentPointers = arguments.map { strdup($0) } + [nil]
        var environmentPointers = environment.map { strdup($0) } + [nil]
        defer {
            for pointer in argumentPointers + environmentPointers { free(pointer) }
        }
        var child: pid_t = 0
        let result = posix_spawn(
            &child, "/proc/self/exe", &actions, nil, &argumentPointers, &environmentPointers)
        try #require(result == 0, "no child process")
        identifier = child
    }

    /// Ends the process as a crash does.
    func kill() {
        guard isRunning else { return }
        isRunning = false
        Glibc.kill(identifier, SIGKILL)
        var status: Int32 = 0
        waitpid(identifier, &status, 0)
    }

    /// The exit status, once the process has ended; nil when it runs for longer than `limit`.
    func status(within limit: Duration) async -> Int32? {
        let clock = World.real().clock
        let end = clock.now + limit
        while isRunning, clock.now < end {
            var status: Int32 = 0
            if waitpid(identifier, &status, WNOHANG) == identifier {
                isRunning = false
                return status
            }
            usleep(10_000)
        }
        return nil
    }

    deinit { kill() }
}

/// A message to the peer process: a number, and where to answer to. The answer is the number and
/// the process that gave it.
enum Ping {
    static let sizeMax = 512

    static func write(number: UInt64, address: FabricAddress, to node: Node, at offset: Int) -> Int
    {
        node.memory.bytes.storeBytes(of: number, toByteOffset: offset, as: UInt64.self)
        for (index, byte) in address.bytes.enumerated() {
            node.memory.bytes[offset + 8 + index] = byte
        }
        return 8 + address.bytes.count
    }
}

@Suite struct PeerProcessMain {
    /// Answers until it is killed; for at most two minutes.
    @Test(.enabled(if: getenv(PeerProcess.addressVariable) != nil)) func answer() async throws {
        let address = String(cString: getenv(PeerProcess.addressVariable)!)
        let parent = getppid()
        let exact = FabricKind(rawValue: String(address.prefix { $0 != ":" }))!
        try await withFabric(exact, limit: .seconds(120)) { rig in
            let node = try rig.makeNode(address)
            for index in 0..<64 {
                try node.postReceive(index * Ping.sizeMax, Ping.sizeMax, token: UInt64(index))
            }
            var peers: [[UInt8]: Peer] = [:]
            while rig.xstream.now < rig.deadline, getppid() == parent {
                node.poll()
                let done = node.completions
                node.completions = []
                for one in done where one.kind == .received {
                    let offset = Int(one.token) * Ping.sizeMax
                    if one.error == nil, one.length > 8 {
                        let bytes = node.memory.array((offset + 8)..<(offset + one.length))
                        if peers[bytes] == nil {
                            peers[bytes] = try node.endpoint.insert(
                                FabricAddress(provider: exact.rawValue, bytes: bytes))
                        }
                        node.peer = peers[bytes]!
                        let answer = (64 + Int(one.token)) * Ping.sizeMax
                        node.memory.bytes.storeBytes(
                            of: node.memory.bytes.load(fromByteOffset: offset, as: UInt64.self),
                            toByteOffset: answer, as: UInt64.self)
                        node.memory.bytes.storeBytes(
                            of: UInt64(getpid()), toByteOffset: answer + 8, as: UInt64.self)
                        node.memory.bytes.storeBytes(
                            of: node.remote.address, toByteOffset: answer + 16, as: UInt64.self)
                        node.memory.bytes.storeBytes(
                            of: node.remote.key, toByteOffset: answer + 24, as: UInt64.self)
                        let end = rig.xstream.now + .milliseconds(500)
                        while rig.xstream.now < end,
                            try node.sends(answer, 32, token: 1 << 32) == false
                        {
                            node.poll()
                            await rig.xstream.yield()
                        }
                    }
                    try node.postReceive(offset, Ping.sizeMax, token: one.token)
                }
                await rig.xstream.yield()
            }
            _exit(0)
        }
    }
}
