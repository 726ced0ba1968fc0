import BIO
import DrayRuntime
import Testing

@testable import VOS

/// For whom an update takes its blocks.
@Suite struct StreamTests {
    private static func put(
        _ vos: VOS, _ key: UInt8, _ stream: BlockStream, epoch: UInt64
    ) async throws {
        let work = DTXWork(.zero, [.single([key], .pattern(8192, seed: epoch))])
        var update = work.updates[0]
        update.epoch = epoch
        update.stream = stream
        try await vos.update(update)
        withExtendedLifetime(work) {}
    }

    private static func blocks(_ vos: VOS, _ key: UInt8) async throws -> [BlockExtent] {
        let object = IndexKey.object(Names.pool, Names.container, Names.object)
        let path = NamePath(object: object, dkey: [key], akey: [])
        let found = try await vos.visibleSingle(path, epoch: .max, vos.makeView())
        return found.record?.blocks ?? []
    }

    /// What comes by turns lies together, each stream's for itself; and in the next life, too.
    @Test func rebuildLiesApart() {
        let target = SimulatedTarget(seed: 1)
        var placed: [[BlockExtent]] = []
        target.run {
            let vos = try await target.open()
            for number in 0..<20 as Range<UInt8> {
                let stream: BlockStream = number % 2 == 0 ? .foreground : .rebuild
                try await Self.put(vos, number, stream, epoch: 100 + UInt64(number))
                placed.append(try await Self.blocks(vos, number))
            }
            // A transaction's, too.
            let work = DTXWork(.dtx(1), [.single([20], .pattern(8192, seed: 20))])
            let dtx = try await vos.begin(work, epoch: 200)
            var update = work.updates[0]
            update.stream = .rebuild
            try await vos.prepare(dtx, [update])
            vos.commit(dtx)
            placed.append(try await Self.blocks(vos, 20))
            withExtendedLifetime(work) {}
        }
        #expect(placed.count == 21)
        let rebuild = (placed.indices.filter { $0 % 2 == 1 } + [20]).flatMap { placed[$0] }
        let foreground = placed.indices.dropLast().filter { $0 % 2 == 0 }.flatMap { placed[$0] }
        for extents in [rebuild, foreground] {
            for (first, second) in zip(extents, extents.dropFirst()) {
                #expect(first.end == UInt64(second.start))
            }
        }
        target.restart()
        target.run {
            let vos = try await target.open()
            for number in 0..<20 as Range<UInt8> {
                #expect(try await Self.blocks(vos, number) == placed[Int(number)])
                let bytes = try await vos.getSingle([number], [])
                #expect(bytes == .pattern(8192, seed: 100 + UInt64(number)))
            }
            for stream in [.aggregation, .metadata, .mirror] as [BlockStream] {
                await #expect(throws: VOSError.self) {
                    try await Self.put(vos, 30, stream, epoch: 300)
                }
            }
            await target.close(vos)
        }
    }

    /// What merges copy of values lies together, and apart from what clients write in between.
    @Test func copiesLieApart() {
        let target = SimulatedTarget(seed: 2)
        let finished = target.run {
            let vos = try await target.open()
            var written: [BlockExtent] = []
            var copies: [BlockExtent] = []
            for number in 0..<5 as Range<UInt8> {
                let epoch = 100 + 10 * UInt64(number)
                try await vos.putArray(
                    [number], [1], at: 0, .pattern(32_768, seed: 1), epoch: epoch)
                try await vos.putArray(
                    [number], [1], at: 8192, .pattern(24_576, seed: 2), epoch: epoch + 1)
                try await vos.aggregate(upTo: epoch + 2)
                #expect(vos.extentsCut == Int(number) + 1)
                for extent in try await vos.storedExtents() {
                    let record = extent.record
                    if record.byteCount == 8192 { copies += record.blocks }
                    if record.byteCount == 24_576 { written += record.blocks }
                }
            }
            let all = Set(copies).sorted { $0.start < $1.start }
            #expect(all.count == 5)
            for (first, second) in zip(all, all.dropFirst()) {
                #expect(first.end == UInt64(second.start))
            }
            let (first, last) = (try #require(all.first), try #require(all.last))
            let place = first.start..<last.start + last.count
            #expect(!written.isEmpty && written.allSatisfy { !place.contains($0.start) })
            try await vos.checkInvariants()
            await target.close(vos)
        }
        #expect(finished)
    }
}
