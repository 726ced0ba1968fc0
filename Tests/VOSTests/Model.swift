import DrayRuntime
import VOS

/// What a store should hold: every change there ever was, and the slowest obvious way to read.
struct Model {
    struct Change {
        enum Body {
            case punch
            case single([UInt8])
            case extent(UInt64, [UInt8])
        }
        var object: ObjectID
        /// nil: the whole object.
        var dkey: [UInt8]?
        /// nil: the whole dkey.
        var akey: [UInt8]?
        var epoch: UInt64
        var body: Body

        func concerns(_ object: ObjectID, _ dkey: [UInt8], _ akey: [UInt8]) -> Bool {
            guard self.object.low == object.low else { return false }
            guard let ownDkey = self.dkey else { return true }
            guard ownDkey == dkey else { return false }
            guard let ownAkey = self.akey else { return true }
            return ownAkey == akey
        }
    }

    /// In the order they were applied: at equal epochs the later wins.
    var changes: [Change] = []

    /// The changes that a reader of an akey at `epoch` sees, oldest first, punched ones left out.
    private func visible(
        _ object: ObjectID, _ dkey: [UInt8], _ akey: [UInt8], _ epoch: UInt64
    ) -> [Change] {
        var seen: [Int] = []
        var index = 0
        while index < changes.count {
            if changes[index].concerns(object, dkey, akey), changes[index].epoch <= epoch {
                seen.append(index)
            }
            index += 1
        }
        seen.sort {
            changes[$0].epoch != changes[$1].epoch
                ? changes[$0].epoch < changes[$1].epoch : $0 < $1
        }
        var result: [Change] = []
        for index in seen {
            if case .punch = changes[index].body {
                result = []
            } else {
                result.append(changes[index])
            }
        }
        return result
    }

    func single(
        _ object: ObjectID, _ dkey: [UInt8], _ akey: [UInt8], _ epoch: UInt64
    ) -> [UInt8]? {
        var value: [UInt8]?
        for change in visible(object, dkey, akey, epoch) {
            if case .single(let bytes) = change.body { value = bytes }
        }
        return value
    }

    func array(
        _ object: ObjectID, _ dkey: [UInt8], _ akey: [UInt8], _ epoch: UInt64
    ) -> [UInt8] {
        var array: [UInt8] = []
        for change in visible(object, dkey, akey, epoch) {
            guard case .extent(let offset, let bytes) = change.body else { continue }
            let end = Int(offset) + bytes.count
            if array.count < end {
                array.append(contentsOf: [UInt8](repeating: 0, count: end - array.count))
            }
            array.replaceSubrange(Int(offset)..<end, with: bytes)
        }
        return array
    }

    func exists(_ object: ObjectID, _ dkey: [UInt8], _ akey: [UInt8]?, _ epoch: UInt64) -> Bool {
        if let akey { return !visible(object, dkey, akey, epoch).isEmpty }
        return !akeys(object, dkey, epoch).isEmpty
    }

    func akeys(_ object: ObjectID, _ dkey: [UInt8], _ epoch: UInt64) -> [[UInt8]] {
        let names = changes.filter { $0.object == object && $0.dkey == dkey }.compactMap(\.akey)
        return sorted(names).filter { !visible(object, dkey, $0, epoch).isEmpty }
    }

    func dkeys(_ object: ObjectID, _ epoch: UInt64) -> [[UInt8]] {
        let names = changes.filter { $0.object == object }.compactMap(\.dkey)
        return sorted(names).filter { !akeys(object, $0, epoch).isEmpty }
    }

    func objects(_ epoch: UInt64) -> [ObjectID] {
        var result: [ObjectID] = []
        for object in changes.map(\.object).sorted() where result.last != object {
            if !dkeys(object, epoch).isEmpty { result.append(object) }
        }
        return result
    }

    private func sorted(_ names: [[UInt8]]) -> [[UInt8]] {
        var result: [[UInt8]] = []
        for name in names.sorted(by: { $0.lexicographicallyPrecedes($1) })
        where result.last != name { result.append(name) }
        return result
    }
}
