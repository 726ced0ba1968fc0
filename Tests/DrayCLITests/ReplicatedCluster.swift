import DrayRuntime
import Glibc
import Testing

@testable import DrayCLI

/// Three engine processes with replicated objects, whose devices a test can damage while they are
/// stopped.
struct ReplicatedCluster {
    let program: Program

    private static let deviceSize = 128 << 20

    static let keys = (0..<3).map { "key\($0)" }

    /// What a file has whose values are arrays.
    static let file = (0..<10_000).map {
        UInt8(truncatingIfNeeded: ($0 + 1) &* 2_654_435_761 >> 13)
    }

    /// Longer than what the index keeps by itself.
    static func value(_ key: String) -> String { String(repeating: key + " ", count: 1000) }

    /// `tank/three` has values with three replicas, `tank/two` files with two, `tank/plain` a value
    /// without.
    init() throws {
        program = try Program()
        let started = try program.dray(
            "cluster", "start", "--engines", "3", "--targets", "1", "--device-size", "128MiB")
        try #require(started.status == 0, "\(started.error)")
        try expect("pool", "create", "tank", "--size", "96MiB")
        for (name, objectClass) in [("three", "RP_3G1"), ("two", "RP_2G1"), ("plain", "SX")] {
            try expect("container", "create", "tank/\(name)", "--class", objectClass)
        }
        for key in Self.keys {
            try expect("kv", "put", "tank/three", key, Self.value(key))
        }
        try expect("kv", "put", "tank/plain", "key", "1")
        let tree = program.directory.appending(Array("tree".utf8))
        try LocalFiles.makeDirectory(tree, mode: 0o755)
        for name in ["a", "b"] {
            try LocalFiles.replace(tree.appending(Array(name.utf8)), Self.file)
        }
        try expect("fs", "put", tree.text, "tank/two:/tree")
    }

    /// Runs a command that must succeed, and gives its output.
    @discardableResult
    func expect(
        _ arguments: String..., location: SourceLocation = #_sourceLocation
    ) throws -> String {
        let result = try program.dray(arguments.map { Array($0.utf8) })
        try #require(
            result.status == 0, "\(arguments): \(result.error)", sourceLocation: location)
        return result.text
    }

    /// Runs a command that must end with `status` and gives what it prints as JSON.
    func json<Value: Decodable>(
        _ type: Value.Type, status: DrayCLI.ExitStatus = .success, _ arguments: String...,
        location: SourceLocation = #_sourceLocation
    ) throws -> Value {
        let result = try program.dray((arguments + ["--json"]).map { Array($0.utf8) })
        #expect(result.status == status.rawValue, "\(result.error)", sourceLocation: location)
        #expect(result.error.isEmpty, "\(result.error)", sourceLocation: location)
        return try JSON.decode(type, from: result.output, file: "standard output")
    }

    /// The command fails with `status`, in words that have all of `words`.
    func expectRefusal(
        _ arguments: [String], _ status: DrayCLI.ExitStatus, _ words: [String],
        location: SourceLocation = #_sourceLocation
    ) throws {
        let result = try program.dray(arguments.map { Array($0.utf8) })
        #expect(
            result.status == status.rawValue, "\(arguments): \(result.text) \(result.error)",
            sourceLocation: location)
        #expect(result.output.isEmpty, "\(arguments)", sourceLocation: location)
        if status != .usage {
            #expect(result.error.hasPrefix("dray: "), sourceLocation: location)
            #expect(result.error.split(separator: "\n").count == 1, sourceLocation: location)
        }
        for word in words {
            #expect(
                result.error.contains(word), "\(word): \(result.error)", sourceLocation: location)
        }
    }

    // MARK: - Devices

    func device(_ rank: UInt32) -> LocalPath {
        EngineDirectory(cluster: program.cluster, rank: rank).device
    }

    /// Runs `body` while all engines are stopped.
    func whileStopped(_ body: () throws -> Void) throws {
        try expect("cluster", "stop")
        try body()
        try expect("cluster", "start")
    }

    /// Changes a bit of every place on an engine's device where `bytes` stand, or changes it back.
    /// Returns the number of places.
    @discardableResult
    func flip(_ bytes: [UInt8], onEngine rank: UInt32) throws -> Int {
        let file = try OpenFile(device(rank), O_RDWR)
        let map = mmap(
            nil, Self.deviceSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
            file.descriptor, 0)
        let base = try #require(map != MAP_FAILED ? map : nil)
        defer { munmap(base, Self.deviceSize) }
        var position = 0
        var count = 0
        // What stands behind the first half is changed, so that that is found again.
        let half = bytes.count / 2
        let last = Self.deviceSize - bytes.count
        while position <= last,
            let found = memchr(base + position, Int32(bytes[0]), last - position + 1)
        {
            position = found - base + 1
            guard memcmp(found, bytes, half) == 0 else { continue }
            (found + half + 1).assumingMemoryBound(to: UInt8.self).pointee ^= 4
            position += bytes.count - 1
            count += 1
        }
        return count
    }

    /// Copies an engine's device to `saved`.
    func save(_ rank: UInt32) throws {
        let (source, target) = (
            try OpenFile(device(rank), O_RDONLY), try OpenFile(saved, O_WRONLY | O_CREAT)
        )
        let buffer = IOBuffer(count: 1 << 20)
        for offset in stride(from: UInt64(0), to: UInt64(Self.deviceSize), by: buffer.count) {
            let range = 0..<buffer.count
            try #require(source.read(into: buffer, range: range, offset: offset) == buffer.count)
            guard !OpenFile.isZero(buffer, count: buffer.count) else { continue }
            try target.write(from: buffer, range: range, offset: offset)
        }
        try target.setSize(UInt64(Self.deviceSize))
    }

    /// Puts the copy in the place of an engine's device.
    func restore(_ rank: UInt32) throws {
        let renamed = saved.withCString { from in
            device(rank).withCString { Glibc.rename(from, $0) }
        }
        try #require(renamed == 0)
    }

    private var saved: LocalPath { program.directory.appending(Array("saved".utf8)) }
}

/// What `dray object` prints as JSON.
enum PrintedObject {
    struct Listed: Codable, Hashable {
        var id: String
        var objectClass: String
    }

    struct Target: Codable, Hashable {
        var rank: UInt32
        var target: UInt32

        var text: String { "\(rank).\(target)" }
    }

    struct Layout: Codable {
        var id: String
        var objectClass: String
        var groups: [Group]
    }

    struct Group: Codable {
        var group: Int
        var leader: Target
        var members: [Target]
    }

    struct Report: Codable {
        var objects: Int
        var groups: Int
        var replicas: Int
        var values: Int
        var bytes: Int
        var seconds: Double
        var differenceCount: Int
        var differences: [Difference]
    }

    struct Difference: Codable {
        var object: String
        var group: Int
        var dkey: String?
        var akey: String?
        var offset: Int?
        var length: Int?
        var replicas: [Replica]
    }

    struct Replica: Codable {
        var target: Target
        var state: String
        var bytes: Int?
        var epoch: UInt64?
        var checksum: UInt32?
    }
}
