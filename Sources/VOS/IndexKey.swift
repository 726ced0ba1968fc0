internal import DrayRuntime
internal import Glibc

/// Builds and compares the keys of the index.
///
/// A key is a byte string whose order by `memcmp` is the order of what it names:
///
///     pool 16 | container 16 | object 16
///         | 0 ~epoch ~stamp                             object punch
///         | 1 dkey | 0 ~epoch ~stamp                    dkey punch
///                  | 1 akey | 0 ~epoch ~stamp           akey punch
///                           | 1 ~epoch ~stamp           single value
///                           | 2 extent ~epoch ~stamp    extent of an array
///
/// Numbers are big-endian; `~` inverts, so that the newest comes first. No two entries have the
/// same key, because no two have the same stamp, but for parts of one extent (`ExtentCopier`), and
/// those begin elsewhere. In dkey and akey the byte 0 is written as 0 255, and 0 1 ends the string;
/// that keeps the order of the bytes, for any bytes.
///
/// An array is divided into windows of 1 MiB. An extent is filed in that of its first byte:
///
///     extent = window 6 | class 1 | offset in the window 3
///
/// The class is 1, 2 or 3 for extents of up to 4 KiB, 64 KiB and 1 MiB: a search for what overlaps
/// a range then looks back only as far as extents of that class reach. What a merge of tables has
/// to know to tell which extents are hidden lies together, in two neighbouring windows.
enum IndexKey {
    typealias Bytes = [UInt8]

    static let objectLength = 48
    static let punchTag: UInt8 = 0
    static let childTag: UInt8 = 1
    static let singleTag: UInt8 = 1
    static let extentTag: UInt8 = 2

    /// Epoch and stamp at the end of every key.
    static let versionLength = 16
    /// Window, class and offset of an extent.
    static let extentLength = 10

    static let windowBytes: UInt64 = 1 << 20
    static let extentClasses: ClosedRange<UInt8> = 1...3

    /// The longest extent of a class, in bytes.
    @inline(__always)
    static func lengthMax(ofClass extentClass: UInt8) -> UInt64 {
        extentClass == 1 ? 4096 : extentClass == 2 ? 65_536 : 1 << 20
    }

    @inline(__always)
    static func extentClass(length: Int) -> UInt8 {
        length <= 4096 ? 1 : length <= 65_536 ? 2 : 3
    }

    /// The longest key: two strings of nothing but zero bytes, and the rest.
    static let lengthMax = objectLength + 4 * VOSLimits.keyLengthMax + 64

    static func pool(_ pool: UniqueID) -> Bytes {
        var key = Bytes()
        key.append(id: pool)
        return key
    }

    static func container(_ pool: UniqueID, _ container: UniqueID) -> Bytes {
        var key = Bytes()
        key.append(id: pool)
        key.append(id: container)
        return key
    }

    /// The prefix of everything of an object.
    static func object(
        _ pool: UniqueID, _ container: UniqueID, _ object: ObjectID
    ) -> Bytes {
        Bytes.written(capacity: objectLength) { writer in
            putObject(pool, container, object, to: &writer)
        }
    }

    /// Writes the prefix of everything in an object: `objectLength` bytes.
    static func putObject(
        _ pool: UniqueID, _ container: UniqueID, _ object: ObjectID, to writer: inout ByteWriter
    ) {
        writer.put(id: pool)
        writer.put(id: container)
        writer.put(word: object.high)
        writer.put(word: object.low)
    }

    /// Writes a child's tag and its escaped name: the prefix of everything below it. Up to three
    /// bytes and twice the name's.
    static func putName(_ name: [UInt8], to writer: inout ByteWriter) {
        writer.put(childTag)
        putEscaped(name, to: &writer)
    }

    /// Writes a string so that it ends, and sorts, by itself. Up to two bytes and twice its own.
    static func putEscaped(_ name: [UInt8], to writer: inout ByteWriter) {
        let isClean = unsafe name.withUnsafeBytes { bytes in
            unsafe bytes.isEmpty || memchr(bytes.baseAddress!, 0, bytes.count) == nil
        }
        if isClean {
            writer.put(bytes: name)
        } else {
            for byte in name {
                writer.put(byte)
                if byte == 0 { writer.put(255 as UInt8) }
            }
        }
        writer.put(0 as UInt8)
        writer.put(1 as UInt8)
    }

    /// The string that begins at `start` in `key`, and where the key goes on after it. Nil when it
    /// does not end properly.
    static func name(in key: Bytes, at start: Int) -> (name: [UInt8], end: Int)? {
        var name: [UInt8] = []
        var index = start
        while index + 1 < key.count {
            let byte = key[index]
            guard byte == 0 else {
                name.append(byte)
                index += 1
                continue
            }
            switch key[index + 1] {
            case 255: name.append(0)
            case 1: return (name, index + 2)
            default: return nil
            }
            index += 2
        }
        return nil
    }

    /// The smallest key above everything that begins with `prefix`. A prefix ends with a name's
    /// terminator or is an identifier; all ones have no successor, and the answer is then a key
    /// that no prefix of that length can reach.
    static func successor(ofPrefix prefix: Bytes) -> Bytes {
        var key = prefix
        var index = key.count - 1
        while index >= 0 {
            if key[index] != 255 {
                key[index] += 1
                key.removeLast(key.count - 1 - index)
                return key
            }
            index -= 1
        }
        return Bytes(repeating: 255, count: lengthMax)
    }

    @inline(__always)
    static func compare(_ left: Bytes, _ right: Bytes) -> Int {
        unsafe right.withUnsafeBytes { unsafe compare(left, to: $0) }
    }

    /// Below, at or above 0 as `left` is below, equal to or above `right`.
    @inline(__always)
    static func compare(_ left: borrowing Bytes, to right: UnsafeRawBufferPointer) -> Int {
        unsafe left.withUnsafeBytes { left in
            let common = min(left.count, right.count)
            if common > 0 {
                let result = unsafe memcmp(left.baseAddress!, right.baseAddress!, common)
                if result != 0 { return Int(result) }
            }
            return left.count - right.count
        }
    }

    static func hasPrefix(_ key: Bytes, _ prefix: Bytes) -> Bool {
        guard key.count >= prefix.count else { return false }
        return unsafe key.withUnsafeBytes { first in
            unsafe prefix.withUnsafeBytes { second in
                unsafe second.isEmpty
                    || memcmp(first.baseAddress!, second.baseAddress!, second.count) == 0
            }
        }
    }

    /// Whether two keys agree in their first `length` bytes, and both have them.
    static func agree(_ left: Bytes, _ right: Bytes, length: Int) -> Bool {
        guard left.count >= length, right.count >= length else { return false }
        return unsafe left.withUnsafeBytes { first in
            unsafe right.withUnsafeBytes { second in
                unsafe memcmp(first.baseAddress!, second.baseAddress!, length) == 0
            }
        }
    }
}

extension [UInt8] {
    /// Appends 8 bytes, most significant first.
    @inline(__always)
    mutating func append(word: UInt64) {
        unsafe Swift.withUnsafeBytes(of: word.bigEndian) { unsafe append(contentsOf: $0) }
    }

    /// Appends where an extent is filed.
    mutating func append(extentAt offset: UInt64, class extentClass: UInt8) {
        let window = offset / IndexKey.windowBytes
        append(UInt8(truncatingIfNeeded: window >> 40))
        append(UInt8(truncatingIfNeeded: window >> 32))
        append(UInt8(truncatingIfNeeded: window >> 24))
        append(UInt8(truncatingIfNeeded: window >> 16))
        append(UInt8(truncatingIfNeeded: window >> 8))
        append(UInt8(truncatingIfNeeded: window))
        append(extentClass)
        append(UInt8(truncatingIfNeeded: offset >> 16) & 0x0f)
        append(UInt8(truncatingIfNeeded: offset >> 8))
        append(UInt8(truncatingIfNeeded: offset))
    }

    mutating func append(id: UniqueID) {
        append(word: id.high)
        append(word: id.low)
    }

    /// The 8 bytes at `index`, most significant first.
    func word(at index: Int) -> UInt64 {
        precondition(index >= 0 && index + 8 <= count)
        return unsafe withUnsafeBytes { bytes in
            unsafe UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: index, as: UInt64.self))
        }
    }
}

extension IndexKey {
    /// The first bytes of a key, which others have, too.
    struct Prefix {
        let bytes: Bytes
        let count: Int

        init(_ bytes: Bytes) {
            self.bytes = bytes
            count = bytes.count
        }

        /// Every key begins with it.
        static var none: Prefix { Prefix([]) }

        /// The first `count` bytes of `bytes`.
        init(_ bytes: Bytes, count: Int) {
            precondition(count <= bytes.count)
            self.bytes = bytes
            self.count = count
        }

        /// Whether `key` begins with it.
        @inline(__always)
        func begins(_ key: UnsafeRawBufferPointer) -> Bool {
            unsafe bytes.withUnsafeBytes { bytes in
                unsafe key.count >= count
                    && (count == 0 || memcmp(bytes.baseAddress!, key.baseAddress!, count) == 0)
            }
        }

        func begins(_ key: Bytes) -> Bool { unsafe key.withUnsafeBytes { unsafe begins($0) } }

        /// Below, at or above 0 as it is below, equal to or above `key`.
        func compare(_ key: Bytes) -> Int {
            unsafe withBytes { prefix in
                unsafe key.withUnsafeBytes { unsafe IndexKey.compare(prefix, $0) }
            }
        }

        func withBytes<Value>(_ body: (UnsafeRawBufferPointer) -> Value) -> Value {
            unsafe bytes.withPrefix(count) { unsafe body($0) }
        }
    }
}
