import DrayRuntime
import Testing

@Suite struct FaultTableTests {
    private func table(_ rules: [String]) throws -> FaultTable {
        let table = FaultTable(entropy: Entropy(seed: 1))
        table.set(try rules.map { try FaultRule(parsing: $0) })
        return table
    }

    @Test func nothingStrikesWithoutRules() throws {
        let table = try table([])
        #expect(!table.isArmed)
        for point in FaultPoint.allCases { #expect(table.strike(point) == nil) }
        #expect(table.counts.isEmpty)
    }

    @Test func intervalsAndCountsAreKept() throws {
        let table = try table(["bio.read,interval=3,count=2", "cart.handler,delay=5ms"])
        let struck = (1...12).filter { _ in table.fails(.bioRead) }
        #expect(struck.count == 2)
        #expect(table.strike(.cartHandler) == .wait(.milliseconds(5)))
        #expect(table.strike(.bioWrite) == nil)
        let counts = table.counts
        #expect(counts.map(\.rule.point) == [.cartHandler, .bioRead])
        #expect(counts.map(\.passed) == [1, 12])
        #expect(counts.map(\.struck) == [1, 2])
        table.set([])
        #expect(!table.fails(.bioRead))
    }

    @Test func probabilitiesAreThoseGiven() throws {
        let table = try table(["cart.send,probability=0.25", "cart.receive,probability=0"])
        let struck = (0..<10_000).count { _ in table.fails(.cartSend) }
        #expect((2300...2700).contains(struck))
        #expect((0..<1000).count { _ in table.fails(.cartReceive) } == 0)
        let again = try self.table(["cart.send,probability=0.25"])
        #expect((0..<10_000).count { _ in again.fails(.cartSend) } == struck)
    }

    /// The first error of the point, or the one that the rule names.
    @Test(arguments: FaultPoint.allCases) func pointsFailAsRulesSay(point: FaultPoint) throws {
        #expect(!point.errors.isEmpty && Set(point.errors).count == point.errors.count)
        #expect(try table([point.rawValue]).strike(point) == .fail(point.errors[0]))
        for error in point.errors {
            let table = try table(["\(point.rawValue),error=\(error.rawValue)"])
            #expect(table.strike(point) == .fail(error))
        }
        for error in FaultError.allCases where !point.errors.contains(error) {
            #expect(throws: FaultRuleError.noSuchError(point, error.rawValue)) {
                try FaultRule(parsing: "\(point.rawValue),error=\(error.rawValue)")
            }
        }
    }

    @Test func everyErrorBelongsToAPoint() {
        let used = Set(FaultPoint.allCases.flatMap(\.errors))
        #expect(used == Set(FaultError.allCases))
    }

    @Test func rulesSurviveText() throws {
        for text in [
            "bio.read", "cart.send,probability=0.125", "vos.space,interval=7,count=0",
            "cart.bulk,probability=0.5,interval=2,count=9,delay=1500.0us",
            "cart.handler,count=1,error=no-reply",
        ] {
            #expect(try FaultRule(parsing: text).text == text)
        }
        #expect(try FaultRule(parsing: "swim.send,delay=2s").delay == .seconds(2))
        for text in [
            "", "bio.reed", "bio.read,", "bio.read,probability=2", "bio.read,probability=-1",
            "bio.read,probability=nan", "bio.read,interval=0", "bio.read,count=x",
            "bio.read,delay=5", "bio.read,delay=-1s", "bio.read,delay=1e99s", "bio.read,delay=infs",
            "bio.read,speed=1", "bio.read,probability", "bio.read,error=", "bio.read,error=none",
            "bio.read,error=no-space", "bio.read,error=io,delay=1s",
        ] {
            #expect(throws: FaultRuleError.self, "\(text)") { try FaultRule(parsing: text) }
        }
    }
}
