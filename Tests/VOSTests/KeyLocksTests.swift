import BIO
import DrayRuntime
import Testing

@testable import VOS

/// Who gets a key, who waits, and for how long.
@Suite struct KeyLocksTests {
    typealias Mode = KeyLocks.Mode
    typealias Request = KeyLocks.Request

    static let modes: [Mode] = [.write, .read, .readBelow, .alone]

    /// Whether two holders go together.
    static let areCompatible: [(Mode, Mode, Bool)] = [
        (.write, .write, true), (.write, .read, false), (.write, .readBelow, true),
        (.write, .alone, false),
        (.read, .write, false), (.read, .read, true), (.read, .readBelow, true),
        (.read, .alone, false),
        (.readBelow, .write, true), (.readBelow, .read, true), (.readBelow, .readBelow, true),
        (.readBelow, .alone, false),
        (.alone, .write, false), (.alone, .read, false), (.alone, .readBelow, false),
        (.alone, .alone, false),
    ]

    /// Runs `body` on the xstream of a simulated process, with locks of its own.
    private func run(_ body: @escaping (KeyLocks, XStream) async -> Void) {
        let target = SimulatedTarget(seed: 1)
        let finished = target.run {
            await body(KeyLocks(xstream: target.xstream), target.xstream)
        }
        #expect(finished)
    }

    /// Takes the keys in a task of its own, and notes how that ended.
    private final class Taker {
        private(set) var result: Bool?

        init(
            _ locks: KeyLocks, _ xstream: XStream, _ requests: [Request], until: Instant? = nil
        ) {
            xstream.spawn { [self] in result = await locks.acquire(requests, until: until) }
        }
    }

    private func settle(_ xstream: XStream) async {
        for _ in 0..<20 { await xstream.yield() }
    }

    @Test(arguments: areCompatible.indices)
    func twoHolders(index: Int) {
        let (first, second, isCompatible) = Self.areCompatible[index]
        run { locks, xstream in
            let held = [Request(key: 5, mode: first)]
            let wanted = [Request(key: 5, mode: second)]
            #expect(await locks.acquire(held, until: nil))
            #expect(locks.tryAcquire(wanted) == isCompatible)
            if isCompatible { locks.release(wanted) }
            let waiter = Taker(locks, xstream, wanted)
            await self.settle(xstream)
            #expect((waiter.result ?? false) == isCompatible)
            #expect(locks.heldCount == (isCompatible ? 2 : 1))
            locks.release(held)
            await self.settle(xstream)
            #expect(waiter.result == true)
            locks.release(wanted)
            #expect(locks.heldCount == 0)
            // Nothing is left that would keep anybody out.
            #expect(locks.tryAcquire([Request(key: 5, mode: .alone)]))
        }
    }

    @Test func theTableIsComplete() {
        for first in Self.modes {
            for second in Self.modes {
                #expect(Self.areCompatible.count { $0.0 == first && $0.1 == second } == 1)
            }
        }
    }

    /// Plain readers hold nothing: they wait for who writes, on a key or below an object.
    @Test(arguments: [
        (Mode.write, true, false), (.read, false, false), (.readBelow, false, false),
        (.alone, true, true),
    ])
    func readers(held: Mode, keyWaits: Bool, objectWaits: Bool) {
        let object = IndexKey.object(Names.pool, Names.container, Names.object)
        let path = NamePath(object: object, dkey: [1], akey: [2])
        let objectKey = KeyLocks.object(object)
        let dkey = KeyLocks.dkey(path.bytes, length: path.dkeyEnd)
        run { locks, xstream in
            let soon = { xstream.now + .milliseconds(1) }
            let onKey = [Request(key: dkey, mode: held)]
            #expect(locks.tryAcquire(onKey))
            #expect(await locks.waitForUpdates(of: path, until: soon()) == !keyWaits)
            #expect(await locks.waitForUpdates(ofObject: object, until: soon()))
            locks.release(onKey)
            let onObject = [Request(key: objectKey, mode: held)]
            #expect(locks.tryAcquire(onObject))
            #expect(await locks.waitForUpdates(of: path, until: soon()) == !objectWaits)
            #expect(await locks.waitForUpdates(ofObject: object, until: soon()) == !keyWaits)
            // Another object's readers do not care.
            let other = IndexKey.object(Names.pool, Names.container, ObjectID(high: 1, low: 1))
            #expect(await locks.waitForUpdates(ofObject: other, until: soon()))
            locks.release(onObject)
            #expect(locks.heldCount == 0)
        }
    }

    /// First come, first served: nobody passes somebody who waits, though he could have the key.
    @Test func nobodyIsPassed() {
        run { locks, xstream in
            let write = [Request(key: 1, mode: .write)]
            let read = [Request(key: 1, mode: .read)]
            #expect(await locks.acquire(write, until: nil))
            let reader = Taker(locks, xstream, read)
            await self.settle(xstream)
            let writer = Taker(locks, xstream, write)
            await self.settle(xstream)
            #expect(reader.result == nil && writer.result == nil)
            #expect(!locks.tryAcquire(write))
            locks.release(write)
            await self.settle(xstream)
            #expect(reader.result == true && writer.result == nil)
            locks.release(read)
            await self.settle(xstream)
            #expect(writer.result == true)
            locks.release(write)
            #expect(locks.heldCount == 0)
        }
    }

    /// Those at the front who go together get the key together.
    @Test func neighboursGoTogether() {
        run { locks, xstream in
            let alone = [Request(key: 1, mode: .alone)]
            #expect(await locks.acquire(alone, until: nil))
            var takers: [Taker] = []
            for mode in [Mode.read, .readBelow, .read, .write, .read] {
                takers.append(Taker(locks, xstream, [Request(key: 1, mode: mode)]))
                await self.settle(xstream)
            }
            locks.release(alone)
            await self.settle(xstream)
            #expect(takers.map { $0.result ?? false } == [true, true, true, false, false])
            #expect(locks.heldCount == 3)
            locks.release([Request(key: 1, mode: .read), Request(key: 1, mode: .read)])
            await self.settle(xstream)
            // A writer does not mind who reads below.
            #expect(takers.map { $0.result ?? false } == [true, true, true, true, false])
            locks.release([Request(key: 1, mode: .write)])
            await self.settle(xstream)
            #expect(takers[4].result == true)
            locks.release([Request(key: 1, mode: .read), Request(key: 1, mode: .readBelow)])
            #expect(locks.heldCount == 0)
        }
    }

    /// Who gives up does not keep out those who wait behind, and leaves nothing locked.
    @Test func whoGivesUpIsNotInTheWay() {
        run { locks, xstream in
            let held = [Request(key: 2, mode: .write)]
            #expect(await locks.acquire(held, until: nil))
            let start = xstream.now
            let impatient = Taker(
                locks, xstream,
                [
                    Request(key: 1, mode: .alone), Request(key: 2, mode: .alone),
                    Request(key: 3, mode: .alone),
                ], until: start + .milliseconds(2))
            await self.settle(xstream)
            let behind = Taker(locks, xstream, held)
            let first = Taker(locks, xstream, [Request(key: 1, mode: .write)])
            await self.settle(xstream)
            #expect(impatient.result == nil && behind.result == nil && first.result == nil)
            await xstream.sleep(until: start + .milliseconds(3))
            #expect(impatient.result == false)
            #expect(behind.result == true && first.result == true)
            #expect(locks.heldCount == 3)
            locks.release(held + held + [Request(key: 1, mode: .write)])
            #expect(locks.heldCount == 0)
        }
    }

    @Test func aDeadlineThatHasPassed() {
        run { locks, xstream in
            let alone = [Request(key: 1, mode: .alone)]
            // What is free needs no time.
            #expect(await locks.acquire(alone, until: xstream.now))
            var asked: [UInt64] = []
            locks.onWait = { asked.append($0) }
            #expect(!(await locks.acquire(alone, until: xstream.now)))
            #expect(!(await locks.acquire(alone, until: xstream.now + .milliseconds(1))))
            #expect(asked == [1])
            locks.release(alone)
            #expect(locks.heldCount == 0)
        }
    }

    /// All or none.
    @Test func trying() {
        run { locks, _ in
            let held = [Request(key: 2, mode: .read)]
            #expect(locks.tryAcquire(held))
            #expect(
                !locks.tryAcquire([Request(key: 1, mode: .write), Request(key: 2, mode: .write)]))
            #expect(locks.heldCount == 1)
            #expect(locks.tryAcquire([Request(key: 1, mode: .alone)]))
            locks.release(held + [Request(key: 1, mode: .alone)])
        }
    }

    /// What others have ordered is taken whoever holds it; then each of them is waited for.
    @Test(arguments: modes, modes)
    func adopting(first: Mode, second: Mode) {
        run { locks, xstream in
            locks.adopt([Request(key: 1, mode: first)])
            locks.adopt([Request(key: 1, mode: second), Request(key: 2, mode: .alone)])
            #expect(locks.heldCount == 3)
            let taker = Taker(locks, xstream, [Request(key: 1, mode: .alone)])
            await self.settle(xstream)
            #expect(taker.result == nil)
            locks.release([Request(key: 1, mode: first)])
            await self.settle(xstream)
            #expect(taker.result == nil)
            locks.release([Request(key: 1, mode: second), Request(key: 2, mode: .alone)])
            await self.settle(xstream)
            #expect(taker.result == true)
            #expect(locks.heldCount == 1)
        }
    }

    /// A reader waits for what was adopted before it came, in whichever order that ends, and not
    /// for what came later: that may never leave a gap.
    @Test(arguments: [.write, .alone] as [Mode], [false, true])
    func readersAreNotOvertaken(mode: Mode, laterEndsFirst: Bool) {
        run { locks, xstream in
            let object = [UInt8](repeating: 7, count: IndexKey.objectLength)
            let requests = [Request(key: KeyLocks.object(object), mode: mode)]
            let before = locks.adopt(requests)
            var read: [Bool?] = [nil, nil]
            func beginRead(_ index: Int) {
                xstream.spawn {
                    read[index] = await locks.waitForUpdates(ofObject: object, until: nil)
                }
            }
            beginRead(0)
            await self.settle(xstream)
            var later = [locks.adopt(requests)]
            await self.settle(xstream)
            #expect(read == [nil, nil])
            if laterEndsFirst {
                later.append(locks.adopt(requests))
                locks.release(later.removeFirst())
                await self.settle(xstream)
                #expect(read == [nil, nil])
            }
            beginRead(1)
            await self.settle(xstream)
            let last = locks.adopt(requests)
            locks.release(before)
            await self.settle(xstream)
            #expect(read == [true, nil])
            locks.release(later[0])
            await self.settle(xstream)
            #expect(read == [true, true])
            // Who wants to hold it waits for all.
            let taker = Taker(locks, xstream, [Request(key: requests[0].key, mode: .alone)])
            await self.settle(xstream)
            #expect(taker.result == nil)
            locks.release(last)
            await self.settle(xstream)
            #expect(taker.result == true)
            #expect(locks.heldCount == 1)
        }
    }

    /// Two changes came after a reader, and the second one ends first: the reader would see it, so
    /// it must see the first one too, which may have been acknowledged before the second one began.
    @Test(arguments: [true, false]) func readersSeeNoGaps(isWaiting: Bool) {
        run { locks, xstream in
            let object = [UInt8](repeating: 7, count: IndexKey.objectLength)
            let path = NamePath(object: object, dkey: [1], akey: [2])
            let dkey = KeyLocks.dkey(path.bytes, length: path.dkeyEnd)
            let requests = KeyLocks.ordered([
                Request(key: KeyLocks.object(object), mode: .write),
                Request(key: dkey, mode: .write),
            ])
            let before = locks.adopt(requests)
            var read: [Bool] = []
            xstream.spawn { read.append(await locks.waitForUpdates(of: path, until: nil)) }
            await self.settle(xstream)
            let first = locks.adopt(requests)
            let second = locks.adopt(requests)
            if isWaiting {
                locks.release(second)
                locks.release(before)
            } else {
                // The reader is let through, and has not looked yet.
                locks.release(before)
                locks.release(second)
            }
            await self.settle(xstream)
            #expect(read == [])
            locks.release(first)
            await self.settle(xstream)
            #expect(read == [true])
            #expect(locks.heldCount == 0)
        }
    }

    /// Each key once, in ascending order, with a mode that keeps out whatever each of its modes
    /// keeps out, in any order.
    @Test func ordering() {
        func compatible(_ first: Mode, _ second: Mode) -> Bool {
            Self.areCompatible.first { $0.0 == first && $0.1 == second }?.2 ?? false
        }
        #expect(KeyLocks.ordered([]) == [])
        for first in Self.modes {
            for second in Self.modes {
                for third in Self.modes {
                    let modes = [first, second, third]
                    let ordered = KeyLocks.ordered(
                        [Request(key: 9, mode: .read)] + modes.map { Request(key: 4, mode: $0) }
                            + [Request(key: 1, mode: .write)])
                    #expect(ordered.map(\.key) == [1, 4, 9])
                    let joined = ordered[1].mode
                    for other in Self.modes where modes.contains(where: { !compatible($0, other) })
                    {
                        #expect(!compatible(joined, other))
                    }
                    // And no stronger than that needs.
                    if Set(modes).subtracting([.readBelow, first]).isEmpty, first != .readBelow {
                        #expect(joined == first)
                    }
                    for permutation in [[third, first, second], [second, first, third]] {
                        let same = KeyLocks.ordered(permutation.map { Request(key: 4, mode: $0) })
                        #expect(same == [Request(key: 4, mode: joined)])
                    }
                }
            }
        }
    }

    /// Many who take several keys at once never wait in a circle, and end.
    @Test(arguments: 0..<6 as Range<UInt64>)
    func manyWhoTakeSeveral(seed: UInt64) {
        run { locks, xstream in
            var entropy = Entropy(seed: seed)
            var left = 60
            var refused = 0
            for index in 0..<left {
                var requests: [Request] = []
                for _ in 0..<4 {
                    let mode = Self.modes[Int(entropy.below(4))]
                    requests.append(Request(key: entropy.below(6), mode: mode))
                }
                let ordered = KeyLocks.ordered(requests)
                let patience: Duration? =
                    index % 3 == 0 ? .microseconds(Int64(entropy.below(300))) : nil
                let time = Duration.microseconds(Int64(entropy.below(20)))
                xstream.spawn {
                    if await locks.acquire(ordered, until: patience.map { xstream.now + $0 }) {
                        await xstream.sleep(for: time)
                        locks.release(ordered)
                    } else {
                        refused += 1
                    }
                    left -= 1
                }
            }
            while left > 0 { await xstream.sleep(for: .microseconds(50)) }
            #expect(locks.heldCount == 0)
            #expect(refused < 20)
        }
    }
}

extension KeyLocks {
    fileprivate static func ordered(_ requests: [Request]) -> [Request] {
        var requests = requests
        order(&requests)
        return requests
    }
}
