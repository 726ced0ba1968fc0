internal import DrayRuntime
internal import VOS

/// The values that a benchmark writes and reads: their names and contents. All are in one
/// container, 64 with neighbouring numbers in one object, and these take turns.
struct BenchValues: Sendable {
    let pool: UniqueID
    let container: UniqueID
    /// Bytes of each value, and of each distribution key.
    let size: Int
    let keySize: Int
    let count: UInt64

    static let akey = Array("data".utf8)
    /// The objects that the values are in.
    static let objects: UInt64 = 16
    /// The values in a row that one object has.
    static let run: UInt64 = 64
    /// Values shorter than this are single values, as attributes are; longer ones arrays, as data.
    private static let arrayMin = 4096

    var isArray: Bool { size >= BenchValues.arrayMin }

    /// Bytes of the value and of both its keys.
    var bytesOfEach: UInt64 { UInt64(size + keySize + BenchValues.akey.count) }

    static func object(_ index: UInt64) -> ObjectID { ObjectID(high: 0, low: 1 + index) }

    func object(of index: UInt64) -> ObjectID {
        BenchValues.object(index / BenchValues.run % BenchValues.objects)
    }

    /// The distribution key of a value. Neighbouring numbers give keys that are far apart.
    func dkey(_ index: UInt64) -> [UInt8] {
        unsafe [UInt8](unsafeUninitializedCapacity: keySize + 7) { buffer, count in
            // Different for each number: its steps can be undone.
            var word = index &* 0x9e37_79b9_7f4a_7c15
            for offset in stride(from: 0, to: keySize, by: 8) {
                unsafe UnsafeMutableRawBufferPointer(buffer).storeBytes(
                    of: word.bigEndian, toByteOffset: offset, as: UInt64.self)
                word = (word ^ word >> 29) &* 0xbf58_476d_1ce4_e5b9
            }
            count = keySize
        }
    }

    func fetch(_ index: UInt64) -> Fetch {
        Fetch(
            pool: pool, container: container, object: object(of: index), dkey: dkey(index),
            akey: BenchValues.akey)
    }

    /// The change that sets a value to the first `size` bytes of `buffer`.
    func operation(_ index: UInt64, _ buffer: IOBuffer, at offset: Int = 0) -> Operation {
        let bytes = unsafe UnsafeRawBufferPointer(
            rebasing: UnsafeRawBufferPointer(buffer.bytes)[offset..<offset + size])
        let value = unsafe ValueBytes(bytes)
        return Operation(
            isArray
                ? .array(dkey: dkey(index), akey: BenchValues.akey, offset: 0, value)
                : .single(dkey: dkey(index), akey: BenchValues.akey, value))
    }

    /// Writes the beginning of a value, which tells it from the others.
    func stamp(_ index: UInt64, in buffer: IOBuffer, at offset: Int = 0) {
        let word = index &+ 1
        for place in 0..<min(8, size) {
            unsafe buffer.bytes[offset + place] = UInt8(
                truncatingIfNeeded: word >> UInt64(place * 8))
        }
    }

    /// Whether the buffer begins like the value.
    func isStamped(_ index: UInt64, _ buffer: IOBuffer) -> Bool {
        let word = index &+ 1
        for place in 0..<min(8, size)
        where unsafe buffer.bytes[place] != UInt8(truncatingIfNeeded: word >> UInt64(place * 8)) {
            return false
        }
        return true
    }
}
