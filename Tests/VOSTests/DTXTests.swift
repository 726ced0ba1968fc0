import BIO
import DrayRuntime
import Testing

@testable import VOS

/// The life of transactions on one target.
@Suite struct DTXTests {
    /// Small values, which lie in the log and the index, and ones in blocks.
    static let sizes = [0, 100, 4095, 4096, 20_000]

    private func key(_ number: UInt64) -> [UInt8] {
        [UInt8(truncatingIfNeeded: number), UInt8(truncatingIfNeeded: number >> 8)]
    }

    /// Runs the steps one after the other, each after a restart; all but killed ones are clean.
    private func lives(
        _ target: SimulatedTarget, isKilled: Bool = true, _ steps: [(VOS) async throws -> Void]
    ) {
        for step in steps {
            let finished = target.run {
                let vos = try await target.open()
                try await vos.checkInvariants()
                try await step(vos)
                try await vos.checkInvariants()
                if !isKilled { await target.close(vos) }
            }
            #expect(finished)
            target.restart()
        }
    }

    @Test(arguments: sizes)
    func whatIsCommittedIsVisibleAtItsEpoch(size: Int) {
        let value = [UInt8].pattern(size, seed: 1)
        let target = SimulatedTarget(seed: UInt64(size))
        lives(
            target,
            [
                { vos in
                    try await vos.putSingle([1], [], [0], epoch: 10)
                    let work = DTXWork(.dtx(1), [.single([1], value), .single([2], value)])
                    let dtx = try await vos.begin(work, epoch: 20)
                    #expect(vos.outcome(of: .dtx(1)) == "begun")
                    #expect(dtx.epoch == 20 && vos.undecided.isEmpty)
                    try await vos.prepare(dtx, work.updates)
                    withExtendedLifetime(work) {}
                    #expect(vos.outcome(of: .dtx(1)) == "prepared")
                    #expect(vos.undecided.map(\.id) == [.dtx(1)])
                    #expect(vos.newestEpoch == 20)
                    try await vos.checkInvariants()
                    vos.commit(dtx)
                    #expect(vos.outcome(of: .dtx(1)) == "committed at 20")
                    #expect(try await vos.getSingle([1], []) == value)
                    #expect(try await vos.getSingle([1], [], epoch: 20) == value)
                    #expect(try await vos.getSingle([1], [], epoch: 19) == [0])
                    #expect(try await vos.getSingle([2], []) == value)
                    #expect(try await vos.getSingle([2], [], epoch: 19) == nil)
                    #expect(vos.uncompleted.map(\.id) == [.dtx(1)])
                    #expect(vos.uncompleted.map(\.members) == [[7, 8, 9]])
                    try await vos.flushOutcomes()
                },
                { vos in
                    #expect(vos.outcome(of: .dtx(1)) == "committed at 20")
                    #expect(try await vos.getSingle([1], []) == value)
                    #expect(try await vos.getSingle([1], [], epoch: 19) == [0])
                    #expect(vos.uncompleted.map(\.epoch) == [20])
                    vos.complete(.dtx(1))
                    vos.complete(.dtx(1))
                    vos.complete(.dtx(2))
                    #expect(vos.uncompleted.isEmpty)
                    try await vos.flushOutcomes()
                },
                { vos in
                    #expect(vos.uncompleted.isEmpty)
                    #expect(vos.outcome(of: .dtx(1)) == "committed at 20")
                    let kept = try await vos.getSingle([2], [])
                    #expect(kept == value)
                },
            ])
    }

    @Test(arguments: sizes, [false, true])
    func whatIsAbortedLeavesNothing(size: Int, isReopened: Bool) {
        let value = [UInt8].pattern(size, seed: 1)
        let target = SimulatedTarget(seed: UInt64(size))
        var free: UInt64 = 0
        lives(
            target,
            [
                { vos in
                    try await vos.putSingle([1], [], [0], epoch: 10)
                    try await vos.checkpoint()
                    free = vos.space.free
                    let dtx = try await vos.prepare(
                        .dtx(1), [.single([1], value), .single([2], value)], epoch: 20)
                    #expect(size < 4096 || vos.space.free < free)
                    if !isReopened { try await vos.abort(dtx) }
                },
                { vos in
                    if isReopened { try await vos.abort(vos.prepared(.dtx(1))) }
                    #expect(vos.outcome(of: .dtx(1)) == "aborted")
                    #expect(try await vos.getSingle([1], []) == [0])
                    #expect(try await vos.getSingle([2], []) == nil)
                    #expect(vos.undecided.isEmpty && vos.uncompleted.isEmpty)
                    #expect(vos.usage(pool: Names.pool).entries == 1)
                    // What waits until no group of the log checks it is free again then.
                    try await vos.putSingle([1], [], [1], epoch: 30)
                    try await vos.checkInvariants()
                    #expect(vos.space.free == free)
                },
                { vos in
                    #expect(vos.outcome(of: .dtx(1)) == "aborted")
                    await #expect(throws: VOSError.duplicateInProgress(.dtx(1))) {
                        _ = try await vos.prepare(.dtx(1), [.single([1], value)], epoch: 40)
                    }
                },
            ])
    }

    @Test func aTransactionThatIsBegunCanBeAborted() {
        let target = SimulatedTarget(seed: 1)
        lives(
            target,
            [
                { vos in
                    let work = DTXWork(.dtx(1), [.single([1], [1])])
                    let dtx = try await vos.begin(work, epoch: 20)
                    try await vos.abort(dtx)
                    #expect(vos.outcome(of: .dtx(1)) == "aborted")
                    #expect(vos.locks.heldCount == 0)
                    await #expect(throws: VOSError.duplicateInProgress(.dtx(1))) {
                        _ = try await vos.begin(work, epoch: 20)
                    }
                    try await vos.flushOutcomes()
                },
                { vos in #expect(vos.outcome(of: .dtx(1)) == "aborted") },
            ])
    }

    /// A prepare that fails has ended, and whoever asks later hears that, after a restart too.
    @Test func aPrepareThatFailsIsAborted() {
        let target = SimulatedTarget(seed: 2, blocks: 256)
        lives(
            target,
            [
                { vos in
                    let large = [UInt8].pattern(1 << 20, seed: 1)
                    do {
                        try await vos.prepare(
                            .dtx(1), [.single([1], [9]), .single([2], large)], epoch: 20)
                        Issue.record("a value that has no room")
                    } catch VOSError.noSpace {}
                    #expect(vos.outcome(of: .dtx(1)) == "aborted")
                    try await vos.checkInvariants()
                    try await vos.flushOutcomes()
                },
                { vos in
                    #expect(vos.outcome(of: .dtx(1)) == "aborted")
                    #expect(vos.entryCount == 0)
                },
            ])
    }

    @Test func conditionsHoldWhenItBegins() {
        let target = SimulatedTarget(seed: 3)
        lives(
            target,
            [
                { vos in
                    try await vos.putSingle([1], [], [1], epoch: 10)
                    await #expect(throws: VOSError.exists) {
                        _ = try await vos.prepare(
                            .dtx(1), [.single([1], [2], condition: .insert)], epoch: 20)
                    }
                    await #expect(throws: VOSError.notFound) {
                        _ = try await vos.prepare(
                            .dtx(1),
                            [
                                .single([1], [2], condition: .update),
                                .single([2], [2], condition: .update),
                            ], epoch: 20)
                    }
                    // It never was here, so it can be tried again.
                    #expect(vos.outcome(of: .dtx(1)) == "unknown")
                    #expect(vos.locks.heldCount == 0)
                    let dtx = try await vos.prepare(
                        .dtx(1),
                        [
                            .single([1], [2], condition: .update),
                            .single([2], [2], condition: .insert),
                        ], epoch: 20)
                    // Nobody else may look at these keys with a condition meanwhile.
                    await #expect(throws: VOSError.conflict) {
                        _ = try await vos.prepare(
                            .dtx(2), [.single([2], [3], condition: .insert)], epoch: 21)
                    }
                    vos.commit(dtx)
                    await #expect(throws: VOSError.exists) {
                        _ = try await vos.prepare(
                            .dtx(2), [.single([2], [3], condition: .insert)], epoch: 21)
                    }
                    // Conditions of what another target leads are that target's business.
                    let followed = try await vos.prepare(
                        .dtx(3), [.single([2], [3], condition: .insert)], epoch: 22, leads: false)
                    vos.commit(followed)
                    #expect(try await vos.getSingle([2], []) == [3])
                }
            ])
    }

    @Test(arguments: [false, true])
    func severalObjectsBecomeVisibleTogether(isReopened: Bool) {
        let target = SimulatedTarget(seed: 4)
        let first = ObjectID(high: 7 << 32, low: 1)
        let second = ObjectID(high: 7 << 32, low: 2)
        let value = [UInt8].pattern(9000, seed: 3)
        let changes: [DTXChange] = [
            DTXChange(dkey: [1], akey: [], body: .punchDkey, object: first),
            DTXChange(dkey: [1], akey: [2], body: .single([5]), object: first),
            DTXChange(dkey: [1], akey: [3], body: .array(7, value), object: first),
            DTXChange(dkey: [], akey: [], body: .punchObject, object: second),
            DTXChange(dkey: [4], akey: [], body: .single(value), object: second),
        ]
        lives(
            target,
            [
                { vos in
                    try await vos.putSingle([1], [], [1], epoch: 10, object: first)
                    try await vos.putSingle([9], [], [1], epoch: 10, object: second)
                    let dtx = try await vos.prepare(.dtx(1), changes, epoch: 20)
                    #expect(dtx.operations.count == 5)
                    if !isReopened {
                        vos.commit(dtx)
                        try await vos.flushOutcomes()
                    }
                },
                { vos in
                    if isReopened { try vos.commit(vos.prepared(.dtx(1))) }
                    #expect(try await vos.getSingle([1], [], object: first) == nil)
                    #expect(try await vos.getSingle([1], [2], object: first) == [5])
                    let array = try await vos.getArray([1], [3], 0..<9007, object: first)
                    #expect(array.bytes == [0, 0, 0, 0, 0, 0, 0] + value)
                    #expect(try await vos.getSingle([9], [], object: second) == nil)
                    #expect(try await vos.getSingle([9], [], epoch: 19, object: second) == [1])
                    #expect(try await vos.getSingle([4], [], object: second) == value)
                    try await vos.aggregate(upTo: 25)
                    try await vos.checkpoint()
                    #expect(vos.entryCount == 3)
                },
                { vos in
                    let kept = try await vos.getSingle([4], [], object: second)
                    #expect(kept == value)
                    #expect(vos.outcome(of: .dtx(1)) == "committed at 20")
                },
            ])
    }

    /// Its keys are locked as before, until somebody says what became of it.
    @Test(arguments: [false, true], [false, true])
    func anUndecidedTransactionHoldsItsKeysAfterAReopen(isCheckpointed: Bool, isCommitted: Bool) {
        let target = SimulatedTarget(seed: 5)
        let value = [UInt8].pattern(20_000, seed: 1)
        var blocked: [UniqueID] = []
        lives(
            target,
            [
                { vos in
                    try await vos.putSingle([1], [], [0], epoch: 10)
                    try await vos.prepare(
                        .dtx(1), [.single([1], value), .single([2], [2])], epoch: 20)
                    if isCheckpointed { try await vos.checkpoint() }
                },
                { vos in
                    if isCheckpointed { try await vos.checkpoint() }
                },
                { vos in
                    #expect(vos.outcome(of: .dtx(1)) == "prepared")
                    #expect(try vos.prepared(.dtx(1)).members == [7, 8, 9])
                    #expect(try vos.prepared(.dtx(1)).isLeader)
                    #expect(vos.newestEpoch == 20)
                    vos.onBlocked = { blocked.append($0.id) }
                    try await self.expectUndecided(vos, target, key: [1])
                    #expect(!blocked.isEmpty && Set(blocked) == [.dtx(1)])
                    // Other keys are free.
                    try await vos.putSingle([3], [], [3], epoch: 30)
                    #expect(try await vos.getSingle([3], []) == [3])
                    // Whoever has no limit to his patience sees what it comes to.
                    var seen: [UInt8]?
                    var isRead = false
                    target.xstream.spawn {
                        do { seen = try await vos.getSingle([1], []) } catch {
                            Issue.record("\(error)")
                        }
                        isRead = true
                    }
                    await target.xstream.sleep(for: .milliseconds(5))
                    #expect(!isRead)
                    let dtx = try vos.prepared(.dtx(1))
                    if isCommitted { vos.commit(dtx) } else { try await vos.abort(dtx) }
                    while !isRead { await target.xstream.sleep(for: .microseconds(50)) }
                    #expect(seen == (isCommitted ? value : [0]))
                    try await vos.flushOutcomes()
                },
                { vos in
                    let first = try await vos.getSingle([1], [])
                    #expect(first == (isCommitted ? value : [0]))
                    let second = try await vos.getSingle([2], [])
                    #expect(second == (isCommitted ? [2] : nil))
                },
            ])
    }

    private func expectUndecided(
        _ vos: VOS, _ target: SimulatedTarget, key: [UInt8]
    ) async throws {
        var fetch = Fetch(
            pool: Names.pool, container: Names.container, object: Names.object, dkey: key, akey: [])
        let buffer = IOBuffer(count: 4096)
        for epoch in [15, 25, UInt64.max] {
            fetch.epoch = epoch
            fetch.patience = target.xstream.now + .milliseconds(3)
            let limited = fetch
            await #expect(throws: VOSError.undecided) {
                _ = try await vos.fetchSingle(limited, into: buffer.bytes)
            }
            #expect(target.xstream.now >= limited.patience ?? target.xstream.now)
        }
        let work = DTXWork(.dtx(99), [.single(key, [1])])
        var conditional = DTXWork(.dtx(98), [.single(key, [1], condition: .insert)]).updates[0]
        conditional.epoch = 40
        let update = conditional
        await #expect(throws: VOSError.undecided) {
            try await vos.update(update, patience: target.xstream.now + .milliseconds(3))
        }
        let punch = DTXWork(.dtx(97), [DTXChange(dkey: [], akey: [], body: .punchObject)])
        await #expect(throws: VOSError.undecided) {
            _ = try await vos.begin(
                punch, epoch: 40, patience: target.xstream.now + .milliseconds(3))
        }
        await #expect(throws: VOSError.conflict) {
            _ = try await vos.begin(punch, epoch: 40)
        }
        #expect(vos.outcome(of: .dtx(97)) == "unknown")
        let read = DTXRequest.Read(
            pool: Names.pool, container: Names.container, object: Names.object, dkey: key)
        await #expect(throws: VOSError.undecided) {
            try await vos.validate(
                [read], snapshot: 50, patience: target.xstream.now + .milliseconds(3))
        }
        withExtendedLifetime((work, punch)) {}
    }

    // MARK: - Memory

    /// A resend is recognised by all ways in, over checkpoints and restarts.
    @Test(arguments: [false, true])
    func resendsAreRecognised(isCheckpointed: Bool) {
        let target = SimulatedTarget(seed: 6)
        lives(
            target,
            [
                { vos in
                    vos.commit(try await vos.prepare(.dtx(1), [.single([1], [1])], epoch: 20))
                    try await vos.abort(
                        vos.prepare(.dtx(2), [.single([1], [2])], epoch: 21))
                    try await vos.prepare(.dtx(3), [.single([3], [3])], epoch: 22)
                    await #expect(throws: VOSError.duplicateInProgress(.dtx(3))) {
                        _ = try await vos.prepare(.dtx(3), [.single([4], [3])], epoch: 23)
                    }
                    await #expect(throws: VOSError.duplicateInProgress(.dtx(3))) {
                        try await vos.putSingle([4], [], [3], epoch: 23, transaction: .dtx(3))
                    }
                    if isCheckpointed { try await vos.checkpoint() }
                    try await vos.flushOutcomes()
                },
                { vos in
                    #expect(vos.outcome(of: .dtx(1)) == "committed at 20")
                    #expect(vos.transactionOutcome(.dtx(1)) == 20)
                    #expect(vos.outcome(of: .dtx(2)) == "aborted")
                    #expect(vos.transactionOutcome(.dtx(2)) == nil)
                    #expect(vos.outcome(of: .dtx(3)) == "prepared")
                    #expect(vos.outcome(of: .dtx(4)) == "unknown")
                    for number in [1, 2, 3] as [UInt64] {
                        await #expect(throws: VOSError.duplicateInProgress(.dtx(number))) {
                            _ = try await vos.prepare(.dtx(number), [.single([4], [9])], epoch: 30)
                        }
                    }
                    // A plain update with the id of what was committed is a resend of it.
                    try await vos.putSingle([4], [], [9], epoch: 31, transaction: .dtx(1))
                    #expect(try await vos.getSingle([4], []) == nil)
                },
            ])
    }

    /// Whoever has made sure that everything up to an epoch is decided finds nothing new below it,
    /// not even of a transaction that had begun to wait for its keys by then.
    @Test func theEpochIsGivenWhenTheKeysAreHeld() {
        let target = SimulatedTarget(seed: 21)
        let work = DTXWork(.dtx(2), [.single([1], [2], condition: .update)])
        lives(
            target,
            [
                { vos in
                    let first = try await vos.prepare(
                        .dtx(1), [.single([1], [1], condition: .insert)], epoch: 20)
                    var clock: UInt64 = 20
                    var second: DTX?
                    target.xstream.spawn {
                        var request = work.request()
                        request.patience = .never
                        do throws(VOSError) {
                            second = try await vos.begin(request) {
                                clock += 1
                                return clock
                            }
                        } catch {
                            Issue.record("\(error)")
                        }
                    }
                    await target.xstream.sleep(for: .milliseconds(5))
                    #expect(second == nil, "the other one has the key")
                    clock = 50
                    vos.commit(first)
                    await target.xstream.sleep(for: .milliseconds(5))
                    let dtx = try #require(second)
                    #expect(dtx.epoch == 51)
                    try await vos.waitForDecisions(
                        upTo: 50, until: target.xstream.now + .milliseconds(5))
                    try await vos.prepare(dtx, work.updates)
                    vos.commit(dtx)
                    #expect(try await vos.getSingle([1], [], epoch: 50) == [1])
                    #expect(try await vos.getSingle([1], []) == [2])
                }
            ])
    }

    /// Who reads at an epoch sees the same there later: a part that was led elsewhere, by a clock
    /// that is behind, does not appear below it. Nothing that is newer is in the way of the read.
    @Test(arguments: [ReadIsolation.none, .repeatable], [false, true])
    func whatWasReadAtAnEpochStays(isolation: ReadIsolation, isList: Bool) {
        lives(
            SimulatedTarget(seed: 23),
            [
                { vos in
                    try await vos.putSingle([1], [], [1], epoch: 10)
                    try await vos.putSingle([2], [], [2], epoch: 60)
                    func read() async throws -> [[UInt8]?] {
                        guard !isList else {
                            return try await vos.listDkeys(
                                pool: Names.pool, container: Names.container, object: Names.object,
                                limit: 9, epoch: 50, isolation: isolation
                            ).keys
                        }
                        var values: [[UInt8]?] = []
                        let buffer = IOBuffer(count: 4096)
                        for dkey: UInt8 in 1...3 {
                            var fetch = Fetch(
                                pool: Names.pool, container: Names.container, object: Names.object,
                                dkey: [dkey], akey: [], epoch: 50)
                            fetch.isolation = isolation
                            let found = try await vos.findSingle(fetch, into: buffer.bytes)
                            values.append(found.map { buffer.array(0..<$0.byteCount) })
                        }
                        return values
                    }
                    let first = try await read()
                    #expect(first == (isList ? [[1]] : [[1], nil, nil]))
                    for (index, dkey) in [[UInt8]]([[1], [3]]).enumerated() {
                        let late = DTXWork(.dtx(UInt64(index)), [.single(dkey, [9])])
                        if isolation == .none {
                            let dtx = try await vos.begin(late, epoch: 40)
                            try await vos.prepare(dtx, late.updates)
                            vos.commit(dtx)
                        } else {
                            await #expect(throws: VOSError.conflict) {
                                _ = try await vos.begin(late, epoch: 40)
                            }
                        }
                        let later = try await vos.prepare(
                            .dtx(UInt64(10 + index)), [.single(dkey, [8])], epoch: 70)
                        vos.commit(later)
                    }
                    #expect(try await (read() == first) == (isolation == .repeatable))
                }
            ])
    }

    /// Who waits for a change that is under way is not passed by a part with an earlier epoch than
    /// the read's, not even when that comes in the moment in which the change is decided.
    @Test(arguments: [ReadIsolation.repeatable, .serializable], [false, true])
    func nothingSlipsInBeforeAReaderThatWaits(isolation: ReadIsolation, isList: Bool) {
        let target = SimulatedTarget(seed: 24)
        lives(
            target,
            [
                { vos in
                    let first = try await vos.prepare(.dtx(1), [.single([1], [1])], epoch: 20)
                    var found: Int?
                    target.xstream.spawn {
                        do throws(VOSError) {
                            guard !isList else {
                                found = try await vos.listDkeys(
                                    pool: Names.pool, container: Names.container,
                                    object: Names.object, limit: 9, epoch: 50,
                                    isolation: isolation
                                ).keys.count
                                return
                            }
                            var fetch = Fetch(
                                pool: Names.pool, container: Names.container, object: Names.object,
                                dkey: [1], akey: [], epoch: 50)
                            fetch.isolation = isolation
                            let buffer = IOBuffer(count: 4096)
                            found = try await vos.fetchSingle(fetch, into: buffer.bytes).byteCount
                        } catch {
                            Issue.record("\(error)")
                        }
                    }
                    await target.xstream.sleep(for: .milliseconds(5))
                    #expect(found == nil, "the change is under way")
                    vos.commit(first)
                    let late = DTXWork(.dtx(2), [.single([1], [2, 2])])
                    await #expect(throws: VOSError.conflict) {
                        _ = try await vos.begin(late, epoch: 40)
                    }
                    await target.xstream.sleep(for: .milliseconds(5))
                    #expect(found == 1)
                }
            ])
    }

    /// A later change that overlaps an undecided one in part waits, after a restart too: it could
    /// come to another replica before that one, and be seen without it.
    @Test func whatOverlapsInPartWaits() {
        func array(_ offset: UInt64, count: Int = 100) -> DTXChange {
            let bytes = [UInt8](repeating: 1, count: count)
            return DTXChange(dkey: [1], akey: [1], body: .array(offset, bytes))
        }
        let punches = [DTXChange.Body.punchAkey, .punchDkey].map {
            DTXChange(dkey: [1], akey: [1], body: $0)
        }
        let looks: (VOS, UInt64) async throws -> Void = { vos, epoch in
            let arrays = [
                array(50), array(4_000), array(0, count: 65_536), array(99, count: 200_000),
            ]
            for (index, change) in (arrays + punches).enumerated() {
                let work = DTXWork(.dtx(100 + UInt64(index)), [change])
                await #expect(throws: VOSError.conflict) {
                    _ = try await vos.begin(work, epoch: epoch)
                }
            }
            let others = [
                array(4_096), array(65_500), array(65_536, count: 65_536),
                array(.max - 1 << 20, count: 1 << 20),
            ]
            for (index, change) in others.enumerated() {
                let work = DTXWork(.dtx(epoch + UInt64(index)), [change])
                let dtx = try await vos.begin(work, epoch: epoch + UInt64(index))
                try await vos.abort(dtx)
            }
        }
        lives(
            SimulatedTarget(seed: 22),
            [
                { vos in
                    try await vos.prepare(.dtx(1), [array(0)], epoch: 20)
                    try await looks(vos, 30)
                },
                { vos in
                    try await looks(vos, 40)
                    vos.commit(try vos.prepared(.dtx(1)))
                    vos.commit(try await vos.prepare(.dtx(2), [array(50)], epoch: 50))
                },
            ])
    }

    /// Nobody changes what an undecided transaction has read: whoever had seen the change could
    /// begin something that the transaction comes after.
    @Test(arguments: [false, true], [false, true])
    func whatWasReadStaysUntilItIsDecided(isCommitted: Bool, isListed: Bool) {
        let target = SimulatedTarget(seed: 22)
        // It changes another object than it has read.
        let work = DTXWork(.dtx(1), [.single([2], [1])])
        let object = ObjectID(high: 0, low: 77)
        var request = work.request()
        request.reads = [
            DTXRequest.Read(
                pool: Names.pool, container: Names.container, object: object,
                dkey: isListed ? nil : [1])
        ]
        request.snapshot = 15
        lives(
            target,
            [
                { vos in
                    let dtx = try await vos.begin(request) { 20 }
                    for isPrepared in [false, true] {
                        if isPrepared { try await vos.prepare(dtx, work.updates) }
                        let change = DTXWork(.dtx(2), [.single([1], [2], object: object)])
                        await #expect(throws: VOSError.conflict, "prepared: \(isPrepared)") {
                            _ = try await vos.begin(change, epoch: 30)
                        }
                        let patience = target.xstream.now + .milliseconds(10)
                        await #expect(throws: VOSError.undecided, "prepared: \(isPrepared)") {
                            _ = try await vos.begin(change, epoch: 30, patience: patience)
                        }
                    }
                    if isCommitted { vos.commit(dtx) } else { try await vos.abort(dtx) }
                    vos.commit(
                        try await vos.prepare(
                            .dtx(3), [.single([1], [2], object: object)], epoch: 30))
                }
            ])
    }

    @Test func whatIsRefusedIsNeverPrepared() {
        let target = SimulatedTarget(seed: 7)
        lives(
            target,
            [
                { vos in
                    try await vos.refuse(.dtx(1), epoch: 20)
                    #expect(vos.outcome(of: .dtx(1)) == "aborted")
                    // What is known already stays as it is.
                    vos.commit(try await vos.prepare(.dtx(2), [.single([1], [1])], epoch: 21))
                    try await vos.refuse(.dtx(2), epoch: 21)
                    #expect(vos.outcome(of: .dtx(2)) == "committed at 21")
                    try await vos.prepare(.dtx(3), [.single([2], [1])], epoch: 22)
                    try await vos.refuse(.dtx(3), epoch: 22)
                    #expect(vos.outcome(of: .dtx(3)) == "prepared")
                },
                { vos in
                    #expect(vos.outcome(of: .dtx(1)) == "aborted")
                    await #expect(throws: VOSError.duplicateInProgress(.dtx(1))) {
                        _ = try await vos.prepare(.dtx(1), [.single([1], [1])], epoch: 30)
                    }
                    try await vos.checkpoint()
                },
                { vos in #expect(vos.outcome(of: .dtx(1)) == "aborted") },
            ])
    }

    /// Who asks second hears of a refusal when it is on stable storage, and no sooner.
    @Test(arguments: 0..<12)
    func aRefusalIsDurableForEverybodyWhoAsks(boundary: Int) {
        let target = SimulatedTarget(seed: UInt64(boundary), crash: .lose)
        var answered = 0
        target.run {
            let vos = try await target.open()
            target.devices.crash(atBoundary: boundary)
            for _ in 0..<3 {
                target.xstream.spawn {
                    do {
                        try await vos.refuse(.dtx(1), epoch: 20)
                        answered += 1
                    } catch {
                        Issue.record("\(error)")
                    }
                }
            }
            while answered < 3 { await target.xstream.sleep(for: .microseconds(10)) }
        }
        target.devices.crash(atBoundary: nil)
        target.restart()
        target.run {
            let vos = try await target.open()
            #expect(answered == 0 || vos.outcome(of: .dtx(1)) == "aborted")
        }
    }

    @Test func committedOnesAreKnownUntilAllKnow() {
        var options = VOSOptions()
        options.transactionsMax = 4
        let target = SimulatedTarget(seed: 8, options: options)
        lives(
            target,
            [
                { vos in
                    vos.commit(try await vos.prepare(.dtx(1), [.single([1], [1])], epoch: 20))
                    vos.commit(
                        try await vos.prepare(
                            .dtx(2), [.single([2], [1])], epoch: 21, isLeader: false))
                    try await vos.abort(vos.prepare(.dtx(3), [.single([3], [1])], epoch: 22))
                    for number in 0..<4 as Range<UInt64> {
                        try await vos.putSingle(
                            [9], [], [1], epoch: 30 + number,
                            transaction: UniqueID(high: 5, low: number))
                    }
                    #expect(vos.transactionHorizon == 22)
                    #expect(vos.outcome(of: .dtx(1)) == "committed at 20")
                    #expect(vos.outcome(of: .dtx(2)) == "unknown")
                    #expect(vos.outcome(of: .dtx(3)) == "unknown")
                    await #expect(throws: VOSError.duplicateInProgress(.dtx(1))) {
                        _ = try await vos.prepare(.dtx(1), [.single([1], [2])], epoch: 40)
                    }
                },
                { vos in try await vos.checkpoint() },
                { vos in
                    #expect(vos.transactionHorizon == 22)
                    #expect(vos.outcome(of: .dtx(1)) == "committed at 20")
                    #expect(vos.uncompleted.map(\.id) == [.dtx(1)])
                    #expect(vos.uncompleted.map(\.members) == [[7, 8, 9]])
                    // A plain update with its id is a resend, too.
                    try await vos.putSingle([1], [], [2], epoch: 41, transaction: .dtx(1))
                    #expect(try await vos.getSingle([1], []) == [1])
                    vos.complete(.dtx(1))
                    #expect(vos.outcome(of: .dtx(1)) == "unknown")
                    try await vos.flushOutcomes()
                },
                { vos in #expect(vos.uncompleted.isEmpty) },
            ])
    }

    // MARK: - Beside others

    @Test func aggregationStaysBelowWhatIsUndecided() {
        let target = SimulatedTarget(seed: 9)
        lives(
            target,
            [
                { vos in
                    for epoch in [10, 15, 25, 35] as [UInt64] {
                        try await vos.putSingle([1], [], [UInt8(epoch)], epoch: epoch)
                    }
                    try await vos.prepare(.dtx(1), [.single([2], [2])], epoch: 20)
                    try await vos.aggregate(upTo: 40)
                    #expect(vos.aggregatedEpoch == 19)
                    #expect(vos.entryCount == 3)
                },
                { vos in
                    try await vos.aggregate(upTo: 40)
                    #expect(vos.aggregatedEpoch == 19)
                    #expect(try await vos.getSingle([1], [], epoch: 26) == [25])
                    vos.commit(try vos.prepared(.dtx(1)))
                    try await vos.aggregate(upTo: 40)
                    #expect(vos.aggregatedEpoch == 40)
                    #expect(vos.entryCount == 2)
                    await #expect(throws: VOSError.epochTooOld(epoch: 40, oldest: 41)) {
                        _ = try await vos.prepare(.dtx(2), [.single([2], [3])], epoch: 40)
                    }
                    #expect(vos.outcome(of: .dtx(2)) == "unknown")
                },
                { vos in
                    let kept = try await vos.getSingle([2], [])
                    #expect(kept == [2])
                },
            ])
    }

    /// What belongs to a destroyed container stays gone, whatever becomes of the transaction and
    /// however often the store is opened.
    @Test(arguments: [false, true], [0, 1, 2])
    func aContainerIsDestroyedUnderATransaction(hasMore: Bool, checkpoints: Int) {
        let target = SimulatedTarget(seed: 10, blocks: 512)
        let other = UniqueID(high: 0xbb, low: 3)
        let value = [UInt8].pattern(40_000, seed: 1)
        lives(
            target,
            [
                { vos in
                    if hasMore { try await vos.putSingle([1], [], value, epoch: 10) }
                    try await vos.prepare(
                        .dtx(1),
                        [
                            .single([1], value), .single([2], [2]),
                            .single([5], value, container: other),
                        ],
                        epoch: 20)
                    if checkpoints == 2 { try await vos.checkpoint() }
                    try await vos.destroyContainer(pool: Names.pool, container: Names.container)
                    if checkpoints > 0 { try await vos.checkpoint() }
                    // The blocks are used again.
                    for key in 0..<8 as Range<UInt8> {
                        try await vos.putSingle([key], [1], value, epoch: 30, container: other)
                    }
                },
                { vos in
                    #expect(vos.outcome(of: .dtx(1)) == "prepared")
                    if checkpoints == 2 { try await vos.checkpoint() }
                },
                { vos in
                    vos.commit(try vos.prepared(.dtx(1)))
                    #expect(vos.usage(pool: Names.pool, container: Names.container) == VOSUsage())
                    #expect(try await vos.getSingle([1], []) == nil)
                    #expect(try await vos.getSingle([2], []) == nil)
                    #expect(try await vos.getSingle([5], [], container: other) == value)
                    for key in 0..<8 as Range<UInt8> {
                        #expect(try await vos.getSingle([key], [1], container: other) == value)
                    }
                    try await vos.flushOutcomes()
                },
                { vos in
                    #expect(vos.usage(pool: Names.pool, container: Names.container) == VOSUsage())
                    let kept = try await vos.getSingle([5], [], container: other)
                    #expect(kept == value)
                },
            ])
    }

    @Test func manyTransactionsWaitOverManyCheckpoints() {
        let target = SimulatedTarget(seed: 11, blocks: 4096, logBlocks: 64)
        let value = [UInt8].pattern(3000, seed: 1)
        lives(
            target,
            [
                { vos in
                    // More than a checkpoint's chunk, and more than the log holds.
                    for number in 0..<300 as Range<UInt64> {
                        let key = self.key(number)
                        try await vos.prepare(
                            .dtx(number), [.single(key, value)], epoch: 20 + number)
                    }
                    #expect(vos.checkpointSequence > 0)
                },
                { vos in
                    #expect(vos.undecided.map(\.id) == (0..<300).map { UniqueID.dtx($0) })
                    for dtx in vos.undecided where dtx.epoch % 3 > 0 {
                        if dtx.epoch % 3 == 1 { vos.commit(dtx) } else { try await vos.abort(dtx) }
                    }
                    try await vos.flushOutcomes()
                },
                { vos in
                    #expect(vos.undecided.count == 100 && vos.uncompleted.count == 100)
                    try await vos.checkpoint()
                },
                { vos in
                    for number in 0..<300 as Range<UInt64> {
                        let expected =
                            switch (20 + number) % 3 {
                            case 0: "prepared"
                            case 1: "committed at \(20 + number)"
                            default: "aborted"
                            }
                        #expect(vos.outcome(of: .dtx(number)) == expected)
                    }
                    #expect(vos.uncompleted.count == 100)
                },
            ])
    }

    /// More changes than an update may have, and more locks than the log can describe.
    @Test func aTransactionMayBeTooLarge() {
        let target = SimulatedTarget(seed: 12, blocks: 4096, logBlocks: 512)
        lives(
            target,
            [
                { vos in
                    var many: [DTXChange] = []
                    for number in 0..<3000 as Range<UInt64> {
                        let object = ObjectID(high: 7 << 32, low: number / 1000)
                        many.append(.single(self.key(number), [1], object: object))
                    }
                    let dtx = try await vos.prepare(.dtx(1), many, epoch: 20)
                    vos.commit(dtx)
                    #expect(vos.entryCount == 3000)
                    try await vos.flushOutcomes()
                    var tooMany: [DTXChange] = []
                    for number in 0..<70_000 as Range<UInt64> {
                        let object = ObjectID(high: 7 << 32, low: number / 1000)
                        tooMany.append(
                            DTXChange(
                                dkey: self.key(number), akey: [], body: .punchDkey, object: object))
                    }
                    do {
                        try await vos.prepare(.dtx(2), tooMany, epoch: 21)
                        Issue.record("a transaction that no record holds")
                    } catch VOSError.badArgument {}
                    #expect(vos.locks.heldCount == 0)
                    #expect(vos.undecided.isEmpty)
                },
                { vos in #expect(vos.entryCount == 3000) },
            ])
    }
}
