internal import BIO
internal import CaRT
internal import Dray
internal import DrayEngine
internal import DrayFabric
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime

/// The course of a run: work under faults, then rest, and everything is looked at.
extension ClusterSimulation {
    /// Once nothing is wrong any more every operation succeeds after this time.
    static let convergenceMax: Duration = .seconds(10)
    /// Once nothing is done any more nothing is under way after this time.
    static let quietMax: Duration = .seconds(10)

    func description(timeout: Duration = .seconds(2)) -> ClusterDescription {
        ClusterDescription(
            addresses: (0..<plan.engineCount).map { "sim://engine-\($0)" },
            operationTimeout: timeout)
    }

    func runWorkload() {
        work()
        quiesce()
        converge()
        checkNothingIsLeft()
        compareReplicas("after the run")
        verify("after the run")
        if report.violations.isEmpty {
            for rank in 0..<plan.engineCount { kill(rank: rank) }
            quiesce()
            verify("after a restart of all engines")
            compareReplicas("after a restart of all engines")
        }
        // Also after other violations: it may show the same in other words.
        report.violations += shared.check()
        if report.violations.isEmpty {
            rot()
            verify("after blocks have rotted", rotten: true)
        }
        count(into: &report)
        for workload in workloads { report.violations += workload.violations }
    }

    private var hasViolations: Bool {
        !report.violations.isEmpty || workloads.contains { !$0.violations.isEmpty }
    }

    // MARK: - Work

    private func work() {
        guard createContainer() else { return }
        workEnd = simulation.now + options.duration
        clients = (0..<plan.clientCount).map { SimulatedClient(index: $0) }
        offsetClocks(ofClients: clients)
        for client in clients { client.start(in: self) }
        let faults = FaultSchedule(self)
        faults.start()
        goOnIfTooLittle(faults, periods: 1)
        let longest = options.duration * ClusterSimulation.periodsMax
        let finished = simulation.run(for: longest + .seconds(60)) {
            clients.allSatisfy(\.isDone) || hasViolations
        }
        if !finished { violation(.hang, "the clients hang") }
        faults.stop()
        report.faults += faults.count
        // Who was killed and has not come back does so now.
        for client in clients where !client.isAlive { client.start(in: self) }
    }

    /// How many times as long as it should a run may work to do enough.
    private static let periodsMax = 4

    var isWorkOver: Bool { simulation.now >= workEnd }

    /// Faults may have left no time to do much: then the run goes on for another period.
    private func goOnIfTooLittle(_ faults: FaultSchedule, periods: Int) {
        guard periods < ClusterSimulation.periodsMax, options.duration >= Options().duration
        else { return }
        simulation.schedule(at: workEnd + .milliseconds(-1)) { [self] in
            var done = SimulationReport(seed: report.seed)
            count(into: &done)
            done.faults = faults.count
            guard !done.hasDoneEnough else { return }
            workEnd = workEnd + options.duration
            goOnIfTooLittle(faults, periods: periods + 1)
        }
    }

    /// Adds up what the clients have done.
    private func count(into report: inout SimulationReport) {
        report.sharedOperations = shared.operationCount
        for workload in workloads {
            report.operations += workload.operations
            report.acknowledgedWrites += workload.acknowledgedWrites
            report.commits += workload.commits
            report.snapshots += workload.snapshots
            report.unknownOutcomes += workload.unknownOutcomes
            report.refusals += workload.refusals
            report.damagedReads += workload.damagedReads
        }
    }

    private func createContainer() -> Bool {
        let description = description()
        let done = runAlone("admin") { world, xstream in
            do throws(DrayError) {
                let cluster = try await Cluster.connect(to: description, world: world)
                let size = UInt64(self.plan.engineCount) * ClusterSimulation.poolSizePerEngine
                let pool = try await cluster.createPool(label: "tank", size: size)
                try await pool.createContainer(label: "data", objectClass: self.plan.objectClass)
                await cluster.close()
            } catch {
                self.violation(.setUp, "cannot create the container: \(error)")
            }
        }
        if !done { violation(.setUp, "creating the container hangs") }
        return done && report.violations.isEmpty
    }

    /// What `client` does, or somebody who looks at the same: with the world of the process.
    func makeWorkload(
        for client: SimulatedClient, container: Container, xstream: XStream, world: World
    ) -> Workload {
        let workload = Workload(
            Workload.Setting(
                name: "c\(client.index)", client: client.index, container: container,
                xstream: xstream, entropy: world.entropy.fork("workload \(client.index)"),
                shared: shared, clocksDiffer: plan.faults.contains(.clock),
                lateness: client.timeout + plan.lateness))
        workloads.append(workload)
        return workload
    }

    // MARK: - Rest

    /// Ends all faults and lets everything come back.
    private func quiesce() {
        fabric.heal()
        fabric.faults = .none
        devices.crash(atBoundary: nil)
        devices.setFaults(goodDevices)
        endSkew()
        for rank in 0..<plan.engineCount {
            if isDead(rank: rank) { kill(rank: rank) }
            simulation.resume(node: rank, incarnation: incarnations[rank])
            start(rank: rank)
        }
        waitForEngines()
        if !simulation.run(for: .seconds(60), until: { clients.allSatisfy(\.isDone) }) {
            violation(.hang, "the clients do not come to their end")
        }
        // Until nothing can happen any more that a client has given up waiting for.
        let settled = workloads.map(\.settled).max() ?? simulation.now
        simulation.run(for: settled.since(simulation.now) + .milliseconds(1))
    }

    /// Every client tries everything until it succeeds.
    private func converge() {
        guard !hasViolations else { return }
        let limit = simulation.now + ClusterSimulation.convergenceMax
        var results: [Int: String?] = [:]
        for client in clients {
            guard let cluster = client.cluster, let workload = client.workload else { continue }
            cluster.xstream.simulate {
                results.updateValue(
                    await workload.converge(until: limit), forKey: client.index)
            }
        }
        let done = simulation.run(for: ClusterSimulation.convergenceMax + .seconds(10)) {
            results.count == clients.count || hasViolations
        }
        for client in clients {
            guard case .some(let failure?) = results[client.index] else { continue }
            violation(
                .convergence,
                "client \(client.index): operations fail although all faults are over: \(failure)")
        }
        if !done { violation(.hang, "operations hang although all faults are over") }
    }

    /// Waits until nothing is under way on any engine and client.
    private func checkNothingIsLeft() {
        guard !hasViolations else { return }
        let limit = simulation.now + ClusterSimulation.quietMax
        var left = ["nothing was counted"]
        while !left.isEmpty, simulation.now < limit {
            simulation.run(for: .milliseconds(100))
            let engines = (0..<plan.engineCount).compactMap { rank in
                self.engines[rank].map { (rank, $0) }
            }
            let clients = clients
            let done = runAlone("count") { _, _ in
                var found: [String] = []
                for (rank, engine) in engines {
                    let counts = await engine.counts()
                    if !counts.isIdle { found.append("engine \(rank) still has \(counts)") }
                }
                for client in clients {
                    guard let usage = await client.cluster?.usage, !usage.isComplete else {
                        continue
                    }
                    found.append("client \(client.index) still has \(usage)")
                }
                left = found
            }
            if !done { left = ["counting hangs"] }
        }
        for what in left { violation(.leak, what) }
        let regionsLost = fabric.counts.regionsLost
        if regionsLost > 0 {
            violation(
                .leak, "memory was given back during \(regionsLost) parts of bulk transfers")
        }
    }

    // MARK: - Verification

    /// Nothing changes any more: all replicas must be equal, byte and epoch.
    private func compareReplicas(_ when: String) {
        guard !hasViolations else { return }
        let description = description()
        let done = runAlone("compare") { [self] world, _ in
            do throws(DrayError) {
                let cluster = try await Cluster.connect(to: description, world: world)
                let container = try await cluster.pool("tank").container("data")
                for object in Workload.objects(in: container, clients: clients.count) {
                    let comparison = try await object.verify()
                    for difference in comparison.differences {
                        violation(.replicas, "\(when): \(difference)")
                    }
                    let replicas = comparison.groups * UInt64(plan.objectClass.replicaCount)
                    if comparison.replicas != replicas {
                        violation(
                            .replicas,
                            "\(when): \(comparison.replicas) of \(replicas) were compared")
                    }
                    report.comparedValues += Int(comparison.values)
                }
                await cluster.close()
            } catch {
                violation(.error, "replicas cannot be compared \(when): \(error)")
            }
        }
        if !done { violation(.hang, "comparing replicas \(when) hangs") }
    }

    /// A new client reads back everything that every client wrote. When blocks are `rotten`, an
    /// error that says so is as good an answer as the right one.
    private func verify(_ when: String, rotten: Bool = false) {
        guard !hasViolations else { return }
        let description = description()
        let done = runAlone("verify") { [self] world, xstream in
            do throws(DrayError) {
                let cluster = try await Cluster.connect(to: description, world: world)
                let container = try await cluster.pool("tank").container("data")
                for client in clients {
                    guard let known = client.workload else { continue }
                    let workload = makeWorkload(
                        for: client, container: container, xstream: xstream, world: world)
                    await workload.verify(known, rotten: rotten)
                    if !rotten, client.index == 0 { await workload.readShared() }
                }
                await cluster.close()
            } catch {
                violation(.error, "cannot verify \(when): \(error)")
            }
        }
        if !done { violation(.hang, "verifying \(when) hangs") }
    }

    /// Damages values where they lie on the devices.
    private func rot() {
        for rank in 0..<plan.engineCount {
            let configuration = configuration(rank: rank)
            for (index, path) in configuration.devicePaths.enumerated() {
                for area in configuration.dataAreas(
                    device: index, deviceSize: ClusterSimulation.deviceSize)
                {
                    report.rottenBlocks += devices.rot(
                        path: path, in: area, oneIn: ClusterSimulation.rotPeriod)
                }
            }
        }
        simulation.record("rot", UInt64(report.rottenBlocks))
    }
}
