import DrayFabric
import DrayRuntime
import Testing

@testable import CaRT

@Suite struct SpillTableTests {
    private struct Spill {
        var number: UInt64
        var request: SpillTable<Value>.Request
        var expires: UInt64
    }

    private static let address = FabricAddress(provider: "sim", bytes: [1])

    /// Says when it is gone.
    final class Value {
        let number: UInt64
        let gone: (UInt64) -> Void

        init(_ number: UInt64, _ gone: @escaping (UInt64) -> Void) {
            self.number = number
            self.gone = gone
        }

        deinit { gone(number) }
    }

    /// Against a list. Also of callers who name what is not theirs.
    @Test(arguments: UInt64(1)...30)
    func holdsWhatTheModelHolds(seed: UInt64) {
        var random = Entropy(seed: seed)
        var table = SpillTable<Value>()
        var model: [Spill] = []
        var held: Set<UInt64> = []
        var (closed, now): (Set<UInt32>, UInt64) = ([], 0)
        func session() -> SessionID { SessionID(index: UInt32(random.below(4)), generation: 1) }
        for _ in 0..<2_000 {
            switch random.below(10) {
            case 0...3:
                let number = table.next
                let spill = Spill(
                    number: number, request: .init(session: session(), number: number * 7),
                    expires: now + random.below(300))
                model.append(spill)
                held.insert(number)
                table.keep(
                    Value(number) { held.remove($0) }, for: spill.request,
                    of: .init(address: Self.address, instance: number), until: spill.expires)
            case 4...5:
                let (number, owner) = (random.below(table.next + 2), session())
                table.release(number, of: owner)
                model.removeAll { $0.number == number && $0.request.session == owner }
            case 6...7:
                let request = SpillTable<Value>.Request(
                    session: session(), number: random.below(table.next + 2) * 7)
                table.release(request)
                model.removeAll { $0.request == request }
            default:
                now += random.below(60)
                if random.below(4) == 0 { closed = [UInt32(random.below(4))] }
                // Some cannot be taken yet.
                let refused = random.below(3)
                table.sweep(now: now, isOpen: { !closed.contains($0.index) }) {
                    #expect($0.memory.number == $0.number && $0.caller.instance == $0.number)
                    return $0.number % 3 != refused
                }
                model.removeAll {
                    $0.number % 3 != refused
                        && ($0.expires < now || closed.contains($0.request.session.index))
                }
            }
            table.checkInvariants()
            #expect(held == Set(model.map(\.number)))
            #expect(table.count == model.count)
        }
        table.removeAll()
        table.checkInvariants()
        #expect(held.isEmpty)
    }

    /// A caller that gives two requests one number has the later one found by it, and the other
    /// one goes in time.
    @Test func oneNumberTwice() {
        var table = SpillTable<Int>()
        let request = SpillTable<Int>.Request(
            session: SessionID(index: 1, generation: 1), number: 5)
        let caller = SpillTable<Int>.Caller(address: Self.address, instance: 7)
        table.keep(1, for: request, of: caller, until: 100)
        table.keep(2, for: request, of: caller, until: 200)
        table.release(1, of: request.session)
        table.checkInvariants()
        table.keep(3, for: request, of: caller, until: 150)
        table.release(request)
        table.checkInvariants()
        #expect(table.count == 1)
        table.sweep(now: 199, isOpen: { _ in true }) { _ in true }
        #expect(table.count == 1)
        table.sweep(now: 201, isOpen: { _ in true }) { _ in true }
        #expect(table.isEmpty)
        table.checkInvariants()
    }
}
