package import CaRT
internal import DrayRuntime
internal import VOS

/// What an engine holds at a moment: nothing of it may be left once all is quiet.
package struct EngineCounts: Sendable {
    /// The contexts by tag, the last one that of membership.
    package var contexts: [ContextUsage] = []
    /// By target.
    package var transactions: [TransactionCounts] = []
    /// Stores in which something is under way.
    package var busyStores = 0
    /// Bytes of updates that were promised space.
    package var promisedBytes: UInt64 = 0

    /// Whether nothing is under way, and everything is back where it belongs. Engines that ping
    /// each other are not while they do, which takes moments of a second.
    package var isIdle: Bool {
        contexts.allSatisfy(\.isComplete) && transactions.allSatisfy(\.isIdle) && busyStores == 0
            && promisedBytes == 0
    }
}

extension Engine {
    /// Counts what is under way. For tests and simulations.
    ///
    /// Traps when a store in which nothing is under way contradicts itself.
    package func counts() async -> EngineCounts {
        let system = system
        var (contexts, isBusy) = await system.xstream.run {
            let service = system.value
            let usages = service.contexts?.all.map(\.usage) ?? []
            return (usages, await service.whileMetadataRest { await Engine.isBusy(service.vos) })
        }
        var counts = EngineCounts()
        counts.busyStores = isBusy ? 1 : 0
        for target in targets {
            let promised: UInt64
            let usages: [ContextUsage]
            let transactions: TransactionCounts
            (usages, isBusy, promised, transactions) = await target.xstream.run {
                let service = target.value
                return (
                    service.contexts?.all.map(\.usage) ?? [], await Engine.isBusy(service.vos),
                    service.promised.values.reduce(0, +), service.transactions.counts
                )
            }
            contexts += usages
            counts.transactions.append(transactions)
            counts.busyStores += isBusy ? 1 : 0
            counts.promisedBytes += promised
        }
        let membership = membership
        contexts.append(await membership.xstream.run { membership.value.usage })
        counts.contexts = contexts
        return counts
    }

    /// The epochs of the snapshots that each target holds, whether the metadata name them or not.
    package func heldEpochs() async -> [[UInt64]] {
        var epochs: [[UInt64]] = []
        for target in targets {
            epochs.append(
                await target.xstream.run { target.value.vos.allSnapshots.map(\.epoch) })
        }
        return epochs
    }

    private static func isBusy(_ store: VOS) async -> Bool {
        guard store.isQuiet else { return true }
        do throws(VOSError) {
            try await store.checkInvariants()
        } catch {
            preconditionFailure("what a store has cannot be read: \(error)")
        }
        return false
    }
}
