internal import CaRT
internal import DrayFabric
internal import DrayRuntime
internal import Glibc

/// The answering side.
enum SelfTestServer {
    /// Serves at `address`, prints where that is, and returns when standard input ends.
    static func serve(_ address: String, world: World) async throws(CommandFailure) {
        let xstream = world.makeXStream(name: "dray-server")
        let fabric = try FabricOptions.ofEnvironment(world)
        let text = try await xstream.run { () async throws(CommandFailure) -> String in
            do throws(RPCError) {
                var options = fabric.contextOptions(
                    clock: HybridLogicalClock(clock: world.clock))
                // As many calls as a client likes to keep in flight.
                options.credits = 0
                let context = try Context(
                    world: world, xstream: xstream, address: address, options: options)
                SelfTest.register(on: context)
                return context.address.description
            } catch {
                throw CommandFailure(address, "\(error)")
            }
        }
        try Terminal.print(text)
        try StandardInput.waitForEnd()
        xstream.stop()
    }

    /// A server in another process.
    struct Child {
        var address: String
        fileprivate var input: Int32
        fileprivate var pid: Int32

        /// Tells the process to end, and waits until it has.
        func end() {
            close(input)
            var status: Int32 = 0
            while unsafe waitpid(pid, &status, 0) < 0, errno == EINTR {}
        }
    }

    /// Starts this program again as a server, which ends when this process does.
    /// A provider alone is served at the interface that is configured for it.
    static func start(
        at provider: String, _ fabric: FabricConfiguration
    ) throws(CommandFailure) -> Child {
        let address: String
        do throws(FabricConfigurationError) {
            address = try fabric.address(ofClient: 0, provider: provider) ?? provider
        } catch {
            throw CommandFailure(error)
        }
        var input: [Int32] = [0, 0]
        var output: [Int32] = [0, 0]
        guard unsafe pipe(&input) == 0, unsafe pipe(&output) == 0 else {
            throw CommandFailure("pipe", SystemError.text(errno))
        }
        for descriptor in input + output { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }
        let pid: Int32
        do throws(Errno) {
            pid = try ChildProcess.spawn(
                try ownPath(),
                ["self-test", "--listen", address].map { Array($0.utf8) },
                input: .descriptor(input[0]), output: .descriptor(output[1]),
                error: .descriptor(2), detached: false)
        } catch {
            throw CommandFailure("server", "cannot be started: \(error.text)")
        }
        close(input[0])
        close(output[1])
        defer { close(output[0]) }
        var line: [UInt8] = []
        var byte: UInt8 = 0
        while unsafe read(output[0], &byte, 1) == 1, byte != UInt8(ascii: "\n") {
            line.append(byte)
        }
        guard !line.isEmpty else {
            close(input[1])
            throw CommandFailure(
                "server", "ended without serving", advice: "is there a provider \(provider)?")
        }
        return Child(
            address: String(decoding: line, as: UTF8.self), input: input[1], pid: pid)
    }

    private static func ownPath() throws(Errno) -> LocalPath {
        LocalPath(try LocalFiles.target(of: LocalPath("/proc/self/exe")))
    }
}
