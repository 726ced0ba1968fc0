import DrayRuntime
import Foundation
import Testing

@testable import DrayCLI

/// An engine in a process of its own, on devices that are files, with all its settings as flags.
struct OneEngine {
    static let cluster = "7d1f0a52-2c3b-4d8e-9f60-a1b2c3d4e5f8"

    let program: Program
    /// Its devices, which are empty at first.
    let paths: [String]
    let address: String
    /// Its settings, but for those that name devices.
    let settings: [String]

    init(targets: Int, devices: [String] = ["device"], deviceSize: Int = 256 << 20) throws {
        program = try Program()
        paths = OneEngine.makeFiles(program, devices, size: deviceSize)
        // Other ports than those of an engine that another test looks for now.
        let seed = program.directory.bytes.reduce(0 as UInt64) { $0 &* 31 &+ UInt64($1) }
        var entropy = Entropy(seed: seed)
        let port = try FreePorts.find(
            targets + 2, at: "127.0.0.1", taken: [], using: &entropy)
        address = "ofi+tcp://127.0.0.1:\(port)"
        settings = ["--cluster-id", Self.cluster, "--engines", "0=\(address)*\(targets)"]
    }

    /// Files without content, for devices.
    static func makeFiles(_ program: Program, _ names: [String], size: Int) -> [String] {
        let paths = names.map { program.directory.text + "/" + $0 }
        for path in paths {
            #expect(FileManager.default.createFile(atPath: path, contents: nil))
            #expect(truncate(path, size) == 0)
        }
        return paths
    }

    /// Removes its devices.
    func end() { Program.remove(program.directory) }

    /// The settings that name its devices, all of them as data devices.
    var devices: [String] { paths.flatMap { ["--device", $0] } }

    var log: LocalPath { program.directory.appending(Array("log".utf8)) }

    func startArguments(_ devices: [String]) -> [[UInt8]] {
        (["engine", "start"] + settings + devices).map { Array($0.utf8) }
    }

    /// A process that runs the engine with these settings of devices, and others.
    func start(_ devices: [String]) throws -> GuardedProcess {
        try GuardedProcess(Program.path(), startArguments(devices), log: log)
    }

    /// Formats its devices, which are data devices, and starts it.
    func formatAndStart() throws -> GuardedProcess {
        let made = try dray(["storage", "format"] + devices + settings)
        #expect(made.status == 0, "\(made.error)")
        return try start(devices)
    }

    func dray(_ arguments: [String]) throws -> Program.Result {
        try program.run(arguments.map { Array($0.utf8) })
    }

    /// A command that asks the engine.
    func ask(_ arguments: [String]) throws -> Program.Result {
        try dray(arguments + ["--cluster", address])
    }

    func ask(_ arguments: String...) throws -> Program.Result { try ask(arguments) }

    /// Makes the container tank/box with these values.
    func makeContainer(
        poolSize: String = "64MiB", options: [String] = [], _ values: [(String, String)] = []
    ) throws {
        let commands =
            [
                ["pool", "create", "tank", "--size", poolSize],
                ["container", "create", "tank/box"] + options,
            ] + values.map { ["kv", "put", "tank/box", $0, $1] }
        for command in commands {
            let result = try ask(command)
            #expect(result.status == 0, "\(result.error)")
        }
    }

    /// One that stays in the index, and one that goes to blocks.
    static let values = [
        ("small", "of few bytes"), ("large", String(repeating: "many ", count: 9999)),
    ]
}
