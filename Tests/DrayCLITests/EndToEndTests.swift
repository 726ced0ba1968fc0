import DrayFileSystem
import DrayRuntime
import Glibc
import Testing

@testable import DrayCLI

/// Runs the built program as a user does.
struct Program {
    let directory: LocalPath

    init() throws {
        var template = Array("/tmp/dray-test.XXXXXX".utf8CString)
        let made = mkdtemp(&template)
        try #require(made != nil)
        directory = LocalPath(template.dropLast().map { UInt8(bitPattern: $0) })
    }

    var cluster: LocalPath { directory.appending(Array("cluster".utf8)) }

    /// Beside the test bundle, where the package manager builds it.
    static func path() throws -> LocalPath {
        let own = try LocalFiles.target(of: LocalPath("/proc/self/exe"))
        var candidates = [LocalPath(own)]
        candidates += CommandLine.arguments.map { LocalPath($0) }
        for candidate in candidates {
            guard let slash = candidate.bytes.lastIndex(of: UInt8(ascii: "/")) else { continue }
            let path = LocalPath(Array(candidate.bytes[..<slash])).appending(Array("dray".utf8))
            if (try? LocalFiles.status(path))?.kind == .file { return path }
        }
        throw CommandFailure("dray", "is not beside the tests")
    }

    struct Result {
        var status: Int32
        var output: [UInt8]
        var error: String

        var text: String { String(decoding: output, as: UTF8.self) }
    }

    /// Runs a command to its end, for at most a minute.
    ///
    /// - Parameter wrapper: a program with arguments, which is to run the command. Empty: none.
    func run(_ arguments: [[UInt8]], through wrapper: [String] = []) throws -> Result {
        let output = directory.appending(Array("output".utf8))
        let error = directory.appending(Array("error".utf8))
        for path in [output, error] { try? LocalFiles.remove(path) }
        let program = try Program.path()
        let pid = try ChildProcess.spawn(
            wrapper.isEmpty ? program : LocalPath("/usr/bin/env"),
            wrapper.isEmpty
                ? arguments : wrapper.map { Array($0.utf8) } + [program.bytes] + arguments,
            input: .null, output: .append(output), error: .append(error), detached: false)
        for _ in 0..<6000 {
            if let status = ChildProcess.reap(pid) {
                #expect(status & 0x7f == 0, "ended by signal \(status & 0x7f)")
                return Result(
                    status: status >> 8 & 0xff, output: try LocalFiles.read(output),
                    error: String(decoding: try LocalFiles.read(error), as: UTF8.self))
            }
            usleep(10_000)
        }
        kill(pid, SIGKILL)
        throw CommandFailure("dray", "runs for more than a minute")
    }

    func run(_ arguments: String...) throws -> Result { try run(arguments.map { Array($0.utf8) }) }

    /// Runs a command on the cluster of this test.
    func dray(_ arguments: [[UInt8]]) throws -> Result {
        try run(arguments + [Array("--cluster".utf8), cluster.bytes])
    }

    func dray(_ arguments: String...) throws -> Result {
        try dray(arguments.map { Array($0.utf8) })
    }

    /// Stops what runs and removes everything.
    func end() throws {
        _ = try dray("cluster", "stop")
        Program.remove(directory)
    }

    static func remove(_ path: LocalPath) {
        if let status = try? LocalFiles.status(path), status.kind == .directory {
            for name in (try? LocalFiles.names(in: path)) ?? [] { remove(path.appending(name)) }
            _ = path.withCString { rmdir($0) }
        } else {
            try? LocalFiles.remove(path)
        }
    }
}

@Suite(.serialized) struct EndToEndTests {
    @Test func wordsWithoutACluster() throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        #expect(try program.run("--version").status == 0)
        #expect(try program.run("nonsense").status == 64)
        #expect(try program.run("pool", "create", "tank", "--size", "4Q").status == 64)
        for command in [
            [], ["cluster", "start"], ["engine", "start"], ["pool", "query"], ["fs", "put"],
            ["kv", "put"], ["self-test"], ["bench"], ["completions"],
        ] {
            let result = try program.run((command + ["--help"]).map { Array($0.utf8) })
            #expect(result.status == 0)
            #expect(result.text.contains("USAGE"))
        }
        let missing = try program.dray("pool", "list")
        #expect(missing.status == 4)
        #expect(missing.error.hasPrefix("dray: \(program.cluster.text): there is no cluster;"))
        #expect(missing.error.split(separator: "\n").count == 1)
        for shell in ["bash", "zsh", "fish"] {
            let script = try program.run("completions", shell)
            #expect(script.output.count > 1000 && script.text.contains("read-only"))
        }
        let printed = try program.run(
            "engine", "start", "--print-config", "--device", "/x", "--rank", "3")
        #expect(printed.text.contains("device: \"/x\"  # flag"))
        #expect(printed.text.contains("credits: \"128\"  # default"))
    }

    /// Ctrl-C ends a command as the shell expects: by the signal.
    @Test func interruptsEndTheProgram() throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        let output = program.directory.appending(Array("output".utf8))
        let pid = try ChildProcess.spawn(
            Program.path(), ["self-test", "--pause", "100s"].map { Array($0.utf8) },
            input: .null, output: .append(output), error: .append(output), detached: false)
        // Time to load its libraries and connect; an interrupt before that is no harm either.
        usleep(700_000)
        kill(pid, SIGINT)
        var status: Int32?
        for _ in 0..<1000 where status == nil {
            usleep(10_000)
            status = ChildProcess.reap(pid)
        }
        if status == nil { kill(pid, SIGKILL) }
        #expect(status.map { $0 & 0x7f } == SIGINT)
    }

    @Test func aDayInTheLifeOfACluster() throws {
        let program = try Program()
        defer { try? program.end() }
        let started = try program.dray(
            "cluster", "start", "--engines", "2", "--targets", "1", "--device-size", "256MiB",
            "--json")
        try #require(started.status == 0, "\(started.error)")
        // Starting what runs changes nothing; another shape is refused.
        #expect(try program.dray("cluster", "start").text.contains("0 started now"))
        #expect(try program.dray("cluster", "start", "--engines", "3").status == 6)
        // A second process of an engine ends at once, and leaves the first in reach.
        let home = EngineDirectory(cluster: program.cluster, rank: 0)
        let second = ["engine", "start", "--config"].map { Array($0.utf8) }
        #expect(try program.run(second + [home.configuration.bytes]).status == 6)
        #expect(EngineProcess.read(home.process)?.isAlive == true)
        #expect(try program.dray("pool", "create", "tank", "--size", "200MiB").status == 0)
        #expect(try program.dray("pool", "create", "tank", "--size", "200MiB").status == 6)
        #expect(try program.dray("container", "create", "tank/files").status == 0)
        #expect(try program.dray("container", "create", "none/files").status == 4)
        try classes(program)
        #expect(try program.dray("pool", "list", "--json").text.contains("\"label\" : \"tank\""))
        try keys(program)
        try files(program)
        try oddities(program)
        try crash(program)
        #expect(try program.dray("pool", "destroy", "tank").status == 0)
        #expect(try program.dray("pool", "query", "tank").status == 4)
        #expect(try program.dray("cluster", "stop").text == "2 engines stopped\n")
        let down = try program.dray("cluster", "status")
        #expect(down.status == 5 && down.text.contains("down"))
    }

    private func classes(_ program: Program) throws {
        let create = ["container", "create", "tank/safe", "--class"].map { Array($0.utf8) }
        let refused = try program.dray(create + [Array("RP_3GX".utf8)])
        #expect(refused.status == 1)
        #expect(refused.error.contains("class RP_3GX needs 3 engines; pool tank has 2"))
        #expect(try program.dray(create + [Array("RP_3G3".utf8)]).status == 64)
        let made = try program.dray(create + [Array("rp_2gx".utf8)])
        #expect(made.text == "container tank/safe: class RP_2GX\n")
        let usage = try program.dray("pool", "query", "tank").text
        #expect(usage.contains("as any class without redundancy\n"))
        #expect(usage.split(separator: "\n").count { $0.hasPrefix("usable") } == 1)
        #expect(try program.dray("kv", "put", "tank/safe", "a", "1").status == 0)
        #expect(try program.dray("kv", "list", "tank/safe").text == "a\n")
        #expect(try program.dray("fs", "mkdir", "tank/safe:/a").status == 0)
        let bench = try program.dray("bench", "tank/safe", "--class", "RP_4G1", "--count", "1")
        #expect(bench.error.contains("class RP_4G1 needs 4 engines; pool tank has 2"))
        #expect(try program.dray("container", "destroy", "tank/safe").status == 0)
    }

    private func keys(_ program: Program) throws {
        let kv = Array("kv".utf8)
        let container = Array("tank/files".utf8)
        let key: [UInt8] = [0xff, 0x6b, 0x0a]
        #expect(
            try program.dray([kv, Array("put".utf8), container, key, [0xfe]]).status == 0)
        #expect(try program.dray([kv, Array("get".utf8), container, key]).output == [0xfe])
        #expect(try program.dray("kv", "put", "tank/files", "a", "1", "--update").status == 4)
        #expect(try program.dray("kv", "put", "tank/files", "a", "1").status == 0)
        #expect(try program.dray("kv", "put", "tank/files", "a", "1", "--insert").status == 6)
        #expect(
            try program.dray("kv", "list", "tank/files", "--null").output
                == [0x61, 0] + key + [0])
        #expect(try program.dray("kv", "remove", "tank/files", "a").status == 0)
        #expect(try program.dray("kv", "get", "tank/files", "a").status == 4)
    }

    /// A tree with everything that is easily lost.
    private func makeTree(_ root: LocalPath) throws {
        try LocalFiles.makeDirectory(root, mode: 0o755)
        func write(_ name: [UInt8], _ bytes: [UInt8], mode: UInt16, time: Timestamp) throws {
            let path = root.appending(name)
            let file = try OpenFile(path, O_WRONLY | O_CREAT, mode: 0o600)
            if !bytes.isEmpty {
                try file.write(
                    from: IOBuffer(copying: bytes), range: 0..<bytes.count, offset: 0)
            }
            try LocalFiles.setMode(path, mode)
            try LocalFiles.setTimes(path, accessed: time, modified: time)
        }
        let time = Timestamp(seconds: 1_234_567_890, nanoseconds: 123_456_789)
        try write(Array("empty".utf8), [], mode: 0o600, time: time)
        try write(Array("é".utf8), [1], mode: 0o4755, time: Timestamp(seconds: -5, nanoseconds: 1))
        try write(Array("e\u{301}".utf8), [2], mode: 0o644, time: time)
        try write([0xff, 0x0a, 0x20], [3], mode: 0o444, time: time)
        try write([UInt8](repeating: 0x6e, count: 255), [4], mode: 0o400, time: time)
        let large = (0..<(5 << 19)).map { UInt8(truncatingIfNeeded: $0 &* 2_654_435_761 >> 13) }
        try write(Array("large".utf8), large, mode: 0o640, time: time)
        let link = root.appending(Array("large".utf8)).withCString { old in
            root.appending(Array("hard".utf8)).withCString { Glibc.link(old, $0) }
        }
        #expect(link == 0)
        let dangling = root.appending(Array("dangling".utf8))
        try LocalFiles.makeSymbolicLink(dangling, target: [0x2f, 0xfe])
        try LocalFiles.setTimes(dangling, accessed: time, modified: time)
        let deep = root.appending(Array("a/b/c".utf8))
        try LocalFiles.makeDirectories(deep)
        try LocalFiles.setTimes(deep, accessed: time, modified: time)
        #expect(root.appending(Array("fifo".utf8)).withCString { mkfifo($0, 0o644) } == 0)
    }

    private func files(_ program: Program) throws {
        let tree = program.directory.appending(Array("tree".utf8))
        let list = program.directory.appending(Array("acknowledged".utf8))
        try makeTree(tree)
        let put = ["fs", "put"].map { Array($0.utf8) } + [tree.bytes, Array("tank/files:/t".utf8)]
        let stored = try program.dray(put + [Array("--acknowledged".utf8), list.bytes])
        #expect(stored.status == 3)
        #expect(stored.error.contains("fifo: skipped: is a FIFO"))
        #expect(try LocalFiles.read(list).split(separator: 0).count == 11)
        // Once more, over what is there.
        #expect(try program.dray(put).status == 3)
        try remove(tree, "fifo")
        #expect(try compare(program, tree).status == 0)
        let back = program.directory.appending(Array("back".utf8))
        let got = try program.dray(
            ["fs", "get", "tank/files:/t"].map { Array($0.utf8) } + [back.bytes])
        #expect(got.status == 0, "\(got.error)")
        #expect(try compare(program, back).status == 0)
        for name in try LocalFiles.names(in: tree) {
            let (one, other) = (tree.appending(name), back.appending(name))
            let (before, after) = (try LocalFiles.status(one), try LocalFiles.status(other))
            #expect(before.kind == after.kind)
            #expect(before.attributes.mode == after.attributes.mode)
            #expect(before.attributes.modified == after.attributes.modified)
            guard before.kind == .file else { continue }
            #expect(try LocalFiles.read(one) == LocalFiles.read(other))
        }
        try look(program)
        // A difference is found.
        try LocalFiles.setTimes(
            tree.appending(Array("empty".utf8)), accessed: Timestamp(seconds: 0, nanoseconds: 0),
            modified: Timestamp(seconds: 0, nanoseconds: 0))
        let different = try compare(program, tree)
        #expect(different.status == 8)
        #expect(different.text.contains("empty: modification times differ"))
        Program.remove(tree)
    }

    /// What cannot be stored is skipped with a line each, and the rest is stored.
    private func oddities(_ program: Program) throws {
        let tree = program.directory.appending(Array("odd".utf8))
        try LocalFiles.makeDirectory(tree, mode: 0o755)
        let path = { (name: String) in tree.appending(Array(name.utf8)) }
        try LocalFiles.replace(path("plain"), [1])
        try LocalFiles.replace(path("unreadable"), [2])
        try LocalFiles.setMode(path("unreadable"), 0)
        try LocalFiles.makeDirectory(path("closed"), mode: 0)
        defer { try? LocalFiles.setMode(path("closed"), 0o700) }
        #expect(path("fifo").withCString { mkfifo($0, 0o644) } == 0)
        let socket = try makeSocket(path("socket"))
        defer { close(socket) }
        // Root reads everything, unless it gives up that power: where it can.
        let wrapper =
            geteuid() == 0
            ? ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"] : []
        let isPossible = try program.run([[UInt8]("--version".utf8)], through: wrapper).status == 0
        let result = try program.run(
            ["fs", "put"].map { Array($0.utf8) } + [tree.bytes]
                + ["tank/files:/odd", "--cluster"].map { Array($0.utf8) }
                + [program.cluster.bytes],
            through: isPossible ? wrapper : [])
        #expect(result.status == 3)
        var skipped = ["fifo: skipped: is a FIFO", "socket: skipped: is a socket"]
        if isPossible || geteuid() != 0 {
            skipped += [
                "closed: skipped: Permission denied", "unreadable: skipped: Permission denied",
            ]
        }
        let lines = result.error.split(separator: "\n").sorted()
        #expect(lines.count == skipped.count, "\(result.error)")
        for line in skipped { #expect(lines.contains { $0.hasSuffix(line) }, "\(line)") }
        let listed = try program.dray("fs", "ls", "tank/files:/odd").text
        #expect(listed == (skipped.count == 4 ? "closed\nplain\n" : "closed\nplain\nunreadable\n"))
        #expect(try program.dray("fs", "rm", "-r", "tank/files:/odd").status == 0)
    }

    private func makeSocket(_ path: LocalPath) throws -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        try #require(path.bytes.count < MemoryLayout.size(ofValue: address.sun_path))
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.bytes) }
        let descriptor = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        let bound = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        try #require(bound == 0)
        return descriptor
    }

    private func remove(_ tree: LocalPath, _ name: String) throws {
        // Removing an entry changes the directory's time, which is compared.
        let before = try LocalFiles.status(tree).attributes
        try LocalFiles.remove(tree.appending(Array(name.utf8)))
        try LocalFiles.setTimes(tree, accessed: before.accessed, modified: before.modified)
    }

    private func compare(_ program: Program, _ tree: LocalPath) throws -> Program.Result {
        try program.dray(
            ["fs", "compare"].map { Array($0.utf8) } + [tree.bytes, Array("tank/files:/t".utf8)])
    }

    private func look(_ program: Program) throws {
        let names = try program.dray("fs", "ls", "tank/files:/t", "--null").output
            .split(separator: 0).map { Array($0) }
        #expect(names.count == 9)
        #expect(names == names.sorted { $0.lexicographicallyPrecedes($1) })
        #expect(names.contains([0xff, 0x0a, 0x20]))
        #expect(try program.dray("fs", "cat", "tank/files:/t/large").output.count == 5 << 19)
        #expect(try program.dray("fs", "cat", "tank/files:/t").status == 1)
        #expect(try program.dray("fs", "stat", "tank/files:/none").status == 4)
        let status = try program.dray("fs", "stat", "tank/files:/t/empty").text
        #expect(status.contains("2009-02-13T23:31:30.123456789Z"))
        #expect(try program.dray("fs", "mkdir", "tank/files:/x/y").status == 4)
        #expect(try program.dray("fs", "mkdir", "-p", "tank/files:/x/y").status == 0)
        #expect(try program.dray("fs", "mkdir", "tank/files:/x").status == 6)
        #expect(try program.dray("fs", "rm", "tank/files:/x").status == 1)
        #expect(try program.dray("fs", "rm", "-r", "tank/files:/x").status == 0)
        #expect(try program.dray("fs", "ls", "tank/files:/").output == Array("t\n".utf8))
    }

    /// What was acknowledged is there after SIGKILL.
    private func crash(_ program: Program) throws {
        let file = try ClusterFile.read(program.cluster)
        for engine in file.engines {
            let home = EngineDirectory(cluster: program.cluster, rank: engine.rank)
            let process = try #require(EngineProcess.read(home.process))
            #expect(process.isAlive)
            try process.signal(SIGKILL)
            for _ in 0..<500 where process.isAlive { usleep(10_000) }
            #expect(!process.isAlive)
        }
        let down = try program.dray("pool", "list", "--timeout", "500ms")
        #expect(down.status == 5)
        let restarted = try program.dray("cluster", "start")
        try #require(restarted.status == 0, "\(restarted.error)")
        #expect(restarted.text.contains("2 started now"))
        let back = program.directory.appending(Array("back".utf8))
        #expect(try compare(program, back).status == 0)
    }

    /// A cluster that cannot be made leaves nothing in the way of the next attempt.
    @Test func failedStartsLeaveNothing() throws {
        let program = try Program()
        defer { try? program.end() }
        #expect(try program.dray("cluster", "start", "--provider", "tcp").status == 64)
        #expect(try program.dray("cluster", "start", "--device-size", "1MiB").status == 1)
        let started = try program.dray(
            "cluster", "start", "--targets", "1", "--device-size", "128MiB")
        #expect(started.status == 0, "\(started.error)")
    }

    /// What stands where a cluster is to be is never formatted.
    @Test func foreignFilesAreLeftAlone() throws {
        let program = try Program()
        defer { Program.remove(program.directory) }
        let home = EngineDirectory(cluster: program.cluster, rank: 0)
        try LocalFiles.makeDirectories(home.path)
        try LocalFiles.replace(home.device, [1, 2, 3])
        let refused = try program.dray("cluster", "start")
        #expect(refused.status == 6)
        #expect(try LocalFiles.read(home.device) == [1, 2, 3])
    }
}
