import DrayTransactions
import Testing

/// The machines against each other: every order of messages, deaths and restarts up to a bound,
/// and beyond it by chance.
@Suite struct ProtocolTests {
    typealias Flaw = ProtocolModel.Flaw
    typealias Rules = ProtocolModel.Rules

    private func describe(_ finding: ProtocolExplorer.Finding?) -> Comment {
        guard let finding else { return "" }
        return "\(finding.problem):\n\(finding.path.map { "\($0)" }.joined(separator: "\n"))"
    }

    /// Every state of a leader with one member.
    @Test(arguments: 0..<5, [false, true])
    func twoAgreeInEveryOrder(crashes: Int, isForgetful: Bool) {
        var rules = Rules(count: 2, crashes: crashes)
        rules.forgets = isForgetful
        rules.tellsWhenDurable = isForgetful
        var explorer = ProtocolExplorer(rules)
        let finding = explorer.explore(limit: 100_000)
        #expect(finding == nil, describe(finding))
        #expect(explorer.isExhaustive)
    }

    /// The states of a leader with two members that are nearest to the beginning.
    @Test(arguments: [0, 1, 2], [false, true])
    func threeAgree(crashes: Int, isForgetful: Bool) {
        var rules = Rules(count: 3, crashes: crashes)
        rules.forgets = isForgetful
        rules.tellsWhenDurable = isForgetful
        var explorer = ProtocolExplorer(rules)
        let finding = explorer.explore(limit: 30_000)
        #expect(finding == nil, describe(finding))
    }

    /// Long ways through the states that the search does not reach.
    @Test(arguments: [3, 4], [false, true])
    func manyAgreeByChance(count: Int, isForgetful: Bool) {
        for crashes in [0, 2, 6] {
            var rules = Rules(count: count, crashes: crashes)
            rules.forgets = isForgetful
            rules.tellsWhenDurable = isForgetful
            var explorer = ProtocolExplorer(rules)
            for seed in 0..<2_000 as Range<UInt64> {
                let finding = explorer.walk(seed: seed, length: 120)
                #expect(finding == nil, "seed \(seed), \(describe(finding))")
            }
        }
    }

    /// The client sends a transaction again to a leader that was restarted. It has nothing of it,
    /// but members may have prepared the first attempt; or it has prepared it, and members may lack
    /// it.
    @Test(arguments: 2...4, [false, true])
    func attemptsAreNotMixed(count: Int, isForgetful: Bool) {
        var rules = Rules(count: count, crashes: 2, resends: true)
        rules.forgets = isForgetful
        rules.tellsWhenDurable = isForgetful
        var explorer = ProtocolExplorer(rules)
        let finding = explorer.explore(limit: 30_000)
        #expect(finding == nil, describe(finding))
        for seed in 0..<2_000 as Range<UInt64> {
            let finding = explorer.walk(seed: seed, length: 160)
            #expect(finding == nil, "seed \(seed), \(describe(finding))")
        }
    }

    /// What was decided long ago is forgotten, and a member that knows nothing of a transaction so
    /// old says neither that it was aborted nor that it never will be. That is safe; but a leader
    /// that finds a prepared transaction after a long absence waits for ever. `tellsWhenDurable`
    /// is the way out.
    @Test(arguments: [2, 3])
    func aLeaderThatComesBackLateIsSafeAndBlocked(count: Int) throws {
        let rules = Rules(count: count, crashes: 1, forgets: true)
        var explorer = ProtocolExplorer(rules)
        let found = explorer.explore(limit: 1_000)
        let finding = try #require(found)
        #expect(finding.problem == .stuck)
        #expect(finding.path == [.restarted(0, wasWritten: true), .forgot(1)])
        var safety = ProtocolExplorer(rules)
        safety.checksEnd = false
        let harm = safety.explore(limit: 20_000)
        #expect(harm == nil, describe(harm))
    }

    /// Each mistake is found: these tests can fail.
    @Test(arguments: Flaw.allCases)
    func aFlawIsFound(flaw: Flaw) {
        var rules = Rules(count: 3, crashes: 1, flaws: [flaw])
        switch flaw {
        case .commitsBeforeAllArePrepared, .unknownDoesNotRefuse, .undecidedCountsAsPrepared,
            .silenceMeansAbort, .repliesBeforeAbortIsDurable, .answersBeforeRefusalIsDurable:
            break
        case .forgetsBeforeAllKnow:
            rules.forgets = true
            rules.tellsWhenDurable = true
        case .acknowledgesBeforeCommitIsDurable:
            rules.count = 2
            rules.forgets = true
            rules.tellsWhenDurable = true
        case .forgottenMeansAborted:
            rules.count = 2
            rules.forgets = true
        case .tellsBeforeItsFailureIsDurable: rules.count = 2
        case .takesOneAttemptForAnother:
            rules.count = 2
            rules.crashes = 2
            rules.resends = true
        case .silenceMeansRefusal:
            rules.count = 2
            rules.resends = true
        }
        var explorer = ProtocolExplorer(rules)
        var finding = explorer.explore(limit: 5_000)
        var seed: UInt64 = 0
        while finding == nil, seed < 1_000 {
            finding = explorer.walk(seed: seed, length: 120)
            seed += 1
        }
        if finding == nil, flaw == .answersBeforeRefusalIsDurable {
            finding = follow(Self.hastyRefusal, rules)
        }
        #expect(finding?.problem == .disagreement)
    }

    /// Member 1, whom the leader does not answer, asks member 2 twice. That one refuses, and dies
    /// before the refusal is on stable storage; the prepare reaches it after its restart.
    static let hastyRefusal: [ProtocolModel.Step] = [
        .prepared(0), .deliver(.prepare, 1), .prepared(1), .deliver(.prepareSucceeded, 1),
        .resolve(1), .silent(of: 0, by: 1), .ask(from: 1, to: 2), .silent(of: 2, by: 1),
        .resolve(1), .silent(of: 0, by: 1), .ask(from: 1, to: 2),
        .restarted(2, wasWritten: false), .deliver(.prepare, 2), .prepared(2),
        .deliver(.prepareSucceeded, 2), .answer(from: 2, to: 1, .aborted),
    ]

    /// Takes the steps as long as they can happen.
    private func follow(
        _ steps: [ProtocolModel.Step], _ rules: Rules
    ) -> ProtocolExplorer.Finding? {
        var model = ProtocolModel(rules)
        for (index, step) in steps.enumerated() {
            guard model.steps.contains(step) else { return nil }
            model.take(step)
            if !model.isSafe {
                return ProtocolExplorer.Finding(
                    problem: .disagreement, path: Array(steps[0...index]))
            }
        }
        return nil
    }

    @Test func aRefusalIsDurableBeforeAnybodyHearsOfIt() {
        #expect(follow(Self.hastyRefusal, Rules()) == nil)
        let hasty = Rules(flaws: [.answersBeforeRefusalIsDurable])
        #expect(follow(Self.hastyRefusal, hasty)?.path.count == Self.hastyRefusal.count)
    }
}
