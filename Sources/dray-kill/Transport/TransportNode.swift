internal import ArgumentParser
internal import CaRT
internal import DrayFabric
internal import DrayRuntime
internal import DraySimulator
internal import Glibc
internal import Logging

/// One of the processes whose transport is tested: its contexts call those of all others, and its
/// own, until it is told to stop, or killed.
struct TransportNode: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "transport-node",
        abstract: "A process of 'dray-kill transport'.",
        shouldDisplay: false)

    @Option var provider: String
    /// Of all contexts of all processes.
    @Option var ports: String
    @Option var contexts: Int
    @Option var index: Int
    @Option var incarnation: UInt32
    @Option var lanes: Int
    @Option var status: String
    @Option var seed: UInt64

    /// How much later than its deadline a call may end.
    private static let grace: Duration = .milliseconds(300)
    /// How long it waits for the port that its predecessor had.
    private static let openMax: Duration = .seconds(10)

    mutating func run() async throws {
        let host = FabricAddress.isNamed(provider) ? "dray-kill-" : "127.0.0.1:"
        let addresses = ports.split(separator: ",").map { "\(provider)://\(host)\($0)" }
        let processes = addresses.count / contexts
        let status = try TransportStatus(path: status, contexts: contexts, processes: processes)
        var world = World.real(log: LogFacilities(level: .error))
        world.fabric = LibfabricFabric(entropy: world.entropy.fork("fabric"))
        var members: [Member] = []
        for tag in 0..<contexts {
            members.append(
                try await open(tag, world, addresses, processes: processes, status))
        }
        status[.isOpen] = true
        try await waitForLine("stop", world)
        var violations: [String] = []
        for member in members { violations += await member.end() }
        status[.isDone] = true
        try await waitForLine("check", world)
        var counts = TransportLedger.Counts()
        for member in members {
            violations += await member.check()
            counts += await member.counts()
        }
        print(
            "\(counts.calls) calls, \(counts.replies) replies, \(counts.handled) handled, "
                + "\(counts.spills) large, \(counts.transfers) transfers")
        for violation in violations { print("VIOLATION \(violation)") }
        if !violations.isEmpty { throw ExitCode(1) }
    }

    private func open(
        _ tag: Int, _ world: World, _ addresses: [String], processes: Int,
        _ status: TransportStatus
    ) async throws -> Member {
        let xstream = world.makeXStream(name: "transport-\(tag)")
        let (index, contexts, incarnation, lanes) = (index, contexts, incarnation, lanes)
        let seed = seed
        return try await xstream.run { () async throws -> Member in
            let own = addresses[index * contexts + tag]
            var options = ContextOptions(clock: HybridLogicalClock(clock: world.clock))
            options.rank = UInt32(index)
            options.tag = UInt32(tag)
            options.eagerLimit = 8_192
            options.receiveCount = 64
            options.heldReceivesMax = 48
            let limit = xstream.now + TransportNode.openMax
            while true {
                do throws(RPCError) {
                    let context = try Context(
                        world: world, xstream: xstream, address: own, options: options)
                    return try Member(
                        context, tag: tag, index: index, incarnation: incarnation,
                        targets: TransportNode.targets(addresses, contexts: contexts),
                        entropy: Entropy(seed: seed).fork("\(index) \(incarnation) \(tag)"),
                        lanes: lanes, grace: TransportNode.grace, status: status)
                } catch {
                    guard xstream.now < limit else { throw error }
                }
                await xstream.sleep(for: .milliseconds(5))
            }
        }
    }

    /// Whom to call, by process.
    private static func targets(
        _ addresses: [String], contexts: Int
    ) throws(RPCError) -> [[TransportTarget]] {
        var targets: [[TransportTarget]] = []
        for process in 0..<addresses.count / contexts {
            var own: [TransportTarget] = []
            for tag in 0..<contexts {
                do throws(FabricError) {
                    let address = try FabricAddress(parsing: addresses[process * contexts + tag])
                    own.append(
                        TransportTarget(
                            rank: UInt32(process), tag: UInt32(tag), address: address))
                } catch {
                    throw .fabric(error)
                }
            }
            targets.append(own)
        }
        return targets
    }

    /// Waits for a line on the standard input. Its end is ours: the harness is gone.
    private func waitForLine(_ expected: String, _ world: World) async throws {
        let xstream = world.makeXStream(name: "input")
        let line = try await xstream.run { () async throws -> String in
            _ = fcntl(0, F_SETFL, O_NONBLOCK)
            var line = ""
            while true {
                var byte: UInt8 = 0
                switch unsafe read(0, &byte, 1) {
                case 1 where byte == UInt8(ascii: "\n"): return line
                case 1: line.unicodeScalars.append(Unicode.Scalar(byte))
                case 0: throw ExitCode(2)
                default:
                    guard errno == EAGAIN || errno == EINTR else { throw ExitCode(2) }
                    await xstream.sleep(for: .milliseconds(5))
                }
            }
        }
        xstream.stop()
        guard line == expected else { throw ExitCode(2) }
    }
}

extension TransportNode {
    /// A context and its workloads, one for each process that it calls, so that one that does not
    /// answer holds up none of the others.
    final class Member: Sendable {
        private struct Parts {
            var context: Context
            var ledger: TransportLedger
            var workloads: [TransportWorkload]
            var targets: [TransportTarget]
        }

        private let xstream: XStream
        private let parts: XStreamBound<Parts>

        /// Begins to work. Called on the context's xstream.
        init(
            _ context: Context, tag: Int, index: Int, incarnation: UInt32,
            targets: [[TransportTarget]], entropy: Entropy, lanes: Int, grace: Duration,
            status: TransportStatus
        ) throws(RPCError) {
            xstream = context.xstream
            let ledger = TransportLedger()
            TransportService(ledger: ledger).register(on: context)
            let members = targets.enumerated().map { process, contexts in
                Group.Member(rank: UInt32(process), addresses: contexts.map(\.address))
            }
            do throws(GroupError) {
                try context.group.apply(.replace(members), version: 1)
            } catch {
                throw .application(code: 1, message: "\(error)")
            }
            var workloads: [TransportWorkload] = []
            for (process, contexts) in targets.enumerated() {
                // Who it is, which life, which context, whom it calls: 8 bits each but the life.
                let source =
                    UInt32(index) << 26 | UInt32(tag) << 22 | UInt32(process) << 16
                    | incarnation & 0xffff
                var setting = TransportWorkload.Setting(
                    context: context, source: source, targets: contexts, ledger: ledger,
                    entropy: entropy.fork("calls of \(process)"), grace: grace)
                setting.pauseMax = .milliseconds(10)
                let workload = TransportWorkload(setting)
                workload.start(lanes: lanes)
                workloads.append(workload)
            }
            let working = workloads
            xstream.spawn { [xstream] in
                while working.contains(where: { !$0.isDone }) {
                    for (process, workload) in working.enumerated() {
                        status[tag, process] = workload.repliesByTarget.reduce(0, +)
                    }
                    await xstream.sleep(for: .milliseconds(5))
                }
            }
            parts = XStreamBound(
                Parts(
                    context: context, ledger: ledger, workloads: workloads,
                    targets: targets.flatMap(\.self)),
                to: xstream)
        }

        /// Lets all calls end, and reaches everybody once more. What went wrong.
        func end() async -> [String] {
            let (xstream, parts) = (xstream, parts)
            return await xstream.run { () async -> [String] in
                let parts = parts.value
                for workload in parts.workloads { workload.stop() }
                let limit = xstream.now + TransportSetting.endMax
                while parts.workloads.contains(where: { !$0.isDone }), xstream.now < limit {
                    await xstream.sleep(for: .milliseconds(5))
                }
                var violations = parts.workloads.filter { !$0.isDone }.map {
                    "\(parts.context.address): calls hang: \($0.openCalls)"
                }
                for target in parts.targets where violations.isEmpty {
                    let end = xstream.now + .seconds(10)
                    let failure = await parts.workloads[0].reach(target, by: end)
                    guard let failure else { continue }
                    violations.append(
                        "\(parts.context.address) does not reach \(target.address): \(failure)")
                }
                return violations
            }
        }

        /// Nobody calls any more: everything must be back where it belongs. What is not.
        func check() async -> [String] {
            let (xstream, parts) = (xstream, parts)
            return await xstream.run { () async -> [String] in
                let parts = parts.value
                let context = parts.context
                let limit = xstream.now + TransportSetting.completionMax
                while !context.usage.isComplete, xstream.now < limit {
                    await xstream.sleep(for: .milliseconds(10))
                }
                var violations = parts.ledger.violations
                if !context.usage.isComplete {
                    violations.append("\(context.address) still has \(context.usage)")
                }
                context.checkInvariants()
                await context.close()
                return violations
            }
        }

        func counts() async -> TransportLedger.Counts {
            let parts = parts
            return await xstream.run { () async -> TransportLedger.Counts in
                parts.value.ledger.counts
            }
        }
    }
}
