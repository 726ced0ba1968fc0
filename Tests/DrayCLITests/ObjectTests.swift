import Testing

@testable import DrayCLI

/// `dray object list`, `layout`, `verify`, and arrays of records on real engines: what is intact,
/// what is wrong on the command line, and replicas that are damaged or differ.
@Suite(.serialized) struct ObjectTests {
    @Test func objectsOfRealEngines() throws {
        let cluster = try ReplicatedCluster()
        defer { try? cluster.program.end() }
        let listed = try cluster.json([PrintedObject.Listed].self, "object", "list", "tank/three")
        #expect(listed.map(\.objectClass) == ["RP_3G1"])
        let id = try #require(listed.first).id
        let members = try layout(cluster, id)
        try lists(cluster)
        try spread(cluster)
        try records(cluster)
        try verifications(cluster, id)
        try badArguments(cluster, id)
        try readOnly(cluster)
        try anEngineThatIsDown(cluster, id)
        try damage(cluster, id, members)
        try arrays(cluster)
        try anOldReplica(cluster, id, members)
    }

    private func lists(_ cluster: ReplicatedCluster) throws {
        let listed = try cluster.json([PrintedObject.Listed].self, "object", "list", "tank/two")
        // The superblock, two directories, and two files.
        #expect(listed.count == 5, "\(listed)")
        #expect(Set(listed.map(\.id)).count == listed.count)
        #expect(listed.allSatisfy { $0.objectClass == "RP_2G1" })
        let lines = listed.map { "\($0.id)  \($0.objectClass)\n" }
        #expect(try cluster.expect("object", "list", "tank/two") == lines.joined())
        // Page by page.
        var paged = try cluster.expect("object", "list", "tank/two", "--limit", "1")
        paged += try cluster.expect(
            "object", "list", "tank/two", "--limit", "2", "--after", listed[0].id)
        paged += try cluster.expect("object", "list", "tank/two", "--after", listed[2].id)
        #expect(paged == lines.joined())
        try cluster.expect("container", "create", "tank/empty")
        #expect(try cluster.expect("object", "list", "tank/empty") == "")
        #expect(
            try cluster.json([PrintedObject.Listed].self, "object", "list", "tank/empty") == [])
    }

    /// Arrays of records: written from standard input, read, counted.
    private func records(_ cluster: ReplicatedCluster) throws {
        try cluster.expect("container", "create", "tank/records")
        let created = try cluster.expect(
            "object", "create", "tank/records", "--class", "RP_2G1", "--dkeys", "integer")
        let id = try #require(created.split(separator: "\n").first.map(String.init))
        #expect(try cluster.expect("object", "list", "tank/records").isEmpty)
        let place = ["tank/records", id, "17", "a"]
        func dray(_ command: String, _ options: [String], input: [UInt8] = []) throws -> (
            status: Int32, output: [UInt8], error: String
        ) {
            let file = cluster.program.directory.appending(Array("input".utf8))
            try LocalFiles.replace(file, input)
            let result = try cluster.program.run(
                (["object", command] + place + options).map { Array($0.utf8) }
                    + [Array("--cluster".utf8), cluster.program.cluster.bytes],
                through: ["sh", "-c", "exec \"$0\" \"$@\" <\(file.text)"])
            return (result.status, result.output, result.error)
        }
        let bytes = (0..<48_000).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) }
        #expect(try dray("size", []).status == DrayCLI.ExitStatus.notFound.rawValue)
        #expect(try dray("read", []).status == DrayCLI.ExitStatus.notFound.rawValue)
        let written = try dray("write", ["--record-size", "24", "--at", "1"], input: bytes)
        #expect(written.status == 0, "\(written.error)")
        let size = try dray("size", [])
        #expect(size.output == Array("2001 records of 24 bytes\n".utf8), "\(size.error)")
        let json = try dray("size", ["--json"])
        #expect(
            try JSON.decode(ObjectCommand.ArraySize.Info.self, from: json.output, file: "output")
                == ObjectCommand.ArraySize.Info(records: 2001, recordSize: 24))
        let whole = [UInt8](repeating: 0, count: 24) + bytes
        #expect(try dray("read", []).output == whole)
        let some = try dray("read", ["--at", "2", "--count", "3", "--record-size", "24"])
        #expect(some.output == Array(whole[48..<120]))
        for (command, options) in [
            ("write", []), ("write", ["--record-size", "8"]), ("read", ["--record-size", "8"]),
        ] as [(String, [String])] {
            let refused = try dray(command, options, input: Array(bytes[..<48]))
            #expect(refused.status != 0 && refused.output.isEmpty)
            #expect(refused.error.contains("the array has records of 24 bytes"), "\(refused.error)")
        }
        let odd = try dray("write", ["--record-size", "24"], input: [1, 2, 3])
        #expect(odd.status != 0 && odd.error.contains("whole records of 24 bytes"), "\(odd.error)")
        for bad in ["0", "5GiB", "x"] {
            let result = try dray("write", ["--record-size", bad])
            #expect(result.status == DrayCLI.ExitStatus.usage.rawValue, "\(bad)")
        }
        #expect(try dray("read", []).output == whole)
        let listed = try cluster.json([PrintedObject.Listed].self, "object", "list", "tank/records")
        #expect(listed.map(\.id) == [id] && listed.map(\.objectClass) == ["RP_2G1"])
        #expect(try cluster.expect("object", "keys", "tank/records", id) == "17\n")
    }

    private func layout(
        _ cluster: ReplicatedCluster, _ id: String
    ) throws -> [PrintedObject.Target] {
        let layout = try cluster.json(
            PrintedObject.Layout.self, "object", "layout", "tank/three", id)
        #expect(layout.id == id)
        #expect(layout.objectClass == "RP_3G1")
        let group = try #require(layout.groups.first)
        #expect(layout.groups.count == 1 && group.group == 0)
        #expect(group.members.first == group.leader)
        #expect(Set(group.members.map(\.rank)) == [0, 1, 2])
        let members = group.members.map(\.text).joined(separator: " ")
        #expect(
            try cluster.expect("object", "layout", "tank/three", id)
                == "GROUP  LEADER  MEMBERS\n    0  \(group.leader.text)     \(members)\n")
        return group.members
    }

    /// An object without replicas, on all targets.
    private func spread(_ cluster: ReplicatedCluster) throws {
        let listed = try cluster.expect("object", "list", "tank/plain")
        let id = String(try #require(listed.split(separator: " ").first))
        #expect(listed == "\(id)  SX\n")
        let layout = try cluster.json(
            PrintedObject.Layout.self, "object", "layout", "tank/plain", id)
        #expect(layout.groups.map(\.group) == [0, 1, 2])
        #expect(Set(layout.groups.map(\.leader.rank)) == [0, 1, 2])
        let one = try cluster.json(
            PrintedObject.Layout.self, "object", "layout", "tank/plain", id, "--dkey", "key")
        let place = try #require(one.groups.first)
        #expect(one.groups.count == 1)
        #expect(layout.groups[place.group].leader == place.leader)
        let report = try cluster.json(PrintedObject.Report.self, "object", "verify", "tank/plain")
        #expect(report.groups == 3 && report.replicas == 3 && report.values == 1)
    }

    private func verifications(_ cluster: ReplicatedCluster, _ id: String) throws {
        let bytes = ReplicatedCluster.keys.reduce(0) { $0 + ReplicatedCluster.value($1).count }
        let report = try cluster.json(
            PrintedObject.Report.self, "object", "verify", "tank/three", id)
        #expect(report.objects == 1 && report.groups == 1 && report.replicas == 3)
        #expect(report.values == 3 && report.bytes == bytes)
        #expect(report.differenceCount == 0 && report.differences.isEmpty)
        let text = try cluster.program.dray("object", "verify", "tank/three")
        #expect(text.status == 0)
        #expect(text.text.hasPrefix("compared 3 replicas of 1 groups of 1 object: 3 values, "))
        #expect(text.text.hasSuffix(", all equal\n"))
        #expect(text.text.split(separator: "\n").count == 1)
        let quiet = try cluster.program.dray("object", "verify", "tank/three", "--quiet")
        #expect(quiet.status == 0 && quiet.output.isEmpty && quiet.error.isEmpty)
        let files = try cluster.json(PrintedObject.Report.self, "object", "verify", "tank/two")
        #expect(files.objects == 5 && files.replicas == 10 && files.differenceCount == 0)
        #expect(files.bytes > 2 * ReplicatedCluster.file.count)
    }

    private func badArguments(_ cluster: ReplicatedCluster, _ id: String) throws {
        for command in ["list", "layout", "verify"] {
            let object = command == "list" ? [] : [id]
            try cluster.expectRefusal(
                ["object", command, "none/three"] + object, .notFound, ["no pool 'none'"])
            try cluster.expectRefusal(
                ["object", command, "tank/none"] + object, .notFound, ["no container 'none'"])
        }
        for (arguments, word) in [
            (["list", "tank"], "tank"), (["list", "tank/three", "--after", "5"], "--after"),
            (["list", "tank/three", "--limit", "0"], "--limit"),
            (["layout", "tank/three"], "object"), (["layout", "tank/three", "5.g"], "5.g"),
            (["verify"], "container"), (["verify", "tank/three", "5"], "'5'"),
        ] {
            try cluster.expectRefusal(["object"] + arguments, .usage, [word])
        }
        // An id that no pool of three engines gives.
        for command in ["layout", "verify"] {
            try cluster.expectRefusal(
                ["object", command, "tank/three", "1.1"], .failure, ["object 1.1", "not made for"])
        }
        // One that could be, but has nothing.
        let high = try #require(id.split(separator: ".").first)
        try cluster.expectRefusal(
            ["object", "verify", "tank/three", "\(high).abc"], .notFound,
            ["object \(high).abc", "dray object list tank/three"])
    }

    private func readOnly(_ cluster: ReplicatedCluster) throws {
        for change in [
            ["kv", "put", "tank/three", "key0", "5"], ["kv", "remove", "tank/three", "key0"],
            ["fs", "mkdir", "tank/two:/new"], ["fs", "rm", "tank/two:/tree/a"],
        ] {
            try cluster.expectRefusal(
                change + ["--read-only"], .failure, ["opened for reading only"])
        }
        #expect(
            try cluster.expect("kv", "get", "tank/three", "key0") == ReplicatedCluster.value("key0")
        )
        #expect(try cluster.expect("fs", "ls", "tank/two:/tree") == "a\nb\n")
    }

    /// An engine that does not answer is named: what it has is not known.
    private func anEngineThatIsDown(_ cluster: ReplicatedCluster, _ id: String) throws {
        let home = EngineDirectory(cluster: cluster.program.cluster, rank: 1)
        let process = try #require(EngineProcess.read(home.process))
        try process.signal(9)
        let words = ["engine 1 does not answer", "dray cluster status"]
        for arguments in [
            ["list", "tank/three"], ["verify", "tank/three"], ["verify", "tank/three", id],
        ] {
            // Reading the metadata takes a third of a second while an engine is silent.
            try cluster.expectRefusal(
                ["object"] + arguments + ["--timeout", "2s"], .unavailable, words)
        }
        // Where the members are is known all the same.
        try cluster.expect("object", "layout", "tank/three", id)
        try cluster.expect("cluster", "start")
        try cluster.expect("object", "verify", "tank/three")
    }

    // MARK: - What differs

    /// One value is damaged at the leader, another at the last member.
    private func damage(
        _ cluster: ReplicatedCluster, _ id: String, _ members: [PrintedObject.Target]
    ) throws {
        let damaged = [("key0", members[0]), ("key2", members[2])]
        func flip() throws {
            for (key, target) in damaged {
                let value = Array(ReplicatedCluster.value(key).utf8)
                #expect(try cluster.flip(value, onEngine: target.rank) > 0, "\(key)")
            }
        }
        try cluster.whileStopped(flip)
        for object in [nil, id] {
            let result = try cluster.program.dray(
                (["object", "verify", "tank/three"] + [object].compactMap { $0 })
                    .map { Array($0.utf8) })
            #expect(result.status == 8)
            let lines = result.text.split(separator: "\n")
            #expect(lines.count == 3, "\(result.text)")
            for ((key, target), line) in zip(damaged, lines) {
                #expect(line.hasPrefix("object \(id) group 0: dkey \(key) akey value: "))
                #expect(line.contains("\(target.text) is damaged (5000 bytes of epoch "))
                for other in members where other != target {
                    #expect(line.contains("\(other.text) has 5000 bytes of epoch "))
                }
            }
            #expect(lines.last?.hasSuffix(", 2 differ") == true)
        }
        let report = try cluster.json(
            PrintedObject.Report.self, status: .different, "object", "verify", "tank/three")
        #expect(report.differenceCount == 2 && report.values == 3)
        for ((key, target), difference) in zip(damaged, report.differences) {
            #expect(difference.object == id && difference.group == 0)
            #expect(difference.dkey == key && difference.akey == "value")
            #expect(difference.offset == nil)
            #expect(difference.replicas.map(\.target) == members)
            for replica in difference.replicas {
                #expect(replica.state == (replica.target == target ? "corrupt" : "present"))
                #expect((replica.checksum == nil) == (replica.target == target))
                #expect(replica.bytes == 5000 && replica.epoch ?? 0 > 0)
            }
            // Another replica answers.
            #expect(
                try cluster.expect("kv", "get", "tank/three", key) == ReplicatedCluster.value(key))
        }
        try cluster.whileStopped(flip)
        try cluster.expect("object", "verify", "tank/three")
    }

    /// Files have two replicas: one engine has damaged what it has of them.
    private func arrays(_ cluster: ReplicatedCluster) throws {
        var rank: UInt32 = 0
        try cluster.whileStopped {
            // Of three engines, two have the first file.
            if try cluster.flip(ReplicatedCluster.file, onEngine: 0) == 0 {
                rank = 1
                #expect(try cluster.flip(ReplicatedCluster.file, onEngine: 1) > 0)
            }
        }
        let report = try cluster.json(
            PrintedObject.Report.self, status: .different, "object", "verify", "tank/two")
        #expect(report.differences.count > 0)
        for difference in report.differences {
            #expect(difference.offset == 0 && difference.length == ReplicatedCluster.file.count)
            let corrupt = difference.replicas.filter { $0.state == "corrupt" }
            #expect(corrupt.map(\.target.rank) == [rank])
        }
        let text = try cluster.program.dray("object", "verify", "tank/two", "--quiet")
        #expect(text.status == 8)
        #expect(text.text.split(separator: "\n").count == report.differences.count)
        #expect(text.text.contains(" bytes 0..<10000: "))
        #expect(text.text.contains("\(rank).0 is damaged (10000 bytes of epoch "))
        try cluster.whileStopped { try cluster.flip(ReplicatedCluster.file, onEngine: rank) }
        try cluster.expect("object", "verify", "tank/two")
    }

    /// A member has the device that it had before some changes.
    private func anOldReplica(
        _ cluster: ReplicatedCluster, _ id: String, _ members: [PrintedObject.Target]
    ) throws {
        let old = members[1]
        try cluster.whileStopped { try cluster.save(old.rank) }
        try cluster.expect("kv", "put", "tank/three", "key0", "changed")
        try cluster.expect("kv", "remove", "tank/three", "key1")
        try cluster.expect("kv", "put", "tank/three", "new", "4")
        try cluster.expect("object", "verify", "tank/three")
        try cluster.whileStopped { try cluster.restore(old.rank) }
        let report = try cluster.json(
            PrintedObject.Report.self, status: .different, "object", "verify", "tank/three")
        #expect(report.differences.map(\.dkey) == ["key0", "key1", "new"])
        try #require(report.differences.count == 3)
        for difference in report.differences {
            #expect(difference.replicas.map(\.target) == members)
        }
        func states(_ index: Int) -> [String] { report.differences[index].replicas.map(\.state) }
        #expect(report.differences[0].replicas.map(\.bytes) == [7, 5000, 7])
        let epochs = report.differences[0].replicas.compactMap(\.epoch)
        #expect(epochs.count == 3 && epochs[0] == epochs[2] && epochs[1] < epochs[0])
        #expect(states(1) == ["missing", "present", "missing"])
        #expect(states(2) == ["present", "missing", "present"])
        let text = try cluster.program.dray("object", "verify", "tank/three", id)
        #expect(text.status == 8)
        let lines = text.text.split(separator: "\n")
        try #require(lines.count == 4)
        #expect(lines[1].hasPrefix("object \(id) group 0: dkey key1 akey value: "))
        #expect(lines[1].contains("\(members[0].text) lacks it, \(old.text) has 5000 bytes of "))
        #expect(lines[2].contains("\(old.text) lacks it"))
        #expect(lines[3].hasSuffix(", 3 differ"))
    }
}
