internal import CaRT
internal import Dray
internal import DrayFabric
internal import DrayProtocol
internal import DrayRuntime

/// Contexts of a cluster's engines that are measured.
struct SelfTestEngines {
    /// One context.
    struct Member: Sendable {
        var id: SelfTest.Member
        var address: FabricAddress

        var name: String { "rank \(id.rank) tag \(id.tag)" }
    }

    let members: [Member]

    var addresses: [FabricAddress] { members.map(\.address) }
    var provider: String { members[0].address.provider }

    /// Finds the chosen engines and contexts of a cluster; all where none are chosen.
    static func find(
        _ options: ClusterOptions, ranks: [UInt32], tags: [UInt32], world: World
    ) async throws(CommandFailure) -> SelfTestEngines {
        let records = try await options.withCluster {
            (cluster, _) async throws(CommandFailure) -> [EngineRecord] in await cluster.engines
        }
        for rank in ranks where !records.contains(where: { $0.rank == rank }) {
            throw CommandFailure(.notFound, "rank \(rank)", "is not in the cluster")
        }
        var members: [Member] = []
        for record in records where ranks.isEmpty || ranks.contains(record.rank) {
            // Not the context that watches the other engines.
            let addresses = record.addresses.prefix(Int(record.targetCount) + 1)
            for tag in tags where Int(tag) >= addresses.count {
                throw CommandFailure(
                    .notFound, "rank \(record.rank) tag \(tag)",
                    "the engine has tags 0 to \(addresses.count - 1)")
            }
            for (tag, address) in addresses.enumerated()
            where tags.isEmpty || tags.contains(UInt32(tag)) {
                members.append(
                    Member(
                        id: SelfTest.Member(rank: record.rank, tag: UInt32(tag)),
                        address: try SelfTestClient.address(address)))
            }
        }
        guard !members.isEmpty else {
            throw CommandFailure(.notFound, "cluster", "has no engines")
        }
        return SelfTestEngines(members: members)
    }

    /// Has each context measure those of the other engines, all at once; those of its own where
    /// there is one engine only.
    func measure(
        _ options: SelfTest.Options, limit: Duration, world: World
    ) async throws(CommandFailure) -> ([SelfTestRow.Pair], SelfTest.Result) {
        let ranks = Set(members.map(\.id.rank))
        let plan = members.map { master in
            (
                master: master,
                targets: members.filter { ranks.count == 1 || $0.id.rank != master.id.rank }
            )
        }
        let pairs = plan.flatMap { one in
            one.targets.map { SelfTestRow.Pair(from: one.master.name, to: $0.name) }
        }
        let xstream = world.makeXStream(name: "dray-client")
        defer { xstream.stop() }
        let fabric = try FabricOptions.ofEnvironment(world)
        let address = try SelfTestClient.listenAddress(
            of: 0, toReach: members[0].address, fabric, world: world)
        let contextOptions = fabric.contextOptions(clock: HybridLogicalClock(clock: world.clock))
        do throws(RPCError) {
            let result = try await xstream.run { () async throws(RPCError) -> SelfTest.Result in
                let context = try Context(
                    world: world, xstream: xstream, address: address, options: contextOptions)
                let results = await SelfTestEngines.askAll(
                    plan.map { ($0.master.address, $0.targets.map(\.id)) }, options, limit,
                    on: context)
                await context.close()
                var sum = SelfTest.Result()
                for result in results { sum.merge(try result.get()) }
                return sum
            }
            return (pairs, result)
        } catch {
            throw CommandFailure.selfTest(error, "\(error)", [])
        }
    }

    /// Asks all masters at once. On the context's xstream.
    private static func askAll(
        _ plan: [(master: FabricAddress, targets: [SelfTest.Member])],
        _ options: SelfTest.Options, _ limit: Duration, on context: Context
    ) async -> [Result<SelfTest.Result, RPCError>] {
        var results: [Result<SelfTest.Result, RPCError>] = Array(
            repeating: .failure(.closed), count: plan.count)
        let counter = TaskCounter()
        for (index, one) in plan.enumerated() {
            counter.spawn(on: context.xstream) {
                do throws(RPCError) {
                    results[index] = .success(
                        try await SelfTest.measure(
                            from: .address(one.master), to: one.targets, options: options,
                            on: context, deadline: .after(limit)))
                } catch {
                    results[index] = .failure(error)
                }
            }
        }
        await counter.wait()
        return results
    }
}
