internal import DrayRuntime

/// The newest epochs at which keys were read by transactions, and written: what must not be
/// written at an earlier epoch any more, and what has changed since it was read.
///
/// Slots are shared by keys with the same hash; then a transaction restarts that need not have
/// (DAOS: the read timestamp cache). Not stored: after a restart `floor` stands for all of them.
struct KeyStamps {
    private static let slots = 4096

    private struct Slot {
        /// Of a dkey or object: written, or anything below it was.
        var written: UInt64 = 0
        /// Of an object: punched as a whole.
        var punched: UInt64 = 0
        /// Of a dkey: read. Of an object: its keys were listed.
        var read: UInt64 = 0
        /// Of an object: something below it was read.
        var readBelow: UInt64 = 0
    }

    private var objects = ContiguousArray(repeating: Slot(), count: slots)
    private var dkeys = ContiguousArray(repeating: Slot(), count: slots)

    /// What was read or written up to this epoch is not known.
    var floor: UInt64 = 0

    private static func index(_ key: UInt64) -> Int { Int(key % UInt64(slots)) }

    // MARK: - Writes

    /// Whether nothing that was read or written at `epoch` or later is in the way of a write.
    /// `dkey` is nil for the punch of an object.
    func mayWrite(object: UInt64, dkey: UInt64?, at epoch: UInt64) -> Bool {
        let above = objects[KeyStamps.index(object)]
        guard epoch > floor else { return false }
        guard let dkey else {
            return epoch > max(above.written, above.read, above.readBelow)
        }
        let slot = dkeys[KeyStamps.index(dkey)]
        return epoch > max(slot.written, slot.read, above.punched, above.read)
    }

    mutating func didWrite(object: UInt64, dkey: UInt64?, at epoch: UInt64) {
        let above = KeyStamps.index(object)
        objects[above].written = max(objects[above].written, epoch)
        if let dkey {
            let slot = KeyStamps.index(dkey)
            dkeys[slot].written = max(dkeys[slot].written, epoch)
        } else {
            objects[above].punched = max(objects[above].punched, epoch)
        }
    }

    // MARK: - Reads

    /// Whether what was read at `epoch` is still the newest. `dkey` is nil for a list of keys.
    func isUnchanged(object: UInt64, dkey: UInt64?, since epoch: UInt64) -> Bool {
        guard epoch > floor else { return false }
        let above = objects[KeyStamps.index(object)]
        guard let dkey else { return above.written <= epoch }
        return max(dkeys[KeyStamps.index(dkey)].written, above.punched) <= epoch
    }

    mutating func didRead(object: UInt64, dkey: UInt64?, at epoch: UInt64) {
        let above = KeyStamps.index(object)
        objects[above].readBelow = max(objects[above].readBelow, epoch)
        if let dkey {
            let slot = KeyStamps.index(dkey)
            dkeys[slot].read = max(dkeys[slot].read, epoch)
        } else {
            objects[above].read = max(objects[above].read, epoch)
        }
    }
}
