internal import DrayEngine
internal import DrayProtocol
internal import DrayRuntime
internal import Glibc

/// `cluster.json` in a cluster's directory: what a client needs to reach the engines, and what
/// `dray cluster start` needs to start them again. Version 1.
struct ClusterFile: Codable, Hashable, Sendable {
    var version = 1
    /// The cluster's identity, stamped on every device.
    var id: String
    var engines: [Engine]

    struct Engine: Codable, Hashable, Sendable {
        var rank: UInt32
        /// Of the system context; those of the targets follow from it.
        var address: String
        /// Those on further networks of the engine.
        var secondary: [String]?
        var targets: Int
        /// Device files; nil for one.
        var devices: Int?
        /// Bytes of each device file.
        var deviceSize: UInt64

        var deviceCount: Int { devices ?? 1 }

        var addresses: [String] { [address] + (secondary ?? []) }
    }

    static let currentVersion = 1
    static let name = Array("cluster.json".utf8)

    /// Reads the file of the cluster in `directory`.
    static func read(_ directory: LocalPath) throws(CommandFailure) -> ClusterFile {
        let path = directory.appending(name)
        let bytes: [UInt8]
        do throws(Errno) {
            bytes = try LocalFiles.read(path)
        } catch {
            guard error.code == ENOENT else { throw CommandFailure(path.text, error.text) }
            throw CommandFailure(
                .notFound, directory.text, "there is no cluster",
                advice: "'dray cluster start' makes one; --cluster or DRAY_CLUSTER names another")
        }
        let file = try JSON.decode(ClusterFile.self, from: bytes, file: path.text)
        try file.check(path.text)
        return file
    }

    /// Writes the file; a reader sees the old one or the new one.
    func write(_ directory: LocalPath) throws(CommandFailure) {
        let path = directory.appending(ClusterFile.name)
        let text = try JSON.text(self)
        do throws(Errno) {
            try LocalFiles.replace(path, Array((text + "\n").utf8))
        } catch {
            throw CommandFailure(path.text, error.text)
        }
    }

    private func check(_ what: String) throws(CommandFailure) {
        guard version == ClusterFile.currentVersion else {
            throw CommandFailure(
                what, "has version \(version), this program reads \(ClusterFile.currentVersion)",
                advice: "use the program that made it")
        }
        guard UniqueID(id) != nil, !engines.isEmpty,
            Set(engines.map(\.rank)).count == engines.count,
            engines.allSatisfy({
                (1...EngineConfiguration.targetsMax).contains($0.targets)
                    && (1...$0.targets).contains($0.deviceCount)
            })
        else {
            throw CommandFailure(
                what, "is damaged", advice: "restore the file or choose another directory")
        }
    }

    /// The engines as the engine's configuration and the protocol want them.
    var records: [EngineRecord] {
        engines.map { engine in
            EngineConfiguration.record(
                rank: engine.rank, bases: engine.addresses, targetCount: engine.targets)
        }
    }

    /// Where clients find the engines: first all addresses on the first network.
    var addresses: [String] {
        engines.map(\.address) + engines.flatMap { $0.secondary ?? [] }
    }
}
