internal import ArgumentParser
internal import CaRT
internal import DrayFabric
internal import DrayRuntime
internal import Glibc

/// Memory of many contexts that talk to many endpoints.
struct Endpoints: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Measure a process with many contexts that talks to many endpoints.",
        discussion: """
            The endpoints are those of another process, whose addresses come from standard input:

              dray-limits serve --contexts 157 | dray-limits endpoints

            Every context calls each of them, over a connection of its own: 64 contexts have \
            10,048 connections then.
            """)

    @Option(help: "Where to listen.")
    var provider = "ofi+tcp"

    @Option(help: "Contexts of the process, each on a thread of its own.")
    var contexts = 64

    @Option(help: "The most MiB that may be resident.")
    var limit = 256.0

    func validate() throws {
        guard contexts > 0 else { throw ValidationError("--contexts is at least 1") }
    }

    func run() async throws {
        raiseDescriptorLimit()
        var addresses: [FabricAddress] = []
        while let line = readLine(), !line.isEmpty {
            addresses.append(try FabricAddress(parsing: line))
        }
        guard let first = addresses.first else { throw ValidationError("nobody serves") }
        let world = World.libfabric()
        let group = ContextGroup()
        for index in 0..<contexts {
            try await group.add(world, provider, name: "context-\(index)")
        }
        let idle = try residentKibibytes() / 1024
        let calls = try await group.callAll(addresses)
        let resident = try residentKibibytes() / 1024
        try await group.end(first)
        await group.close()
        try Finding.report([
            Finding(
                what: "\(provider), \(contexts) contexts that have called \(calls) endpoints "
                    + "(\(Int(idle)) MiB before)",
                found: resident, limit: limit, unit: "MiB")
        ])
    }
}

/// The other process.
struct Serve: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Be the other process of 'endpoints', until it says that it is done.")

    @Option(help: "Where to listen.")
    var provider = "ofi+tcp"

    @Option(help: "Contexts, each on a thread of its own.")
    var contexts = 157

    func run() async throws {
        raiseDescriptorLimit()
        let world = World.libfabric()
        let group = ContextGroup()
        for index in 0..<contexts {
            print(try await group.add(world, provider, name: "server-\(index)"))
        }
        print()
        fflush(nil)
        await group.waitUntilEnded()
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
            context.register(Question.end) { _, request in
                request.context.xstream.spawn { await request.context.close() }
                return EmptyMessage()
            }
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

    /// Has the process at `address` end.
    func end(_ address: FabricAddress) async throws {
        guard let context = members.first else { return }
        try await context.xstream.run { () async throws in
            _ = try await context.value.call(
                Question.end, EmptyMessage(), to: .address(address))
        }
    }

    /// Waits until the first context was told to end.
    func waitUntilEnded() async {
        guard let context = members.first else { return }
        await context.xstream.run { await context.value.waitUntilClosed() }
    }

    func close() async {
        for context in members {
            await context.xstream.run { await context.value.close() }
            context.xstream.stop()
        }
    }
}

/// Each connection is a descriptor.
func raiseDescriptorLimit() {
    var limit = rlimit()
    unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    limit.rlim_cur = limit.rlim_max
    unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
}
