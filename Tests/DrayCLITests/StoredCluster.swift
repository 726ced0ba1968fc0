import Glibc
import Testing

@testable import DrayCLI

/// A cluster of two engine processes with some data in it, for tests of what may not harm it.
struct StoredCluster {
    let program: Program
    static let keys = (0..<3).map { "key\($0)" }

    /// Two engines of one target each; the pool has `poolSize`.
    init(poolSize: String = "32MiB") throws {
        program = try Program()
        let started = try program.dray(
            "cluster", "start", "--engines", "2", "--targets", "1", "--device-size", "128MiB")
        try #require(started.status == 0, "\(started.error)")
        try #require(try program.dray("pool", "create", "tank", "--size", poolSize).status == 0)
        try #require(try program.dray("container", "create", "tank/data").status == 0)
        for key in Self.keys {
            try #require(
                try program.dray("kv", "put", "tank/data", key, Self.value(key)).status == 0)
        }
    }

    /// Longer than what the index keeps by itself.
    static func value(_ key: String) -> String { String(repeating: key + " ", count: 1000) }

    func file() throws -> ClusterFile { try ClusterFile.read(program.cluster) }

    func home(_ rank: UInt32) -> EngineDirectory {
        EngineDirectory(cluster: program.cluster, rank: rank)
    }

    /// The port of an engine's context.
    func port(_ rank: UInt32, tag: Int) throws -> UInt16 {
        let address = try file().engines[Int(rank)].address
        let colon = try #require(address.lastIndex(of: ":"))
        return try #require(UInt16(address[address.index(after: colon)...])) + UInt16(tag)
    }

    /// The processes that run the engines now.
    func processes() throws -> [EngineProcess] {
        try file().engines.map { try #require(EngineProcess.read(home($0.rank).process)) }
    }

    /// Both engines run as the processes they were, and serve: what was stored before is as it
    /// was, and new values can be stored unless the pool `isFull`.
    func expectIntact(
        _ processes: [EngineProcess], isFull: Bool = false,
        location: SourceLocation = #_sourceLocation
    ) throws {
        #expect(try self.processes() == processes, sourceLocation: location)
        let areAlive = processes.allSatisfy { $0.isAlive }
        #expect(areAlive, sourceLocation: location)
        for key in Self.keys {
            let read = try program.dray("kv", "get", "tank/data", key)
            #expect(read.status == 0, "\(read.error)", sourceLocation: location)
            #expect(read.text == Self.value(key), sourceLocation: location)
        }
        guard !isFull else { return }
        let put = try program.dray("kv", "put", "tank/data", "new", "1")
        #expect(put.status == 0, "\(put.error)", sourceLocation: location)
    }

    /// The command fails with `status`, in one line that has all of `words`.
    func expectRefusal(
        _ arguments: [String], _ status: DrayCLI.ExitStatus, _ words: [String],
        location: SourceLocation = #_sourceLocation
    ) throws {
        let result = try program.dray(arguments.map { Array($0.utf8) })
        #expect(result.status == status.rawValue, "\(result.error)", sourceLocation: location)
        #expect(result.error.hasPrefix("dray: "), sourceLocation: location)
        #expect(
            result.error.split(separator: "\n").count == 1, "\(result.error)",
            sourceLocation: location)
        for word in words {
            #expect(
                result.error.contains(word), "\(word): \(result.error)", sourceLocation: location)
        }
    }

    /// Ends an engine with SIGKILL.
    func kill(_ rank: UInt32) throws {
        let process = try #require(EngineProcess.read(home(rank).process))
        try process.signal(SIGKILL)
        for _ in 0..<1000 where process.isAlive { usleep(5_000) }
        #expect(!process.isAlive)
    }
}
