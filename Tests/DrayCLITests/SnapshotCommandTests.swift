import DrayPlacement
import DrayRuntime
import Testing

@testable import DrayCLI

/// `dray container snapshot`, `--snapshot`, `--epoch` and lists of keys, on real engines.
@Suite struct SnapshotCommandTests {
    private struct Listed: Codable, Equatable {
        var epoch: UInt64
        var label: String
        var time: String
    }

    @Test func snapshotsOfRealEngines() throws {
        let cluster = try ReplicatedCluster()
        defer { try? cluster.program.end() }
        try values(cluster)
        try files(cluster)
        try lists(cluster)
        try refusals(cluster)
    }

    private func values(_ cluster: ReplicatedCluster) throws {
        let made = try cluster.json(
            Listed.self, "container", "snapshot", "create", "tank/three", "monday")
        #expect(made.label == "monday")
        try cluster.expect("kv", "put", "tank/three", "key0", "new")
        try cluster.expect("kv", "remove", "tank/three", "key1")
        let epoch = try cluster.expect("container", "snapshot", "create", "tank/three")
        let second = try #require(UInt64(epoch.dropLast()))
        #expect(second > made.epoch)
        try cluster.expect("kv", "put", "tank/three", "key0", "newer")

        let old = ReplicatedCluster.value("key0")
        let objects = try cluster.expect("object", "list", "tank/three")
        for (snapshot, value, keys) in [
            ("monday", old, "key0\nkey1\nkey2\n"), ("\(made.epoch)", old, "key0\nkey1\nkey2\n"),
            ("\(second)", "new", "key0\nkey2\n"),
        ] {
            #expect(
                try cluster.expect("kv", "get", "tank/three", "key0", "--snapshot", snapshot)
                    == value)
            #expect(try cluster.expect("kv", "list", "tank/three", "--snapshot", snapshot) == keys)
            #expect(
                try cluster.expect("object", "list", "tank/three", "--snapshot", snapshot)
                    == objects)
            try cluster.expect("object", "verify", "tank/three", "--snapshot", snapshot)
        }
        #expect(try cluster.expect("kv", "get", "tank/three", "key0") == "newer")
        #expect(
            try cluster.expect("kv", "get", "tank/three", "key0", "--epoch", "\(second)") == "new")
        // They outlive the engines.
        try cluster.whileStopped {}
        let listed = try cluster.json(
            [Listed].self, "container", "snapshot", "list", "tank/three")
        #expect(listed.map(\.epoch) == [made.epoch, second])
        #expect(listed.first == made)
        let table = try cluster.expect("container", "snapshot", "list", "tank/three")
        #expect(table.contains("\(second)  \(listed[1].time)"), "\(table)")
        #expect(
            try cluster.expect("kv", "get", "tank/three", "key0", "--snapshot", "monday") == old)

        try cluster.expect("container", "snapshot", "destroy", "tank/three", "\(second)")
        try cluster.expectRefusal(
            ["kv", "get", "tank/three", "key0", "--snapshot", "\(second)"], .notFound,
            ["snapshot \(second)", "dray container snapshot list tank/three"])
        try cluster.expectRefusal(
            ["container", "snapshot", "create", "tank/three", "monday"], .exists, ["label"])
        try cluster.expect("container", "snapshot", "destroy", "tank/three", "monday")
        #expect(
            try cluster.json([Listed].self, "container", "snapshot", "list", "tank/three") == [])
    }

    private func files(_ cluster: ReplicatedCluster) throws {
        try cluster.expect("container", "snapshot", "create", "tank/two", "before")
        try cluster.expect("fs", "rm", "tank/two:/tree/a")
        #expect(try cluster.expect("fs", "ls", "tank/two:/tree") == "b\n")
        #expect(
            try cluster.expect("fs", "ls", "tank/two:/tree", "--snapshot", "before") == "a\nb\n")
        let read = try cluster.program.dray(
            "fs", "cat", "tank/two:/tree/a", "--snapshot", "before")
        #expect(read.status == 0 && read.output == ReplicatedCluster.file, "\(read.error)")
        let tree = cluster.program.directory.appending(Array("tree".utf8)).text
        try cluster.expect("fs", "compare", tree, "tank/two:/tree", "--snapshot", "before")
        let copy = cluster.program.directory.appending(Array("copy".utf8)).text
        try cluster.expect("fs", "get", "tank/two:/tree", copy, "--snapshot", "before")
        try cluster.expect("fs", "compare", copy, "tank/two:/tree", "--snapshot", "before")
    }

    private func lists(_ cluster: ReplicatedCluster) throws {
        for key in ["a", "b1", "b2", "b3", "c"] {
            try cluster.expect("kv", "put", "tank/plain", key, "1")
        }
        for (arguments, expected) in [
            (["--prefix", "b"], "b1 b2 b3"), (["--prefix", "b", "--reverse"], "b3 b2 b1"),
            (["--from", "b2"], "b2 b3 c key"), (["--before", "b2"], "a b1"),
            (["--from", "b", "--before", "b3", "--reverse"], "b2 b1"),
            (["--prefix", "b", "--from", "b2"], "b2 b3"),
            (["--reverse", "--after", "b2", "--limit", "1"], "b1"), (["--prefix", "x"], ""),
        ] {
            let result = try cluster.program.dray(
                (["kv", "list", "tank/plain"] + arguments).map { Array($0.utf8) })
            #expect(result.status == 0, "\(result.error)")
            let keys = result.text.split(separator: "\n").joined(separator: " ")
            #expect(keys == expected, "\(arguments)")
        }
        let id = try #require(
            try cluster.json([PrintedObject.Listed].self, "object", "list", "tank/plain").first
        ).id
        #expect(
            try cluster.expect("object", "keys", "tank/plain", id, "--prefix", "b", "--reverse")
                == "b3\nb2\nb1\n")
        #expect(
            try cluster.expect("object", "keys", "tank/plain", id, "--dkey", "a") == "value\n")
        // An object that nobody has written to, with integers for keys.
        let integers = try #require(
            ObjectID(
                objectClass: .s1, keys: KeyTypes(dkey: .integer),
                in: PoolMap(version: 1, engines: [.init(rank: 0, targetCount: 1)]),
                random: (1, 2)))
        #expect(
            try cluster.expect(
                "object", "keys", "tank/plain", "\(integers)", "--from", "10", "--before", "20")
                == "")
        try cluster.expectRefusal(
            ["object", "keys", "tank/plain", "\(integers)", "--from", "ten"], .usage,
            ["integers"])
    }

    private func refusals(_ cluster: ReplicatedCluster) throws {
        for (arguments, status, words) in [
            (
                ["kv", "get", "tank/three", "key0", "--epoch", "\(UInt64.max / 2)"], .failure,
                ["future"]
            ),
            (["kv", "get", "tank/three", "key0", "--snapshot", "no"], .notFound, ["no"]),
            (["container", "snapshot", "create", "tank/no"], .notFound, ["tank/no"]),
            (["container", "snapshot", "create", "tank/three", "a/b"], .failure, ["label"]),
            (["container", "snapshot", "destroy", "tank/three", "no"], .notFound, ["no"]),
        ] as [([String], DrayCLI.ExitStatus, [String])] {
            try cluster.expectRefusal(arguments, status, words)
        }
        let both = try cluster.program.dray(
            "kv", "get", "tank/three", "key0", "--snapshot", "a", "--epoch", "7")
        #expect(both.status == DrayCLI.ExitStatus.usage.rawValue)
    }
}
