internal import ArgumentParser
internal import Dray
internal import DrayProtocol

/// Which engines a command asks.
struct RankOptions: ParsableArguments {
    @Option(name: .long, help: "Only this engine (repeat for more).") var rank: [UInt32] = []

    /// What the engines answer, each with its rank, and whether all did. Those that do not are
    /// named on standard error.
    func ask<Reply>(
        _ cluster: ClusterOptions,
        _ question: (Cluster, Set<UInt32>?) async -> [(
            engine: EngineRecord, reply: Result<Reply, DrayError>
        )]
    ) async throws(CommandFailure) -> (replies: [(rank: UInt32, reply: Reply)], ExitStatus) {
        let ranks = rank.isEmpty ? nil : Set(rank)
        let all = try await cluster.withCluster { (cluster, _) async throws(CommandFailure) in
            await question(cluster, ranks)
        }
        for rank in rank where !all.contains(where: { $0.engine.rank == rank }) {
            throw CommandFailure(.notFound, "rank \(rank)", "is not in the cluster")
        }
        var replies: [(rank: UInt32, reply: Reply)] = []
        var status = ExitStatus.success
        for (engine, result) in all {
            switch result {
            case .success(let reply): replies.append((engine.rank, reply))
            case .failure(let error):
                let failure = CommandFailure(error, "engine \(engine.rank)")
                Terminal.note(failure.line)
                status = failure.status
            }
        }
        return (replies, status)
    }
}
