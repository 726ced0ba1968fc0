import CaRT
import DrayFabric
import DrayProtocol
import DrayRuntime
import Glibc
import Testing

@testable import DrayCLI

/// Whatever is wrong around a cluster of real processes: an error that names it, engines that
/// live on, and data that is as it was.
@Suite(.serialized) struct BadInputTests {
    // MARK: - Devices

    enum Damage: String, CaseIterable {
        case missing, foreign, otherEngine, superblocks, log, port
    }

    /// An engine that cannot start says why, its neighbour serves, and when the cause is gone
    /// everything is there again.
    @Test func anEngineThatCannotStart() throws {
        let cluster = try StoredCluster()
        defer { try? cluster.program.end() }
        for damage in Damage.allCases {
            try cluster.kill(1)
            let neighbour = try cluster.processes()[0]
            let (repair, words) = try inflict(damage, cluster)
            let start = ["cluster", "start"]
            switch damage {
            case .missing: try cluster.expectRefusal(start, .notFound, words)
            default: try cluster.expectRefusal(start, .unavailable, ["engine 1"] + words)
            }
            #expect(neighbour.isAlive)
            #expect(try cluster.program.dray("cluster", "status").text.contains("serving"))
            try repair()
            let restarted = try cluster.program.dray("cluster", "start")
            #expect(restarted.status == 0, "\(damage): \(restarted.error)")
            #expect(try cluster.processes()[0] == neighbour)
            #expect(
                try cluster.program.dray("kv", "get", "tank/data", "key0").text
                    == StoredCluster.value("key0"), "\(damage)")
        }
        try cluster.expectIntact(try cluster.processes())
    }

    /// Damages what engine 1 needs. Returns how to repair it, and what the error has to say.
    private func inflict(
        _ damage: Damage, _ cluster: StoredCluster
    ) throws -> (repair: () throws -> Void, words: [String]) {
        let device = cluster.home(1).device
        let saved = cluster.program.directory.appending(Array("saved".utf8))
        func rename(_ from: LocalPath, _ to: LocalPath) {
            let done = from.withCString { from in to.withCString { Glibc.rename(from, $0) } }
            #expect(done == 0)
        }
        switch damage {
        case .missing:
            rename(device, saved)
            return ({ rename(saved, device) }, [device.text, "missing", "put it back"])
        case .foreign:
            rename(device, saved)
            try LocalFiles.replace(device, Array("someone's thesis".utf8))
            let extended = device.withCString { truncate($0, 128 << 20) }
            #expect(extended == 0)
            let repair = {
                // Nothing was written to it.
                let start = IOBuffer(count: 16)
                _ = try OpenFile(device, O_RDONLY).read(into: start, range: 0..<16, offset: 0)
                #expect(start.array(0..<16) == Array("someone's thesis".utf8))
                rename(saved, device)
            }
            return (repair, [device.text, "not this engine's", "nothing was changed"])
        case .otherEngine:
            rename(device, saved)
            try copy(cluster.home(0).device, to: device)
            return ({ rename(saved, device) }, [device.text, "belongs elsewhere", "expected"])
        case .superblocks:
            // One copy is repaired at the next start, so both.
            try flip(device, [100, 4096 + 100])
            return (
                { try flip(device, [100, 4096 + 100]) }, [device.text, "damaged", "superblock"]
            )
        case .log:
            // The first group of the metadata's log: later ones prove that it was there.
            try flip(device, [2 * 4096 + 100])
            return (
                { try flip(device, [2 * 4096 + 100]) }, [device.text, "damaged at byte", "log"]
            )
        case .port:
            let port = try cluster.port(1, tag: 0)
            let socket = try Self.listen(port)
            return ({ close(socket) }, ["\(port)", "in use by another process"])
        }
    }

    private func copy(_ from: LocalPath, to path: LocalPath) throws {
        let (source, target) = (
            try OpenFile(from, O_RDONLY), try OpenFile(path, O_WRONLY | O_CREAT)
        )
        let buffer = IOBuffer(count: 1 << 20)
        for offset in 0..<UInt64(128) {
            let range = 0..<buffer.count
            _ = try source.read(into: buffer, range: range, offset: offset << 20)
            try target.write(from: buffer, range: range, offset: offset << 20)
        }
    }

    /// Changes a bit of each of the bytes, or changes it back.
    private func flip(_ path: LocalPath, _ offsets: [off_t]) throws {
        let file = try #require(path.withCString { fopen($0, "r+") })
        defer { fclose(file) }
        for offset in offsets {
            fseek(file, offset, SEEK_SET)
            let byte = fgetc(file)
            fseek(file, offset, SEEK_SET)
            fputc(byte ^ 4, file)
        }
    }

    private static func address(_ port: UInt16) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        return address
    }

    private static func listen(_ port: UInt16) throws -> Int32 {
        let socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var yes: Int32 = 1
        setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, 4)
        var address = address(port)
        let bound = withUnsafeBytes(of: &address) {
            bind(socket, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), 16)
        }
        try #require(bound == 0, "bind: \(errno)")
        try #require(Glibc.listen(socket, 1) == 0)
        return socket
    }

    // MARK: - Space

    private func large(_ cluster: StoredCluster, _ mebibytes: Int) throws -> [String] {
        let path = cluster.program.directory.appending(Array("large".utf8))
        try LocalFiles.replace(path, [UInt8](repeating: 7, count: mebibytes << 20))
        return ["fs", "put", path.text, "tank/data:/large"]
    }

    @Test func aFullPool() throws {
        let cluster = try StoredCluster()
        defer { try? cluster.program.end() }
        let processes = try cluster.processes()
        try cluster.expectRefusal(
            ["pool", "create", "huge", "--size", "1TiB"], .noSpace,
            ["huge", "1099511627776 bytes wanted", "are not taken by other pools"])
        // Many requests at once, and all together stay within the pool.
        let put = try large(cluster, 48)
        try cluster.expectRefusal(put, .noSpace, ["large", "pool tank is full", "of 16777216"])
        let line = try cluster.program.dray(put.map { Array($0.utf8) }).error
        let used = line.split(separator: " of 16777216")[0].split(separator: " ").last ?? ""
        #expect(try #require(Int(used)) <= 16_777_216, "\(line)")
        try cluster.expectIntact(processes, isFull: true)
        #expect(try cluster.program.dray("fs", "ls", "tank/data:/").status == 0)
    }

    @Test func aFullDevice() throws {
        // Almost as much as there is.
        let cluster = try StoredCluster(poolSize: "111MiB")
        defer { try? cluster.program.end() }
        let processes = try cluster.processes()
        // One byte more than nine blocks takes ten: the device is full before the pool is.
        try cluster.expectRefusal(
            [
                "bench", "tank/data", "--size", "36865", "--depth", "16", "--values", "8000",
                "--count", "8000",
            ], .noSpace, ["the target is full", "bytes wanted"])
        try cluster.expectIntact(processes, isFull: true)
    }

    // MARK: - Names

    @Test func namesThatAreUnknownOrTooLong() throws {
        let cluster = try StoredCluster()
        defer { try? cluster.program.end() }
        let processes = try cluster.processes()
        try cluster.expectRefusal(
            ["kv", "get", "lake/data", "key0"], .notFound, ["there is no pool 'lake'", "tank"])
        try cluster.expectRefusal(
            ["pool", "query", "lake"], .notFound, ["there is no pool 'lake'", "tank"])
        try cluster.expectRefusal(
            ["kv", "get", "tank/dat", "key0"], .notFound, ["no container 'dat' in pool 'tank'"])
        try cluster.expectRefusal(
            ["kv", "get", "tank/data", "key9"], .notFound, ["key9"])
        let label = String(repeating: "l", count: 300)
        try cluster.expectRefusal(
            ["pool", "create", label, "--size", "32MiB"], .failure, ["at most 127", "300"])
        try cluster.expectRefusal(
            ["container", "create", "tank/" + label], .failure, ["at most 127", "300"])
        let key = String(repeating: "k", count: 65_537)
        try cluster.expectRefusal(
            ["kv", "put", "tank/data", key, "1"], .failure, ["at most 65536 bytes", "65537"])
        try cluster.expectRefusal(
            ["fs", "mkdir", "tank/data:/" + String(repeating: "n", count: 256)], .usage,
            ["255"])
        try cluster.expectIntact(processes)
    }

    // MARK: - Messages

    /// What is no libfabric message at all, to every port of both engines.
    @Test func noiseOnTheSockets() throws {
        let cluster = try StoredCluster()
        defer { try? cluster.program.end() }
        let processes = try cluster.processes()
        var random = Entropy(seed: 17)
        var kept: [Int32] = []
        defer { for socket in kept { close(socket) } }
        for round in 0..<60 {
            let port = try cluster.port(UInt32(round % 2), tag: round / 2 % 2)
            let socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            var address = Self.address(port)
            let connected = withUnsafeBytes(of: &address) {
                connect(socket, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), 16)
            }
            #expect(connected == 0)
            let noise = (0..<random.below(3000)).map { _ in UInt8(random.below(256)) }
            send(socket, noise, noise.count, Int32(MSG_NOSIGNAL))
            // Some hang up, some never say another word.
            if round % 3 == 0 { close(socket) } else { kept.append(socket) }
        }
        try cluster.expectIntact(processes)
    }

    /// Well-formed requests that ask for what cannot be.
    @Test func requestsThatCannotBe() async throws {
        let cluster = try StoredCluster()
        defer { try? cluster.program.end() }
        let processes = try cluster.processes()
        let world = RealWorld.make(log: LogFacilities())
        let port = try cluster.port(0, tag: 1)
        let xstream = world.makeXStream(name: "test")
        defer { xstream.stop() }
        try await xstream.run { () async throws -> Void in
            let context = try Context(
                world: world, xstream: xstream, address: "ofi+tcp",
                options: ContextOptions(clock: HybridLogicalClock(clock: world.clock)))
            let hostile = HostileRequests(
                context: context,
                engine: .address(try FabricAddress(parsing: "ofi+tcp://127.0.0.1:\(port - 1)")),
                target: .address(try FabricAddress(parsing: "ofi+tcp://127.0.0.1:\(port)")))
            try await hostile.run()
            await context.close()
        }
        try cluster.expectIntact(processes)
    }
}
