package import DrayRuntime
internal import VOS

/// Draws changes of all kinds on a few names.
package struct StoreGenerator: Sendable {
    /// The names that are drawn from.
    package struct Names: Sendable {
        package var objects = [
            ObjectID(high: 0, low: 1), ObjectID(high: 7 << 32, low: 0),
            ObjectID(high: .max, low: .max),
        ]
        package var dkeys: [[UInt8]] = [
            [], [0], [0, 255], [1], Array("dkey".utf8), [255, 255],
            [UInt8](repeating: 7, count: 300),
        ]
        package var akeys: [[UInt8]] = [[], [0, 1], [7]]

        package init() {}
    }

    package let names: Names
    private var entropy: Entropy
    /// Apart, so that who uses other sizes does the same otherwise.
    private var recordEntropy: Entropy
    private var shiftEntropy: Entropy

    package init(entropy: Entropy, names: Names = Names()) {
        self.entropy = entropy
        recordEntropy = entropy.fork("records")
        shiftEntropy = entropy.fork("shifts")
        self.names = names
    }

    private mutating func pick<Value>(_ values: [Value]) -> Value {
        values[Int(entropy.below(UInt64(values.count)))]
    }

    /// An attribute key of a container.
    package mutating func name(_ container: UniqueID) -> StoreName {
        StoreName(
            container: container, object: pick(names.objects), dkey: pick(names.dkeys),
            akey: pick(names.akeys))
    }

    /// What an update of one object may consist of.
    package mutating func changes() -> [StoreChange] {
        let object = pick(names.objects)
        let last = entropy.below(entropy.chance(1, in: 4) ? 5 : 1)
        return (0...last).map { _ in change(object) }
    }

    /// A change of an object: a single value, an extent or a punch, with a condition at times.
    package mutating func change(_ object: ObjectID) -> StoreChange {
        let (dkey, akey) = (pick(names.dkeys), pick(names.akeys))
        var change: StoreChange
        switch entropy.below(30) {
        case 0: change = StoreChange(object)
        case 1: change = StoreChange(object, dkey)
        case 2, 3: change = StoreChange(object, dkey, akey)
        case 4...16: change = StoreChange(object, dkey, akey, .single(bytes()))
        default:
            var bytes = bytes()
            if bytes.isEmpty { bytes = [1] }
            var offset = offset()
            if shiftEntropy.chance(1, in: 2) { shift(&offset, &bytes) }
            change = StoreChange(object, dkey, akey, records(akey, offset, bytes))
        }
        if entropy.chance(1, in: 5) {
            change.condition =
                change.akey == nil
                ? .update : pick([.insert, .update, .insertDkey, .updateDkey])
        }
        return change
    }

    /// Mostly short; of whole blocks, and of several chunks of a checksum, at times.
    private mutating func bytes() -> [UInt8] {
        let count: UInt64 =
            switch entropy.below(40) {
            case 0: 0
            case 1...22: entropy.below(100)
            case 23...32: entropy.below(5000)
            case 33: 4096 * (1 + entropy.below(3))
            case 34...38: entropy.below(20_000)
            default: entropy.below(140_000)
            }
        return .pattern(Int(count), seed: entropy.next())
    }

    /// An extent of whole records. Those of one akey mostly have 8 bytes, those of the others
    /// mostly one.
    private mutating func records(
        _ akey: [UInt8], _ offset: UInt64, _ bytes: [UInt8]
    ) -> StoreChange.Body {
        let usual: UInt32 = akey == names.akeys.last ? 8 : 1
        let sizes: [UInt32] = [1, 3, 8, 4096, UInt32(VOSLimits.valueLengthMax) + 1]
        let size =
            recordEntropy.chance(1, in: usual == 1 ? 8 : 4)
            ? sizes[Int(recordEntropy.below(UInt64(sizes.count)))] : usual
        guard size > 1, size <= VOSLimits.valueLengthMax else {
            return .extent(offset, bytes, recordSize: size)
        }
        let whole = (bytes.count + Int(size) - 1) / Int(size) * Int(size)
        let padding = [UInt8](repeating: 7, count: whole - bytes.count)
        return .extent(
            offset / UInt64(size) * UInt64(size), bytes + padding, recordSize: size)
    }

    /// Makes an extent one of those that overlap so that little is left of the older one.
    private mutating func shift(_ offset: inout UInt64, _ bytes: inout [UInt8]) {
        offset = 512 * shiftEntropy.below(12)
        bytes = .pattern(
            6000 + Int(shiftEntropy.below(3000)), seed: shiftEntropy.next())
    }

    private mutating func offset() -> UInt64 {
        switch entropy.below(8) {
        case 0...3: entropy.below(300)
        case 4...6: entropy.below(60_000)
        default: 1 << 33 + 4096 * entropy.below(8)
        }
    }
}
