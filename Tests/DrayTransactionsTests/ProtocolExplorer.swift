import DrayRuntime
import DrayTransactions

/// Walks through the states of a `ProtocolModel`.
struct ProtocolExplorer {
    /// What two states must have in common to be the same one.
    struct Key: Hashable {
        var network: UInt64
        var answers: UInt64
        var processes: UInt64
        var rest: UInt64
        var attempts: UInt64
    }

    enum Problem {
        /// Two who took part believe different things.
        case disagreement
        /// Nobody dies any more, every message arrives, and it still is not decided.
        case stuck
    }

    /// What went wrong, and how it came about.
    struct Finding {
        var problem: Problem
        var path: [ProtocolModel.Step]
    }

    let rules: ProtocolModel.Rules
    /// Whether to ask of each state if it comes to an end.
    var checksEnd = true
    /// The states that are known to come to an end.
    private var ending: Set<Key> = []
    private(set) var stateCount = 0
    /// Whether nothing was left out.
    private(set) var isExhaustive = false

    init(_ rules: ProtocolModel.Rules) {
        self.rules = rules
    }

    // MARK: - Everything

    /// Looks at states by their distance from the beginning, at most `limit` of them.
    mutating func explore(limit: Int) -> Finding? {
        let start = ProtocolModel(rules)
        var visited: Set<Key> = [Self.key(start)]
        var models = [start]
        var origins: [(parent: Int, step: ProtocolModel.Step)] = [(0, .expired)]
        var next = 0
        while next < models.count {
            let model = models[next]
            for step in model.steps {
                var after = model
                after.take(step)
                guard visited.insert(Self.key(after)).inserted else { continue }
                models.append(after)
                origins.append((next, step))
                if let problem = problem(of: after) {
                    return Finding(
                        problem: problem, path: Self.path(origins, to: models.count - 1))
                }
            }
            next += 1
            stateCount = models.count
            if models.count >= limit { return nil }
        }
        isExhaustive = true
        return nil
    }

    private static func path(
        _ origins: [(parent: Int, step: ProtocolModel.Step)], to last: Int
    ) -> [ProtocolModel.Step] {
        var steps: [ProtocolModel.Step] = []
        var place = last
        while place > 0 {
            steps.append(origins[place].step)
            place = origins[place].parent
        }
        return steps.reversed()
    }

    // MARK: - By chance

    /// Follows one path of random steps to its end.
    mutating func walk(seed: UInt64, length: Int) -> Finding? {
        var entropy = Entropy(seed: seed)
        var model = ProtocolModel(rules)
        var path: [ProtocolModel.Step] = []
        for _ in 0..<length {
            // Mostly what helps: else most ways would be aborted early.
            var steps = model.quickSteps
            if steps.isEmpty || entropy.chance(1, in: 5) { steps = model.steps }
            guard !steps.isEmpty else { break }
            let step = steps[Int(entropy.below(UInt64(steps.count)))]
            model.take(step)
            path.append(step)
            stateCount += 1
            guard model.isSafe else { return Finding(problem: .disagreement, path: path) }
        }
        return problem(of: model).map { Finding(problem: $0, path: path) }
    }

    // MARK: - The end

    /// Whether it is decided everywhere, and alike, once nobody dies any more and every message
    /// arrives.
    private mutating func problem(of model: ProtocolModel) -> Problem? {
        var model = model
        var passed: [Key] = []
        var pauses = 0
        for _ in 0..<400 {
            guard model.isSafe else { return .disagreement }
            guard checksEnd else { return nil }
            let key = Self.key(model)
            if model.isOver || ending.contains(key) {
                ending.formUnion(passed)
                return nil
            }
            passed.append(key)
            if let broken = (0..<model.count).first(where: { model.isBroken($0) }) {
                model.take(.restarted(broken, wasWritten: false))
            } else if let step = model.quickSteps.first {
                model.take(step)
            } else {
                let steps = model.slowSteps
                guard !steps.isEmpty else { return .stuck }
                model.take(steps[pauses % steps.count])
                pauses += 1
            }
        }
        return .stuck
    }

    // MARK: - Keys

    static func key(_ model: ProtocolModel) -> Key {
        var processes: UInt64 = 0
        for member in model.members {
            var bits = UInt64(state(member.machine.state))
            bits = bits << 2 | UInt64(member.durable.rawValue)
            bits = bits << 2 | UInt64(member.pending.rawValue)
            bits = bits << 1 | (member.owesAcknowledgement ? 1 : 0)
            bits = bits << 4 | UInt64(member.owesAnswers)
            bits = bits << 7 | code(member.resolution)
            bits = bits << 1 | (member.hasForgotten ? 1 : 0)
            bits = bits << 1 | (member.isBroken ? 1 : 0)
            processes = processes << 21 | bits
        }
        let leader = model.leader
        var rest = code(leader.machine)
        rest = rest << 3 | UInt64(leader.durable.rawValue)
        rest = rest << 2 | UInt64(leader.pending.rawValue)
        rest = rest << 1 | (leader.isPreparing ? 1 : 0)
        rest = rest << 1 | (leader.hasForgotten ? 1 : 0)
        rest = rest << 1 | (leader.isBroken ? 1 : 0)
        rest = rest << 7 | code(leader.resolution)
        rest = rest << 2 | UInt64(model.client.rawValue)
        rest = rest << 1 | (model.isCommittedSomewhere ? 1 : 0)
        rest = rest << 1 | (model.isAbortedSomewhere ? 1 : 0)
        rest = rest << 1 | (model.isContradicted ? 1 : 0)
        rest = rest << 4 | UInt64(model.crashesLeft)
        var attempts = UInt64(leader.attempt) << 8 | UInt64(model.committedAttempts)
        attempts = attempts << 2 | (leader.isForwarding ? 2 : 0) | (leader.hasForwarded ? 1 : 0)
        for member in model.members {
            attempts = attempts << 3 | UInt64(member.attempt) << 1 | (member.isForwarded ? 1 : 0)
        }
        return Key(
            network: model.network, answers: model.answers, processes: processes, rest: rest,
            attempts: attempts)
    }

    /// For members, who never complete: 3 bits and 2.
    private static func state(_ state: ParticipantMachine.State) -> UInt8 {
        switch state {
        case .unknown: 0
        case .preparing: 1
        case .doomed: 2
        case .prepared: 3
        case .committed: 4
        case .aborted: 5
        }
    }

    private static func mask(_ members: MemberSet) -> UInt64 {
        (0..<4).reduce(0) { members.contains($1) ? $0 | 1 << UInt64($1) : $0 }
    }

    private static func code(_ machine: LeaderMachine?) -> UInt64 {
        switch machine?.state {
        case nil: 0
        case .preparing(let missing): 0x10 | mask(missing)
        case .failing: 0x20
        case .aborting: 0x30
        case .aborted: 0x40
        case .committed(let missing): 0x50 | mask(missing)
        case .completed: 0x60
        }
    }

    private static func code(_ machine: ResolutionMachine?) -> UInt64 {
        switch machine?.state {
        case nil: 0
        case .askingLeader: 1
        case .askingOthers(let missing, let arePrepared):
            0x40 | mask(missing) << 1 | (arePrepared ? 1 : 0)
        case .committed: 2
        case .aborted: 3
        case .blocked: 4
        }
    }
}
