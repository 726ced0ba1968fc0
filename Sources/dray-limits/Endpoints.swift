internal import ArgumentParser
internal import CaRT
internal import DrayFabric
internal import DrayRuntime
internal import Foundation

/// Memory of many contexts that talk to many endpoints.
struct Endpoints: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Measure a process with many contexts that talks to many endpoints.",
        discussion: """
            Another process serves with as many contexts as are needed, so that every pair of \
            contexts has a connection of its own.
            """)

    @Option(help: "Where to listen.")
    var provider = "ofi+tcp"

    @Option(help: "Contexts of the process, each on a thread of its own.")
    var contexts = 64

    @Option(help: "Connections to other endpoints, of all contexts together.")
    var endpoints = 10_000

    @Option(help: "The most MiB that may be resident.")
    var limit = 256.0

    func validate() throws {
        guard contexts > 0, endpoints >= contexts else {
            throw ValidationError("--endpoints is at least --contexts, and that at least 1")
        }
    }

    func run() async throws {
        raiseDescriptorLimit()
        let peers = (endpoints + contexts - 1) / contexts
        let server = try ServerProcess(provider: provider, contexts: peers)
        defer { server.end() }
        let addresses = server.addresses
        let world = World.libfabric()
        let group = ContextGroup()
        for index in 0..<contexts {
            try await group.add(world, provider, name: "context-\(index)")
        }
        let idle = residentKibibytes() / 1024
        let calls = try await group.callAll(addresses)
        let resident = residentKibibytes() / 1024
        await group.close()
        try Finding.report([
            Finding(
                what: "\(provider), \(contexts) contexts that have called \(calls) endpoints "
                    + "(\(Int(idle)) MiB before)",
                found: resident, limit: limit, unit: "MiB")
        ])
    }
}

/// The other process: serves until its standard input ends.
struct Serve: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Be the other process of 'endpoints'.", shouldDisplay: false)

    @Option var provider = "ofi+tcp"
    @Option var contexts = 1

    func run() async throws {
        raiseDescriptorLimit()
        let world = World.libfabric()
        let group = ContextGroup()
        for index in 0..<contexts {
            let line = try await group.add(world, provider, name: "server-\(index)") + "\n"
            try FileHandle.standardOutput.write(contentsOf: Data(line.utf8))
        }
        while readLine() != nil {}
        await group.close()
    }
}

/// Contexts, each on an xstream of its own.
actor ContextGroup {
    private var members: [XStreamBound<Context>] = []

    /// Makes a context that answers questions; returns its address.
    @discardableResult
    func add(_ world: World, _ provider: String, name: String) async throws -> String {
        let xstream = world.makeXStream(name: name)
        let context = try await xstream.run { () throws -> XStreamBound<Context> in
            let context = try Context(
                world: world, xstream: xstream, address: provider,
                options: ContextOptions(world: world))
            context.registerSynchronous(Question.atOnce) { question, _ in question }
            return XStreamBound(context, to: xstream)
        }
        members.append(context)
        return await xstream.run { "\(context.value.address)" }
    }

    /// Every context calls every address; returns how many calls that were.
    func callAll(_ addresses: [FabricAddress]) async throws -> Int {
        for context in members {
            try await context.xstream.run { () async throws in
                for address in addresses {
                    _ = try await context.value.call(
                        Question.atOnce, Question(), to: .address(address))
                }
            }
        }
        return members.count * addresses.count
    }

    func close() async {
        for context in members {
            await context.xstream.run { await context.value.close() }
            context.xstream.stop()
        }
    }
}

/// This program once more, as the server.
struct ServerProcess {
    private let process = Process()
    private let input = Pipe()
    let addresses: [FabricAddress]

    init(provider: String, contexts: Int) throws {
        process.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        process.arguments = ["serve", "--provider", provider, "--contexts", "\(contexts)"]
        let output = Pipe()
        process.standardInput = input
        process.standardOutput = output
        try process.run()
        var text = ""
        var found: [FabricAddress] = []
        while found.count < contexts {
            let data = output.fileHandleForReading.availableData
            guard !data.isEmpty else {
                process.terminate()
                throw ValidationError("the server ended after \(found.count) contexts")
            }
            text += String(decoding: data, as: UTF8.self)
            let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
            found += try lines.dropLast().map { try FabricAddress(parsing: String($0)) }
            text = String(lines.last ?? "")
        }
        addresses = found
    }

    func end() {
        try? input.fileHandleForWriting.close()
        process.waitUntilExit()
    }
}

/// Each connection is a descriptor.
func raiseDescriptorLimit() {
    var limit = rlimit()
    unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    limit.rlim_cur = limit.rlim_max
    unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
}
