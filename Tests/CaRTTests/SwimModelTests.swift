import DrayRuntime
import Testing

@testable import CaRT

/// Histories that nobody would write down, and what holds in all of them.
@Suite struct SwimModelTests {
    /// Some machines and a bad network: messages are late, lost and doubled, and come in any order.
    struct Network {
        static let period: UInt64 = 200_000_000

        var machines: [SwimMachine] = []
        var isRunning: [Bool] = []
        var now: UInt64 = 1_000_000_000
        var entropy: Entropy
        var loss: UInt64 = 0
        private var inbox: [(time: UInt64, rank: Int, event: SwimMachine.Event)] = []
        /// By observer and rank: what was known last.
        private var known: [[UInt32: SwimMember]] = []
        var problems: [String] = []
        var deaths = 0
        var returns = 0

        init(_ count: Int, seed: UInt64) {
            entropy = Entropy(seed: seed)
            for rank in 0..<count {
                machines.append(machine(rank))
                isRunning.append(true)
                known.append([:])
            }
            for rank in 0..<count { join(rank) }
        }

        private func machine(_ rank: Int) -> SwimMachine {
            SwimMachine(
                rank: UInt32(rank), incarnation: now, options: SwimOptions(),
                entropy: entropy.fork("\(rank) \(now)"), now: now)
        }

        private mutating func join(_ rank: Int) {
            let group = machines.indices.map { SwimMember(rank: UInt32($0)) }
            handle(.group(version: 1, members: group), rank)
        }

        mutating func kill(_ rank: Int) { isRunning[rank] = false }

        mutating func restart(_ rank: Int) {
            isRunning[rank] = true
            machines[rank] = machine(rank)
            known[rank] = [:]
            inbox.removeAll { $0.rank == rank }
            join(rank)
        }

        mutating func handle(_ event: SwimMachine.Event, _ rank: Int) {
            let actions = machines[rank].on(event, at: now)
            machines[rank].checkInvariants()
            check(rank, actions)
            for action in actions {
                switch action {
                case .send(let message, let receiver):
                    if message.updates.count > SwimMessage.updatesMax {
                        problems.append("a message with \(message.updates.count) updates")
                    }
                    send(.received(message, from: UInt32(rank)), Int(receiver))
                    if entropy.chance(1, in: 20) {
                        send(.received(message, from: UInt32(rank)), Int(receiver))
                    }
                case .probe(let target, let incarnation):
                    let answer: SwimMachine.Event =
                        isRunning[Int(target)]
                        ? .accepted(rank: target)
                        : .refused(rank: target, incarnation: incarnation)
                    if !entropy.chance(1, in: 4) { send(answer, rank) }
                case .changed, .excluded: break
                }
            }
        }

        /// What is known of a member never gets older; the dead come back with a new incarnation.
        private mutating func check(_ rank: Int, _ actions: [SwimMachine.Action]) {
            for member in machines[rank].members {
                let old = known[rank][member.rank] ?? SwimMember(rank: member.rank)
                known[rank][member.rank] = member
                guard member != old else { continue }
                if !member.overrides(old) { problems.append("\(old) became \(member)") }
                if old.state == .dead, member.state != .dead {
                    returns += 1
                    if member.incarnation <= old.incarnation {
                        problems.append("\(old) returned as \(member)")
                    }
                }
                if old.state != .dead, member.state == .dead { deaths += 1 }
                // A message may change a member more than once; the last that was told holds.
                var told = old.state
                for case .changed(let change) in actions where change.rank == member.rank {
                    if change.state == told { problems.append("\(change): nothing changed") }
                    told = change.state
                }
                if told != member.state { problems.append("\(member), and told \(told)") }
            }
        }

        private mutating func send(_ event: SwimMachine.Event, _ rank: Int) {
            guard machines.indices.contains(rank), !entropy.chance(loss, in: 100) else { return }
            let delay =
                entropy.chance(1, in: 50)
                ? entropy.below(2 * Network.period) : entropy.below(2_000_000)
            inbox.append((now + delay, rank, event))
        }

        mutating func run(milliseconds: UInt64) {
            let end = now + milliseconds * 1_000_000
            while true {
                let message = inbox.indices.min { inbox[$0].time < inbox[$1].time }
                let timer = machines.indices.filter { isRunning[$0] }
                    .min { machines[$0].nextDeadline < machines[$1].nextDeadline }
                let (early, late) = (
                    message.map { inbox[$0].time } ?? .max,
                    timer.map { machines[$0].nextDeadline } ?? .max
                )
                guard min(early, late) <= end else { break }
                now = max(now, min(early, late))
                if early <= late, let message {
                    let item = inbox.remove(at: message)
                    if isRunning[item.rank] { handle(item.event, item.rank) }
                } else if let timer {
                    handle(.time, timer)
                }
            }
            now = end
        }

        /// Everybody that runs is right about everybody, but may suspect.
        var disagreements: [String] {
            var found: [String] = []
            for observer in machines.indices where isRunning[observer] {
                for member in machines[observer].members {
                    let isRight = (member.state == .dead) != isRunning[Int(member.rank)]
                    if !isRight { found.append("\(observer) says \(member)") }
                }
            }
            return found
        }
    }

    @Test(arguments: UInt64(0)..<12) func membersComeAndGo(seed: UInt64) {
        var entropy = Entropy(seed: seed).fork("history")
        let count = 3 + Int(entropy.below(6))
        var network = Network(count, seed: seed)
        network.loss = entropy.below(15)
        for _ in 0..<25 {
            let rank = Int(entropy.below(UInt64(count)))
            if network.isRunning[rank] {
                if network.isRunning.count(where: { $0 }) > 2 { network.kill(rank) }
            } else {
                network.restart(rank)
            }
            network.run(milliseconds: entropy.below(2500))
        }
        network.loss = 0
        network.run(milliseconds: 12_000)
        #expect(network.problems.isEmpty)
        #expect(network.disagreements.isEmpty)
        #expect(network.deaths > 0 && network.returns > 0)
    }

    /// A member says anything that a message can say, in everybody's name.
    @Test(arguments: UInt64(0)..<12) func liesAreHarmless(seed: UInt64) {
        var entropy = Entropy(seed: seed).fork("lies")
        var network = Network(5, seed: seed)
        network.run(milliseconds: 2000)
        for _ in 0..<400 {
            var message = SwimMessage()
            message.kind = SwimMessage.Kind.allCases.randomElement(using: &entropy)!
            message.sequence = UInt32(entropy.below(30))
            message.target = UInt32(entropy.below(7))
            message.version = UInt32(entropy.below(3))
            let offset = entropy.below(3)
            message.incarnation = network.machines[0].incarnation + offset
            for _ in 0..<entropy.below(9) {
                message.updates.append(
                    SwimMember(
                        rank: UInt32(entropy.below(7)),
                        incarnation: entropy.chance(1, in: 30)
                            ? .max : network.now / 2 + entropy.below(network.now),
                        verdict: SwimVerdict.allCases.randomElement(using: &entropy)!))
            }
            let rank = Int(entropy.below(5))
            network.handle(
                .received(message, from: UInt32(entropy.below(8))), rank)
            network.run(milliseconds: entropy.below(30))
        }
        // The truth prevails once the lies have ended.
        network.run(milliseconds: 15_000)
        #expect(network.problems.isEmpty)
        #expect(network.disagreements.isEmpty)
    }

    // MARK: - Wire

    static func message(_ entropy: inout Entropy) -> SwimMessage {
        var message = SwimMessage()
        message.kind = SwimMessage.Kind.allCases.randomElement(using: &entropy)!
        message.sequence = UInt32(truncatingIfNeeded: entropy.next())
        message.target = UInt32(truncatingIfNeeded: entropy.next())
        message.version = UInt32(truncatingIfNeeded: entropy.next())
        message.incarnation = entropy.below(SwimMember.incarnationMax)
        for _ in 0..<entropy.below(UInt64(SwimMessage.updatesMax) + 1) {
            message.updates.append(
                SwimMember(
                    rank: UInt32(truncatingIfNeeded: entropy.next()),
                    incarnation: entropy.below(SwimMember.incarnationMax),
                    verdict: SwimVerdict.allCases.randomElement(using: &entropy)!))
        }
        return message
    }

    @Test func messagesAreReadAsTheyWereWritten() throws {
        var entropy = Entropy(seed: 4)
        for _ in 0..<200 {
            let message = SwimModelTests.message(&entropy)
            let bytes = message.encoded()
            #expect(bytes.count == message.encodedSize)
            #expect(try SwimMessage(decoding: bytes) == message)
            let cut = Int(entropy.below(UInt64(bytes.count)))
            #expect(throws: DecodingFailure.self) {
                try SwimMessage(decoding: Array(bytes.prefix(cut)))
            }
        }
    }

    @Test func badMessagesAreRefused() {
        var message = SwimMessage()
        message.updates = [SwimMember(rank: 1)]
        let good = message.encoded()
        // Offsets: kind 0, sequence 1, target 5, incarnation 9, version 17, count 21, then rank 25,
        // incarnation 29, verdict 37.
        for (offset, value) in [(0, 6), (16, 0x40), (21, 9), (36, 0x40), (37, 4)] {
            var bytes = good
            bytes[offset] = UInt8(value)
            #expect(throws: DecodingFailure.self, "\(offset)") {
                try SwimMessage(decoding: bytes)
            }
        }
    }

    @Test func noiseIsHarmless() {
        var entropy = Entropy(seed: 5)
        var rig = SwimRig()
        var understood = 0
        for _ in 0..<20_000 {
            var bytes = SwimModelTests.message(&entropy).encoded()
            for _ in 0..<entropy.below(4) {
                bytes[Int(entropy.below(UInt64(bytes.count)))] = UInt8(entropy.below(256))
            }
            guard let message = try? SwimMessage(decoding: bytes) else { continue }
            understood += 1
            rig.on(.received(message, from: UInt32(entropy.below(7))))
        }
        #expect(understood > 1000)
    }
}
