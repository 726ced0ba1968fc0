import DrayFabric
import Testing

@testable import CaRT

@Suite struct ReplyAccountTests {
    private static func caller(_ number: UInt8) -> FabricAddress {
        FabricAddress(provider: "sim", bytes: [number])
    }

    @Test func countsForEachCallerAndForAll() {
        let account = ReplyAccount(bytesMax: 100 * ReplyAccount.callersMin)
        // The last one may go beyond it.
        var first = [99, 500].map { account.charge($0, to: Self.caller(1)) }
        #expect(first.allSatisfy { $0 != nil } && account.bytes == 599)
        #expect(account.charge(1, to: Self.caller(1)) == nil)
        // That was more than all callers may have.
        #expect(account.charge(1, to: Self.caller(2)) == nil)
        first.removeLast()
        #expect(account.bytes == 99)
        var others = (2...5).map { account.charge(100, to: Self.caller($0)) }
        #expect(others.count { $0 != nil } == 4 && account.bytes == 499)
        #expect(account.charge(1, to: Self.caller(1)) == nil)
        #expect(account.charge(1, to: Self.caller(6)) == nil)
        others.removeFirst()
        #expect(account.charge(1, to: Self.caller(3)) == nil)
        let second = account.charge(1, to: Self.caller(2))
        #expect(second != nil && account.bytes == 400)
        first = []
        others = []
        withExtendedLifetime(second) { #expect(account.bytes == 1) }
    }
}
