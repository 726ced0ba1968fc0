internal import Dray
internal import DrayPlacement
internal import DrayRuntime
internal import DraySimulator

/// Runs clients over a real cluster, disturbs its engines, and checks what the clients saw.
///
/// Some ten cycles make an epoch: it has a container of its own, so that the histories that the
/// checkers search stay small.
final class Harness {
    /// What a run is made with.
    struct Options: Sendable {
        var program: String
        var parent: String
        var engines: Int
        var targets: Int
        var devices: Int
        var objectClass: ObjectClass
        var clients: Int
        var cycles: Int
        var seed: UInt64
        var isVerbose: Bool
    }

    static let pool = "tank"
    static let cyclesPerEpoch = 10
    /// Everything must succeed again so long after the last engine is back.
    static let convergenceMax = Duration.seconds(15)
    /// Operations of those who only verify may take so long.
    private static let operationMax = Duration.seconds(10)
    private static let verificationMax = Duration.seconds(60)

    private let options: Options
    private let xstream: XStream
    private let cluster: RealCluster
    private let administrator: Cluster
    private var entropy: Entropy
    private(set) var report = Report()
    private var cycle = 0
    /// Since when all engines have served.
    private var allServe: Instant

    private init(
        _ options: Options, _ xstream: XStream, _ cluster: RealCluster, _ administrator: Cluster
    ) {
        self.options = options
        self.xstream = xstream
        self.cluster = cluster
        self.administrator = administrator
        entropy = Entropy(seed: options.seed).fork("faults")
        allServe = xstream.now
    }

    /// Runs everything, on `xstream`.
    static func run(_ options: Options, on xstream: XStream) async throws(Failure) -> Report {
        let begin = xstream.now
        let cluster = try await RealCluster(
            program: options.program, parent: options.parent, engines: options.engines,
            targets: options.targets, devices: options.devices, xstream: xstream)
        let harness = Harness(
            options, xstream, cluster, try await cluster.connect(timeout: .seconds(30)))
        await harness.run()
        harness.report.kills = cluster.kills
        harness.report.stops = cluster.stops
        let isBad = !harness.report.violations.isEmpty
        if isBad { harness.report.files = cluster.directory }
        await cluster.end(keeping: isBad)
        harness.report.duration = xstream.now.since(begin)
        return harness.report
    }

    private func run() async {
        do throws(Failure) {
            try await withAdministrator("create the pool") { (cluster) throws(DrayError) in
                let size = UInt64(self.options.engines) * RealCluster.poolShare
                _ = try await cluster.createPool(label: Harness.pool, size: size)
            }
            while cycle < options.cycles, report.violations.isEmpty { try await runEpoch() }
        } catch {
            report.violations.append("\(error)")
        }
    }

    private func say(_ what: String) {
        guard options.isVerbose else { return }
        LogFacilities.standardError(what)
    }

    private func withAdministrator(
        _ what: String, _ body: (Cluster) async throws(DrayError) -> Void
    ) async throws(Failure) {
        do throws(DrayError) {
            try await body(administrator)
        } catch {
            throw Failure("cannot \(what) although all engines serve: \(error)")
        }
    }

    // MARK: - Epochs

    private func runEpoch() async throws(Failure) {
        report.epochs += 1
        let label = "epoch-\(report.epochs)"
        try await withAdministrator("create a container") { (cluster) throws(DrayError) in
            try await cluster.pool(Harness.pool).createContainer(
                label: label, objectClass: self.options.objectClass)
        }
        let shared = SharedValues()
        let seeds = Entropy(seed: options.seed).fork(label)
        var clients: [Client] = []
        for index in 0..<options.clients {
            clients.append(
                try await Client(
                    index, of: cluster, container: label, shared: shared,
                    entropy: seeds.fork("client \(index)")))
        }
        let working = clients.map { $0.work() }
        var isGood = true
        for _ in 0..<Harness.cyclesPerEpoch where cycle < options.cycles && isGood {
            try await runCycle(clients)
            isGood = try await tally(of: clients).violations.isEmpty
        }
        try await rest(clients, working)
        try await check(clients, label)
        // Also after other violations: it may show the same in other words.
        let begin = xstream.now
        report.violations += shared.check().map(\.description)
        report.sharedOperations += shared.operationCount
        let total = try await tally(of: clients)
        report.total += total
        report.violations += total.violations
        say(
            "epoch \(report.epochs): \(total.operations) operations, "
                + "\(shared.operationCount) of them shared, histories checked in "
                + "\(milliseconds(xstream.now.since(begin))) ms")
        guard report.violations.isEmpty else { return }
        for client in clients { await client.close() }
        try await withAdministrator("destroy a container") { (cluster) throws(DrayError) in
            try await cluster.pool(Harness.pool).destroyContainer(label)
        }
    }

    /// What all clients have done and found so far.
    private func tally(of clients: [Client]) async throws(Failure) -> Client.Tally {
        let answers = clients.map { $0.begin { Client.Tally($0) } }
        var total = Client.Tally()
        let limit = xstream.now + .seconds(10)
        for (client, answer) in zip(clients, answers) {
            guard let tally = await answer.wait(on: xstream, until: limit) else {
                throw Failure("client \(client.index): its thread hangs")
            }
            total += tally
        }
        return total
    }

    // MARK: - Cycles

    /// Disturbs the engines once, and waits until all serve again.
    private func runCycle(_ clients: [Client]) async throws(Failure) {
        cycle += 1
        let fault = Fault(engines: options.engines, &entropy)
        let quiet = try await rate(clients, for: fault.before)
        let away: Report.Rate
        var recovery = Duration.zero
        switch fault.kind {
        case .nothing: away = try await rate(clients, for: fault.pause)
        case .stop(let rank):
            try cluster.stop(rank)
            away = try await rate(clients, for: fault.pause)
            cluster.resume(rank)
            recovery = try await cluster.waitUntilServing()
        case .kill(let ranks):
            try await cluster.kill(ranks)
            away = try await rate(clients, for: fault.pause)
            for rank in ranks { try cluster.start(rank) }
            if let again = fault.again {
                await xstream.sleep(for: again)
                try await cluster.kill(ranks)
                for rank in ranks { try cluster.start(rank) }
            }
            recovery = try await cluster.waitUntilServing()
            report.add(recovery: recovery)
        }
        allServe = xstream.now
        report.add(quiet, away, fault.kind)
        say(
            "cycle \(cycle): \(fault), serving after \(milliseconds(recovery)) ms; "
                + "\(quiet) before, \(away) meanwhile")
    }

    /// How many operations are answered in the next `time`.
    private func rate(
        _ clients: [Client], for time: Duration
    ) async throws(Failure) -> Report.Rate {
        let begin = xstream.now
        let before = try await tally(of: clients)
        await xstream.sleep(for: time)
        let after = try await tally(of: clients)
        return Report.Rate(
            operations: after.answered - before.answered, reads: after.reads - before.reads,
            time: xstream.now.since(begin))
    }

    // MARK: - Checks

    /// Lets the clients end what they do.
    private func rest(
        _ clients: [Client], _ working: [[Client.Answer<Bool>]]
    ) async throws(Failure) {
        for client in clients { _ = client.begin { $0.stop() } }
        let limit = xstream.now + Client.timeoutMax + .seconds(5)
        for (client, answers) in zip(clients, working) {
            for answer in answers where await answer.wait(on: xstream, until: limit) == nil {
                throw Failure("client \(client.index): its operations hang")
            }
        }
        try await succeed(clients)
    }

    /// Every client tries operations of every kind until all succeed.
    private func succeed(_ clients: [Client]) async throws(Failure) {
        guard try await isGood(clients) else { return }
        let end = allServe + Harness.convergenceMax
        let answers = clients.map { $0.begin { await $0.converge(until: end) } }
        for (client, answer) in zip(clients, answers) {
            guard let failure = await answer.wait(on: xstream, until: end + .seconds(10)) else {
                throw Failure("client \(client.index): operations hang although nothing is wrong")
            }
            guard let failure else { continue }
            report.violations.append(
                "client \(client.index): operations fail although nothing is wrong: \(failure)")
        }
        report.add(convergence: xstream.now.since(allServe))
    }

    /// Everything that was acknowledged is there and nothing else, at every replica: now, and
    /// after all engines were killed.
    private func check(_ clients: [Client], _ label: String) async throws(Failure) {
        try await succeed(clients)
        try await verify(clients)
        try await compareReplicas(label, "after the faults")
        guard try await isGood(clients) else { return }
        let ranks = Array(0..<options.engines)
        try await cluster.kill(ranks)
        for rank in ranks { try cluster.start(rank) }
        report.add(recovery: try await cluster.waitUntilServing())
        allServe = xstream.now
        try await succeed(clients)
        try await verify(clients)
        try await compareReplicas(label, "after a restart of all engines")
    }

    private func isGood(_ clients: [Client]) async throws(Failure) -> Bool {
        guard report.violations.isEmpty else { return false }
        return try await tally(of: clients).violations.isEmpty
    }

    /// Every client reads everything.
    private func verify(_ clients: [Client]) async throws(Failure) {
        guard try await isGood(clients) else { return }
        let answers = clients.map { client in
            client.begin { await $0.verify(within: Harness.operationMax) }
        }
        let limit = xstream.now + Harness.verificationMax
        for (client, answer) in zip(clients, answers) {
            guard await answer.wait(on: xstream, until: limit) != nil else {
                throw Failure("client \(client.index): reading everything hangs")
            }
        }
    }

    /// Nothing changes any more: all replicas must be equal, byte and epoch.
    private func compareReplicas(_ label: String, _ when: String) async throws(Failure) {
        guard report.violations.isEmpty else { return }
        try await withAdministrator("compare replicas") { (cluster) throws(DrayError) in
            let container = try await cluster.pool(Harness.pool).container(label)
            for object in Workload.objects(in: container, clients: self.options.clients) {
                for difference in try await object.verify().differences {
                    self.report.violations.append("\(when): \(difference)")
                }
                self.report.compared += 1
            }
        }
    }
}
