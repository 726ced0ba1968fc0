internal import BIO
internal import DrayRuntime

/// Counts what each container holds.
struct UsageTable {
    private struct ContainerKey: Hashable, Comparable {
        let pool: UniqueID
        let container: UniqueID

        static func < (left: ContainerKey, right: ContainerKey) -> Bool {
            left.pool != right.pool ? left.pool < right.pool : left.container < right.container
        }
    }

    private final class Counts {
        var usage = VOSUsage()
    }

    private var table: [ContainerKey: Counts] = [:]
    /// The container counted last, which is often the next one too.
    private var latest: (key: ContainerKey, counts: Counts)?

    private mutating func counts(of key: IndexKey.Bytes) -> Counts {
        let container = ContainerKey(
            pool: UniqueID(high: key.word(at: 0), low: key.word(at: 8)),
            container: UniqueID(high: key.word(at: 16), low: key.word(at: 24)))
        if let latest, latest.key == container { return latest.counts }
        let counts = table[container] ?? Counts()
        table[container] = counts
        latest = (container, counts)
        return counts
    }

    mutating func add(_ key: IndexKey.Bytes, _ record: IndexRecord) {
        let counts = counts(of: key)
        counts.usage.bytes += UInt64(record.byteCount)
        counts.usage.blockBytes += record.blockCount * UInt64(BlockDevice.blockSize)
        counts.usage.entries += 1
    }

    mutating func subtract(_ key: IndexKey.Bytes, _ record: IndexRecord) {
        let counts = counts(of: key)
        counts.usage.bytes -= UInt64(record.byteCount)
        counts.usage.blockBytes -= record.blockCount * UInt64(BlockDevice.blockSize)
        counts.usage.entries -= 1
        if counts.usage.entries == 0, let latest {
            table[latest.key] = nil
            self.latest = nil
        }
    }

    func usage(pool: UniqueID, container: UniqueID) -> VOSUsage {
        table[ContainerKey(pool: pool, container: container)]?.usage ?? VOSUsage()
    }

    func usage(pool: UniqueID) -> VOSUsage {
        var sum = VOSUsage()
        // Addition does not depend on the order.
        for (key, counts) in table where key.pool == pool {
            sum.bytes += counts.usage.bytes
            sum.blockBytes += counts.usage.blockBytes
            sum.entries += counts.usage.entries
        }
        return sum
    }

    var pools: [UniqueID] {
        table.keys.sorted().reduce(into: []) { if $0.last != $1.pool { $0.append($1.pool) } }
    }

    func containers(pool: UniqueID) -> [UniqueID] {
        table.keys.filter { $0.pool == pool }.sorted().map(\.container)
    }
}
