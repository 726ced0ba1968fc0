import Dray
import DrayRuntime
import Glibc
import Testing

@testable import DrayCLI

/// Nothing that was acknowledged is lost when any or all processes get SIGKILL at any moment.
///
/// Real engines on real devices, under load from one client that lives on and from uploads in
/// processes of their own. DRAY_TEST_KILL_SEED and DRAY_TEST_KILL_ROUNDS choose another history,
/// or a longer one.
@Suite(.serialized) struct KillTests {
    static let seed = number("DRAY_TEST_KILL_SEED") ?? 1
    static let rounds = number("DRAY_TEST_KILL_ROUNDS") ?? 8
    static let writers = 6
    /// Some calls outlive a restart, some do not.
    static let operationTimeout: Duration = .seconds(2)

    static func number(_ variable: String) -> UInt64? {
        getenv(variable).flatMap { UInt64(String(cString: $0)) }
    }

    /// What one round does.
    struct Round {
        enum Victim: CaseIterable { case first, second, both, client }

        var victim: Victim
        /// Load before the kill, and the time without the engines, in microseconds.
        var load: UInt32
        var pause: UInt32
        /// Kills once more so long after the start.
        var again: UInt32?

        init(_ number: UInt64, _ entropy: inout Entropy) {
            let all = Victim.allCases
            victim =
                number < all.count ? all[Int(number)] : all[Int(entropy.below(UInt64(all.count)))]
            load = 200_000 + UInt32(entropy.below(900_000))
            pause = UInt32(entropy.below(entropy.chance(1, in: 5) ? 2_500_000 : 200_000))
            again = entropy.chance(1, in: 3) ? UInt32(entropy.below(400_000)) : nil
        }

        var ranks: [Int] {
            switch victim {
            case .first: [0]
            case .second: [1]
            case .both: [0, 1]
            case .client: []
            }
        }
    }

    @Test(.timeLimit(.minutes(10))) func nothingAcknowledgedIsLost() throws {
        var entropy = Entropy(seed: KillTests.seed).fork("kills")
        let cluster = try KillCluster()
        defer { try? cluster.end() }
        let tree = try UploadTree(cluster.directory.appending(Array("tree".utf8)))
        for rank in 0..<KillCluster.engineCount { try cluster.start(rank) }
        try cluster.waitUntilServing()
        let client = try cluster.connect(timeout: KillTests.operationTimeout)
        let seed = KillTests.seed
        let load = try cluster.blocking(seconds: 30, "set-up") {
            let pool = try await client.createPool(label: "tank", size: 2 << 30 - 256 << 20)
            _ = try await pool.createContainer(label: "files")
            return await KillLoad(
                client, try await pool.createContainer(label: "keys"),
                writers: KillTests.writers, entropy: Entropy(seed: seed))
        }
        var total = KillWriter.Tally()
        var kills = 0
        for number in 0..<KillTests.rounds {
            let round = Round(number, &entropy)
            load.begin()
            let upload = try Upload(cluster, tree, number: number)
            usleep(round.load)
            kills += try kill(round, in: cluster, upload)
            try load.finish(seconds: 30)
            let tally = try cluster.blocking(seconds: 60, "check") { try await load.check() }
            #expect(tally.problems.isEmpty, "seed \(seed) round \(number): \(round)")
            for problem in tally.problems { Issue.record("\(problem)") }
            try upload.check(wasKilled: round.victim == .client)
            total += tally
            guard tally.problems.isEmpty else { break }
        }
        print(
            "kills: seed \(seed), \(KillTests.rounds) rounds, \(kills) processes killed, "
                + "\(total.acknowledged) changes acknowledged (\(total.removed) removals, "
                + "\(total.toBlocks) to blocks), \(total.uncertain) without an answer, "
                + "\(total.refused) refused, \(total.checked) values compared")
        #expect(kills >= Int(KillTests.rounds))
        #expect(total.acknowledged >= 25 * Int(KillTests.rounds))
        #expect(total.toBlocks >= 4 * Int(KillTests.rounds))
        #expect(total.removed > 0 && total.refused > 0)
    }

    /// Kills, and brings everything back. How many processes were killed.
    private func kill(_ round: Round, in cluster: KillCluster, _ upload: Upload) throws -> Int {
        if round.victim == .client {
            try upload.killInTheMiddle()
            return 1
        }
        func killEngines() throws {
            if round.victim == .both {
                try cluster.killAll()
            } else {
                for rank in round.ranks { try cluster.kill(rank) }
            }
        }
        var kills = round.ranks.count
        try killEngines()
        usleep(round.pause)
        for rank in round.ranks { try cluster.start(rank) }
        if let again = round.again {
            usleep(again)
            try killEngines()
            kills += round.ranks.count
            for rank in round.ranks { try cluster.start(rank) }
        }
        try cluster.waitUntilServing()
        return kills
    }
}

/// Files that are uploaded again and again.
struct UploadTree {
    let path: LocalPath
    /// Files and directories below `path`.
    let entryCount: Int

    static let directories = 6
    static let filesPerDirectory = 12

    init(_ path: LocalPath) throws {
        self.path = path
        var entropy = Entropy(seed: 9)
        try LocalFiles.makeDirectory(path, mode: 0o755)
        for number in 0..<UploadTree.directories {
            let directory = path.appending(Array("directory \(number)".utf8))
            try LocalFiles.makeDirectory(directory, mode: 0o755)
            for file in 0..<UploadTree.filesPerDirectory {
                let size = Int(entropy.below(file == 0 ? 3_000_000 : 30_000))
                var bytes = [UInt8](repeating: UInt8(number), count: size)
                for index in stride(from: 0, to: size, by: 61) {
                    bytes[index] = UInt8(truncatingIfNeeded: index >> 6 &+ file)
                }
                try LocalFiles.replace(
                    directory.appending(Array("file \(file)".utf8)), bytes)
            }
        }
        entryCount = UploadTree.directories * (1 + UploadTree.filesPerDirectory)
    }
}

/// `dray fs put` in a process of its own, and what it said was stored.
private struct Upload {
    let cluster: KillCluster
    let tree: UploadTree
    let destination: [UInt8]
    let list: LocalPath
    let log: LocalPath
    let process: GuardedProcess

    init(_ cluster: KillCluster, _ tree: UploadTree, number: UInt64) throws {
        self.cluster = cluster
        self.tree = tree
        destination = Array("tank/files:/upload-\(number)".utf8)
        list = cluster.directory.appending(Array("acknowledged-\(number)".utf8))
        log = cluster.directory.appending(Array("log-\(number)".utf8))
        process = try cluster.dray(
            ["fs", "put"].map { Array($0.utf8) } + [tree.path.bytes, destination]
                + [Array("--acknowledged".utf8), list.bytes]
                + ["--timeout", "25s"].map { Array($0.utf8) }, log: log)
    }

    private var acknowledged: Int {
        (try? LocalFiles.read(list))?.count { $0 == 0 } ?? 0
    }

    /// Kills the client once a part of the tree is acknowledged.
    func killInTheMiddle() throws {
        for _ in 0..<10_000 {
            if acknowledged >= tree.entryCount / 4 || process.exitStatus != nil { break }
            usleep(1000)
        }
        try process.kill()
    }

    /// Compares everything that was acknowledged.
    func check(wasKilled: Bool) throws {
        let status = try process.wait(seconds: 40)
        if !wasKilled {
            #expect(status == 0, "\(text(log))")
            #expect(acknowledged == tree.entryCount)
        }
        let output = cluster.directory.appending(Array("comparison".utf8))
        try? LocalFiles.remove(output)
        let comparison = try cluster.dray(
            ["fs", "compare"].map { Array($0.utf8) } + [tree.path.bytes, destination]
                + [Array("--only".utf8), list.bytes], log: output)
        #expect(try comparison.wait(seconds: 40) == 0, "\(text(output))")
    }

    private func text(_ path: LocalPath) -> String {
        String(decoding: (try? LocalFiles.read(path)) ?? [], as: UTF8.self)
    }
}
