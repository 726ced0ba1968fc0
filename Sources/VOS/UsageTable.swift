internal import BIO
internal import DrayRuntime

/// Counts what each container holds.
struct UsageTable {
    private var table: [ContainerName: VOSUsage] = [:]
    /// `VOSUsage.recordExtents` of all containers.
    private(set) var recordExtents: UInt64 = 0

    /// Adds an entry.
    mutating func add(_ key: UnsafeRawBufferPointer, _ head: EntryHead) {
        if head.recordSize != 1 { recordExtents &+= 1 }
        unsafe table[ContainerName(key), default: VOSUsage()].add(head)
    }

    mutating func add(_ usage: VOSUsage, to name: ContainerName) {
        var sum = table[name] ?? VOSUsage()
        sum.add(usage)
        table[name] = sum
        recordExtents &+= usage.recordExtents
    }

    /// Adds what `added` has, and takes away what `removed` has. False when there is not so much.
    mutating func change(adding added: UsageTable, removing removed: UsageTable) -> Bool {
        // Sums do not depend on the order.
        for (name, usage) in added.table { add(usage, to: name) }
        for (name, usage) in removed.table {
            guard var sum = table[name], sum.bytes >= usage.bytes,
                sum.blockBytes >= usage.blockBytes, sum.entries >= usage.entries,
                sum.recordExtents >= usage.recordExtents
            else { return false }
            sum.subtract(usage)
            recordExtents &-= usage.recordExtents
            table[name] = sum.entries == 0 ? nil : sum
        }
        return true
    }

    /// In order.
    var entries: [(name: ContainerName, usage: VOSUsage)] {
        table.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
    }

    func usage(of name: ContainerName) -> VOSUsage { table[name] ?? VOSUsage() }

    func usage(pool: UniqueID) -> VOSUsage {
        var sum = VOSUsage()
        // Sums do not depend on the order.
        for (name, usage) in table where name.pool == pool { sum.add(usage) }
        return sum
    }

    /// Without order.
    var names: some Collection<ContainerName> { table.keys }
}

extension VOSUsage {
    mutating func add(_ head: EntryHead) {
        bytes += UInt64(head.byteCount)
        blockBytes += head.blockCount * UInt64(BlockDevice.blockSize)
        entries += 1
        if head.recordSize != 1 { recordExtents += 1 }
    }

    mutating func add(_ other: VOSUsage) {
        bytes += other.bytes
        blockBytes += other.blockBytes
        entries += other.entries
        recordExtents += other.recordExtents
    }

    mutating func subtract(_ other: VOSUsage) {
        bytes -= other.bytes
        blockBytes -= other.blockBytes
        entries -= other.entries
        recordExtents -= other.recordExtents
    }
}
