import BIO
import DrayRuntime
import Testing

@testable import VOS

/// Random operations on a small store, compared with a model after each stretch, across
/// checkpoints, aggregation, kills and clean restarts.
@Suite struct ModelTests {
    static let dkeys: [[UInt8]] = [[], [0], [0, 255], [1], Array("dkey".utf8), [255, 255]]
    static let akeys: [[UInt8]] = [[], [0, 1], [7]]
    static let objects = [ObjectID(high: 0, low: 1), ObjectID(high: .max, low: .max)]

    final class Run {
        let target: SimulatedTarget
        var entropy: Entropy
        var model = Model()
        var epoch: UInt64 = 1000
        var applied = 0
        var refused = 0
        var full = 0

        init(seed: UInt64) {
            var options = VOSOptions()
            options.inlineThreshold = seed % 3 == 0 ? 4096 : 200
            if seed % 2 == 0 { options.makeSmall() }
            target = SimulatedTarget(seed: seed, blocks: 1200, logBlocks: 32, options: options)
            entropy = Entropy(seed: seed).fork("operations")
        }

        func pick<Value>(_ values: [Value]) -> Value {
            values[Int(entropy.below(UInt64(values.count)))]
        }

        func bytes() -> [UInt8] {
            let count: UInt64 =
                switch entropy.below(10) {
                case 0: 0
                case 1...5: entropy.below(100)
                case 6, 7: entropy.below(5000)
                case 8: 4096
                default: entropy.below(70_000)
                }
            return [UInt8].pattern(Int(count), seed: entropy.next())
        }
    }

    @Test(arguments: 0..<24 as Range<UInt64>)
    func storeEqualsModel(seed: UInt64) {
        let run = Run(seed: seed)
        for stretch in 0..<4 {
            let finished = run.target.run {
                let vos = try await run.target.open()
                try await vos.checkInvariants()
                try await self.compare(vos, run)
                for _ in 0..<40 { try await self.step(vos, run) }
                try await self.compare(vos, run)
                try await vos.checkInvariants()
                if stretch % 2 == 0 { await run.target.close(vos) }
            }
            #expect(finished)
            run.target.restart()
        }
        #expect(run.applied > 40)
    }

    private func step(_ vos: VOS, _ run: Run) async throws {
        switch run.entropy.below(20) {
        case 0: try await vos.checkpoint()
        case 1, 2:
            let back = run.entropy.below(60)
            try await vos.aggregate(upTo: run.epoch - min(run.epoch, back))
        default: try await update(vos, run)
        }
    }

    private func update(_ vos: VOS, _ run: Run) async throws {
        // Epochs mostly rise, sometimes repeat, sometimes come late.
        run.epoch += run.entropy.below(10)
        let late = run.entropy.chance(1, in: 5) ? run.entropy.below(30) : 0
        let epoch = max(run.epoch - late, 1)
        let object = run.pick(ModelTests.objects)
        var operations: [Operation] = []
        var changes: [Model.Change] = []
        var buffers: [IOBuffer] = []
        var refusal: VOSError?
        for _ in 0..<1 + run.entropy.below(3) {
            let dkey = run.pick(ModelTests.dkeys)
            let akey = run.pick(ModelTests.akeys)
            var bytes = run.bytes()
            let body: Operation.Body
            var change = Model.Change(
                object: object, dkey: dkey, akey: akey, epoch: epoch, body: .punch)
            switch run.entropy.below(24) {
            case 0:
                body = .punchObject
                change.dkey = nil
                change.akey = nil
            case 1:
                body = .punchDkey(dkey)
                change.akey = nil
            case 2, 3: body = .punchAkey(dkey: dkey, akey: akey)
            case let draw:
                if bytes.isEmpty, draw >= 12 { bytes = [1] }
                let buffer = IOBuffer(copying: bytes)
                buffers.append(buffer)
                let value = ValueBytes(
                    UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<bytes.count]))
                if draw < 12 {
                    body = .single(dkey: dkey, akey: akey, value)
                    change.body = .single(bytes)
                } else {
                    let offset = run.entropy.below(run.entropy.chance(1, in: 2) ? 300 : 100_000)
                    body = .array(dkey: dkey, akey: akey, offset: offset, value)
                    change.body = .extent(offset, bytes)
                }
            }
            let condition = run.entropy.chance(1, in: 4) ? run.pick(conditions(change)) : .none
            refusal = refusal ?? self.refusal(change, condition, run.model)
            operations.append(Operation(body, condition: condition))
            changes.append(change)
        }
        try await apply(
            vos, run,
            Update(
                pool: Names.pool, container: Names.container, object: object, epoch: epoch,
                transaction: UniqueID(high: run.entropy.next(), low: 1), operations: operations),
            changes, refusal)
        withExtendedLifetime(buffers) {}
    }

    private func conditions(_ change: Model.Change) -> [Operation.Condition] {
        change.akey == nil ? [.update] : [.insert, .update, .insertDkey, .updateDkey]
    }

    private func refusal(
        _ change: Model.Change, _ condition: Operation.Condition, _ model: Model
    ) -> VOSError? {
        let akeyExists =
            if let dkey = change.dkey {
                model.exists(change.object, dkey, change.akey, .max)
            } else {
                !model.dkeys(change.object, .max).isEmpty
            }
        let dkeyExists = change.dkey.map { model.exists(change.object, $0, nil, .max) } ?? false
        return switch condition {
        case .none: nil
        case .insert: akeyExists ? .exists : nil
        case .update: akeyExists ? nil : .notFound
        case .insertDkey: dkeyExists ? .exists : nil
        case .updateDkey: dkeyExists ? nil : .notFound
        }
    }

    private func apply(
        _ vos: VOS, _ run: Run, _ update: Update, _ changes: [Model.Change], _ refusal: VOSError?
    ) async throws {
        do {
            try await vos.update(update)
            #expect(refusal == nil)
            #expect(update.epoch > vos.aggregatedEpoch)
            run.model.changes.append(contentsOf: changes)
            run.applied += 1
        } catch .noSpace {
            run.full += 1
            try await vos.aggregate(upTo: run.epoch)
        } catch .epochTooOld {
            #expect(update.epoch <= vos.aggregatedEpoch)
        } catch .exists {
            #expect(refusal == .exists)
            run.refused += 1
        } catch .notFound {
            #expect(refusal == .notFound)
            run.refused += 1
        }
    }

    private func compare(_ vos: VOS, _ run: Run) async throws {
        for epoch in [.max, max(vos.aggregatedEpoch, run.epoch - run.entropy.below(100))] {
            let objects = try await vos.listObjects(
                pool: Names.pool, container: Names.container, limit: 100, epoch: epoch)
            #expect(objects.objects == run.model.objects(epoch))
            for object in ModelTests.objects {
                #expect(try await dkeys(vos, object, epoch) == run.model.dkeys(object, epoch))
                for dkey in ModelTests.dkeys {
                    let akeys = try await vos.listAkeys(
                        pool: Names.pool, container: Names.container, object: object, dkey: dkey,
                        limit: 100, epoch: epoch)
                    #expect(akeys.keys == run.model.akeys(object, dkey, epoch))
                    for akey in ModelTests.akeys {
                        try await compare(vos, run, object, dkey, akey, epoch)
                    }
                }
            }
        }
    }

    /// One at a time, through the anchors.
    private func dkeys(_ vos: VOS, _ object: ObjectID, _ epoch: UInt64) async throws -> [[UInt8]] {
        var keys: [[UInt8]] = []
        var anchor: [UInt8]?
        repeat {
            let page = try await vos.listDkeys(
                pool: Names.pool, container: Names.container, object: object, after: anchor,
                limit: 1, epoch: epoch)
            keys += page.keys
            anchor = page.next
        } while anchor != nil
        return keys
    }

    private func compare(
        _ vos: VOS, _ run: Run, _ object: ObjectID, _ dkey: [UInt8], _ akey: [UInt8],
        _ epoch: UInt64
    ) async throws {
        let single = try await vos.getSingle(dkey, akey, epoch: epoch, object: object)
        // Compared outside of the expectations, which would print them.
        let isSame = single == run.model.single(object, dkey, akey, epoch)
        #expect(isSame)
        let array = run.model.array(object, dkey, akey, epoch)
        let all = try await vos.getArray(
            dkey, akey, 0..<UInt64(array.count), epoch: epoch, object: object,
            room: run.entropy.chance(1, in: 2) ? 0 : 4096)
        #expect(all.size == UInt64(array.count))
        let isSameArray = all.bytes == array
        #expect(isSameArray)
        let low = run.entropy.below(UInt64(array.count + 10))
        let high = low + run.entropy.below(5000)
        let part = try await vos.getArray(dkey, akey, low..<high, epoch: epoch, object: object)
        let padded = array + [UInt8](repeating: 0, count: 6000)
        let isSamePart = part.bytes == Array(padded[Int(low)..<Int(high)])
        #expect(isSamePart)
    }
}
