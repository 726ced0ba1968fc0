internal import BIO

/// What the manifest says of a table: where it is, and what it is about.
///
/// A table is immutable and lies in blocks of its own: blocks of entries in ascending order, then
/// the fences, then the filter. The fences are an `EntryBlock`, too: for each block of entries a
/// key that is not above its first one, and above the last one of the block before.
struct TableInfo {
    /// Never given out twice by one store.
    var id: UInt64 = 0
    /// 0 for what was written out of memory, where tables overlap; else tables of one level do not.
    var level = 0
    var extents: [BlockExtent] = []
    /// The first device block of the fences, counted from the beginning of the table; also how many
    /// blocks the entries take.
    var fencePlace = 0
    var filterPlace = 0
    /// All device blocks.
    var blocks = 0
    var entries: UInt64 = 0
    var punches: UInt64 = 0
    var firstKey: IndexKey.Bytes = []
    var lastKey: IndexKey.Bytes = []
    /// How much of the first and the last key names what they are versions of.
    var firstNameEnd = 0
    var lastNameEnd = 0
    /// The oldest version in it.
    var epochMin: UInt64 = .max
    /// What its values weigh, those in blocks and those in the table.
    var weight: UInt64 = 0
    /// Blocks of values.
    var valueBlocks: UInt64 = 0
    /// What versions weigh that were hidden when it was written, but could be read at some epoch,
    /// and the epoch that aggregation has to reach for the first of them to go.
    var hiddenWeight: UInt64 = 0
    var hiddenEpoch: UInt64 = .max
    /// How many hidden versions a snapshot held.
    var held: UInt64 = 0
    /// Where the names end that its punches remove, if that is behind `lastKey`.
    var reach: IndexKey.Bytes = []
    /// The first and the last object with punches at or below it, if there are any.
    var firstPunched: IndexKey.Bytes = []
    var lastPunched: IndexKey.Bytes = []

    var byteCount: Int { blocks * BlockDevice.blockSize }

    /// The error that says what is wrong with it, in its block `place`.
    func damage(_ what: String, at place: Int, in store: BlockStore) -> VOSError {
        .damaged(what: "table \(id) of the index: \(what)\(store.placeText(extents, place))")
    }

    /// Where the versions of what its first key names begin, and those of its last end, or how far
    /// its punches reach: who merges it needs all of them to see what is hidden.
    var bounds: (start: IndexKey.Bytes, end: IndexKey.Bytes) {
        let end = IndexKey.successor(ofPrefix: Array(lastKey[0..<lastNameEnd]))
        return (
            Array(firstKey[0..<firstNameEnd]), IndexKey.compare(reach, end) > 0 ? reach : end
        )
    }

    /// A punch of what a key names is among its entries.
    mutating func addPunch(of key: UnsafeRawBufferPointer) {
        punches += 1
        lastPunched = unsafe IndexKey.Bytes(key[0..<IndexKey.objectLength])
        if firstPunched.isEmpty { firstPunched = lastPunched }
    }

    /// Whether it has keys in a range, ends included.
    func overlaps(_ first: IndexKey.Bytes, _ last: IndexKey.Bytes) -> Bool {
        IndexKey.compare(firstKey, last) <= 0 && IndexKey.compare(first, lastKey) <= 0
    }
}

extension TableInfo {
    /// id 8, level 1, extents 4 (each: start 4, count 4), fence place, filter place, blocks,
    /// ends of the names in the first and the last key 4 each,
    /// entries, punches, oldest epoch, weight, value blocks, hidden weight, hidden epoch, held 8
    /// each, first key, last key, reach, first and last object with punches 4 + n each.
    func encode(to bytes: inout [UInt8]) {
        bytes.put(id)
        bytes.append(UInt8(level))
        bytes.put(UInt32(extents.count))
        for extent in extents {
            bytes.put(extent.start)
            bytes.put(extent.count)
        }
        for number in [fencePlace, filterPlace, blocks, firstNameEnd, lastNameEnd] {
            bytes.put(UInt32(number))
        }
        for number in [
            entries, punches, epochMin, weight, valueBlocks, hiddenWeight, hiddenEpoch, held,
        ] {
            bytes.put(number)
        }
        bytes.put(string: firstKey)
        bytes.put(string: lastKey)
        bytes.put(string: reach)
        bytes.put(string: firstPunched)
        bytes.put(string: lastPunched)
    }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        id = try reader.quad()
        level = Int(try reader.byte())
        extents = try RecordCoding.extents(from: &reader, count: Int(try reader.long()))
        fencePlace = Int(try reader.long())
        filterPlace = Int(try reader.long())
        blocks = Int(try reader.long())
        firstNameEnd = Int(try reader.long())
        lastNameEnd = Int(try reader.long())
        entries = try reader.quad()
        punches = try reader.quad()
        epochMin = try reader.quad()
        weight = try reader.quad()
        valueBlocks = try reader.quad()
        hiddenWeight = try reader.quad()
        hiddenEpoch = try reader.quad()
        held = try reader.quad()
        firstKey = try reader.countedString(maximum: IndexKey.lengthMax)
        lastKey = try reader.countedString(maximum: IndexKey.lengthMax)
        reach = try reader.countedString(maximum: IndexKey.lengthMax)
        firstPunched = try reader.countedString(maximum: IndexKey.objectLength)
        lastPunched = try reader.countedString(maximum: IndexKey.objectLength)
        guard level <= IndexVersion.levelMax, entries > 0, punches <= entries, fencePlace > 0,
            filterPlace > fencePlace, blocks > filterPlace,
            blocks == extents.reduce(0, { $0 + Int($1.count) }),
            IndexKey.compare(firstKey, lastKey) <= 0, firstNameEnd <= firstKey.count,
            lastNameEnd <= lastKey.count,
            firstPunched.count == (punches > 0 ? IndexKey.objectLength : 0),
            lastPunched.count == firstPunched.count
        else { throw MalformedBytes(what: "table \(id) in the manifest") }
    }
}
