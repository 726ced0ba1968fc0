internal import BIO
internal import DrayChecksums
internal import DrayRuntime
internal import VOS

/// Gathers the objects, keys and versions of a store while it is walked.
final class StoreListing {
    /// What a version is called.
    struct EntryName: Codable, Hashable, Sendable {
        /// POOL/CONTAINER/OBJECT.
        var object: String
        var dkey: String?
        var akey: String?
        /// The first byte of an extent.
        var offset: UInt64?
        /// How many bytes a record of the array has.
        var recordSize: UInt32?
        var length: Int
        var epoch: UInt64
        /// "value", "extent" or "punch".
        var kind: String

        init(_ name: StoreEntry.Name) {
            object = name.objectText
            dkey = name.dkey.map(EscapedName.text)
            akey = name.akey.map(EscapedName.text)
            offset = name.offset
            recordSize = name.recordSize
            length = name.byteCount
            epoch = name.epoch
            kind = name.isPunch ? "punch" : name.offset == nil ? "value" : "extent"
        }

        var text: String {
            var text = "object \(object)"
            if let dkey { text += ", dkey \(dkey)" }
            if let akey { text += ", akey \(akey)" }
            text += ", \(kind)"
            if let offset { text += " \(offset)+\(length)" }
            if let recordSize, recordSize != 1 { text += " of records of \(recordSize) bytes" }
            return text + ", epoch \(epoch)"
        }
    }

    struct ObjectRow: Codable, Hashable, Sendable {
        var object: String
        var entries: UInt64 = 0
        var punches: UInt64 = 0
        /// Of all versions, in bytes.
        var size: UInt64 = 0
    }

    struct KeyRow: Codable, Hashable, Sendable {
        var dkey: String
        var akey: String
        var entries: UInt64 = 0
        var punches: UInt64 = 0
        var size: UInt64 = 0
    }

    struct EntryRow: Codable, Hashable, Sendable {
        struct Blocks: Codable, Hashable, Sendable {
            var start: UInt32
            var count: UInt32
        }

        var name: EntryName
        /// Nil: it is in the log.
        var table: UInt64?
        /// Empty: the bytes are in the table or the log.
        var blocks: [Blocks]
        /// "crc32c", "xxh64", "sha256" or "off".
        var checksumType: String
        /// The words of the checksums of each chunk of 32 KiB.
        var checksums: [UInt32]
    }

    private struct Key: Hashable {
        var dkey: [UInt8]
        var akey: [UInt8]
    }

    private let wantsObjects: Bool
    private let wantedObject: String?
    private let wantsEntries: Bool
    private var objects: [String: ObjectRow] = [:]
    private var keys: [Key: KeyRow] = [:]
    private var entries: [EntryRow] = []

    init(objects: Bool = false, keys: String? = nil, entries: Bool = false) {
        wantsObjects = objects
        wantedObject = keys
        wantsEntries = entries
    }

    func add(_ entry: StoreEntry) {
        guard wantsObjects || wantedObject != nil || wantsEntries else { return }
        let name = EntryName(entry.name)
        let size = UInt64(name.length)
        let punches: UInt64 = entry.name.isPunch ? 1 : 0
        if wantsObjects {
            var row = objects[name.object] ?? ObjectRow(object: name.object)
            row.entries += 1
            row.punches += punches
            row.size += size
            objects[name.object] = row
        }
        guard wantedObject == nil || wantedObject == name.object else { return }
        if wantedObject != nil {
            let key = Key(dkey: entry.name.dkey ?? [], akey: entry.name.akey ?? [])
            var row = keys[key] ?? KeyRow(dkey: name.dkey ?? "", akey: name.akey ?? "")
            row.entries += 1
            row.punches += punches
            row.size += size
            keys[key] = row
        }
        guard wantsEntries else { return }
        entries.append(
            EntryRow(
                name: name, table: entry.table,
                blocks: entry.blocks.map { EntryRow.Blocks(start: $0.start, count: $0.count) },
                checksumType: entry.checksumType.name, checksums: entry.checksums))
    }

    var objectRows: [ObjectRow]? {
        wantsObjects ? objects.values.sorted { $0.object < $1.object } : nil
    }

    var keyRows: [KeyRow]? {
        guard wantedObject != nil else { return nil }
        return keys.sorted { left, right in
            left.key.dkey != right.key.dkey
                ? left.key.dkey.lexicographicallyPrecedes(right.key.dkey)
                : left.key.akey.lexicographicallyPrecedes(right.key.akey)
        }.map(\.value)
    }

    var entryRows: [EntryRow]? { wantsEntries ? entries : nil }

    // MARK: - Text

    static func text(_ rows: [ObjectRow]) -> String {
        var table = Table([
            ("OBJECT", .left), ("ENTRIES", .right), ("PUNCHES", .right), ("SIZE", .right),
        ])
        for row in rows {
            table.add([
                row.object, "\(row.entries)", "\(row.punches)",
                Size(bytes: row.size).description,
            ])
        }
        return table.text
    }

    static func text(_ rows: [KeyRow]) -> String {
        var table = Table([
            ("DKEY", .left), ("AKEY", .left), ("ENTRIES", .right), ("PUNCHES", .right),
            ("SIZE", .right),
        ])
        for row in rows {
            table.add([
                row.dkey, row.akey, "\(row.entries)", "\(row.punches)",
                Size(bytes: row.size).description,
            ])
        }
        return table.text
    }

    static func text(_ rows: [EntryRow]) -> String {
        var table = Table([
            ("OBJECT", .left), ("DKEY", .left), ("AKEY", .left), ("KIND", .left),
            ("RECORD", .right), ("OFFSET", .right), ("LENGTH", .right), ("EPOCH", .right),
            ("TABLE", .right),
            ("BLOCKS", .left), ("CHECKSUMS", .left),
        ])
        for row in rows {
            let blocks = row.blocks.map { "\($0.start)+\($0.count)" }
            let checksums = row.checksums.map { String($0, radix: 16) }
            table.add([
                row.name.object, row.name.dkey ?? "-", row.name.akey ?? "-", row.name.kind,
                row.name.recordSize.map { "\($0)" } ?? "-",
                row.name.offset.map { "\($0)" } ?? "-", "\(row.name.length)",
                "\(row.name.epoch)", row.table.map { "\($0)" } ?? "log",
                blocks.isEmpty ? "inline" : blocks.joined(separator: ","),
                checksums.joined(separator: ","),
            ])
        }
        return table.text
    }
}

extension StoreEntry.Name {
    var objectText: String { "\(pool)/\(container)/\(object)" }

    /// Of the first and the last key of a table.
    var text: String {
        let names = [dkey, akey].compactMap { $0.map(EscapedName.text) }
        return ([objectText] + names).joined(separator: " ")
    }
}
