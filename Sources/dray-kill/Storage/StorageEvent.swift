internal import Glibc

/// What a process that uses a store tells whoever kills it: one record of a pipe, whole or not at
/// all.
struct StorageEvent: Sendable {
    enum Kind: UInt32, Sendable {
        /// An update is about to be asked for.
        case begun = 1
        /// It was acknowledged.
        case acknowledged
        /// It was refused: nothing has changed.
        case refused
        /// After a start: an update that was begun in an earlier life is there, or is not.
        case found
        case missing
        /// The store is open, and everything in it is right.
        case verified
        /// So many values were read and compared.
        case read
    }

    var kind: Kind
    var lane: UInt32 = 0
    /// Of the update, or how many.
    var number: UInt64 = 0
    var epoch: UInt64 = 0
    /// What the update is drawn from.
    var seed: UInt64 = 0

    static let byteCount = 32

    init(_ kind: Kind, lane: UInt32 = 0, number: UInt64 = 0, epoch: UInt64 = 0, seed: UInt64 = 0) {
        self.kind = kind
        self.lane = lane
        self.number = number
        self.epoch = epoch
        self.seed = seed
    }

    /// Decodes the record at an index of a list of them.
    init?(_ bytes: [UInt8], at index: Int) {
        func word(_ place: Int, _ count: Int) -> UInt64 {
            (0..<count).reduce(0) { value, byte in
                value | UInt64(bytes[index * StorageEvent.byteCount + place + byte])
                    << UInt64(8 * byte)
            }
        }
        guard let kind = Kind(rawValue: UInt32(word(0, 4))) else { return nil }
        self.init(
            kind, lane: UInt32(word(4, 4)), number: word(8, 8), epoch: word(16, 8),
            seed: word(24, 8))
    }

    var encoded: [UInt8] {
        var bytes: [UInt8] = []
        func put(_ value: UInt64, _ count: Int) {
            for byte in 0..<count { bytes.append(UInt8(truncatingIfNeeded: value >> (8 * byte))) }
        }
        put(UInt64(kind.rawValue), 4)
        put(UInt64(lane), 4)
        put(number, 8)
        put(epoch, 8)
        put(seed, 8)
        return bytes
    }

    /// Writes it to a pipe. False when nobody listens any more.
    func send(to descriptor: Int32) -> Bool {
        let bytes = encoded
        while true {
            if unsafe write(descriptor, bytes, bytes.count) == bytes.count { return true }
            guard errno == EINTR else { return false }
        }
    }
}
