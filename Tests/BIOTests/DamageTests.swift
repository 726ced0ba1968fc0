import BIO
import DrayRuntime
import Testing

/// One damaged sector, anywhere: harmless, or reported; never wrong data, never a crash.
@Suite struct DamageTests {
    enum Damage: CaseIterable { case bit, unreadable }

    /// `isClosed`: or the store was idle when its process was killed.
    @Test(arguments: Damage.allCases, [false, true])
    func everySector(damage: Damage, isClosed: Bool) {
        let blocks: UInt64 = 64
        let origin = SimulatedNode(seed: 7, blocks: blocks)
        let ledger = Ledger()
        origin.run {
            try await origin.format()
            try await ledger.recover(try await origin.openStore())
            for number in 0..<12 {
                try await ledger.update(
                    cell: UInt8(number % 5), blocks: UInt32(1 + number % 2), padding: number * 97)
                if number == 4 || number == 6 { try await ledger.checkpoint() }
            }
            if isClosed { return await ledger.close() }
            await origin.xstream.sleep(for: .milliseconds(50))
        }
        let image = origin.store.image(path: SimulatedNode.path).crashed(.keep, seed: 1)
        var harmless = 0
        var reported = 0
        for sector in 0..<blocks * 8 {
            let node = SimulatedNode(seed: sector, blocks: nil)
            node.store.restore(image, path: SimulatedNode.path)
            var entropy = Entropy(seed: sector)
            let place = sector * 512 + entropy.below(512)
            switch damage {
            case .bit:
                node.store.damage(
                    path: SimulatedNode.path, at: place, mask: 1 << UInt8(entropy.below(8)))
            case .unreadable: node.store.makeUnreadable(path: SimulatedNode.path, at: place)
            }
            let finished = node.run {
                do {
                    // Compares everything with the truth.
                    try await ledger.recover(try await node.openStore())
                    harmless += 1
                } catch let error as BIOError {
                    switch error {
                    case .corrupt, .failed: reported += 1
                    default: Issue.record("sector \(sector): \(error)")
                    }
                } catch is Ledger.Damaged {
                    reported += 1
                }
            }
            #expect(finished, "sector \(sector)")
        }
        print("\(damage), closed \(isClosed): \(harmless) harmless, \(reported) reported")
        #expect(harmless > 0 && reported > 0)
    }
}
