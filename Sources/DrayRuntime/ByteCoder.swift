/// Why bytes could not be decoded.
public enum DecodingFailure: Error, Hashable, Sendable {
    /// The bytes end inside a value.
    case truncated
    /// A count or length exceeds its limit.
    case tooLong
    /// A value that its type does not have: a boolean of 2, text that is not UTF-8, an unknown
    /// enumerator.
    case invalidValue
    /// Bytes remain behind the last value.
    case trailingBytes
}

/// A value with one description that serves encoding and decoding.
///
/// ```swift
/// struct Point: ByteCodable {
///     var x: UInt32 = 0
///     var name = ""
///     mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
///         try coder.code(&x)
///         try coder.code(&name, max: 64)
///     }
/// }
/// ```
public protocol ByteCodable {
    /// The value that decoding fills.
    init()

    /// Codes every part, in order. Must change nothing while the coder encodes.
    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure)
}

/// Writes values as bytes, or reads them back: little endian, no padding, every read checked.
///
/// Encoding goes to memory of a fixed size and never fails for lack of it: bytes that do not fit
/// are counted but not stored, so that `count` is the size that would have been needed. Decoding
/// ends with an error on any input that is not well formed; it cannot crash, and a length is
/// checked against its limit and against the bytes that remain before anything is allocated.
///
/// Byte strings and arrays carry a 32-bit count. A limit that an encoded value exceeds is a
/// programmer's error and traps.
@safe @frozen public struct ByteCoder {
    @usableFromInline let base: UnsafeMutableRawPointer?
    @usableFromInline let limit: Int
    @usableFromInline var position = 0

    /// Bytes coded so far; when encoding, it may exceed the capacity.
    @inlinable public var count: Int { position }

    /// Whether values are filled from bytes (else: bytes from values).
    public let isDecoding: Bool

    /// Encodes into `buffer`, which must outlive the coder.
    @inlinable
    public init(encodingInto buffer: UnsafeMutableRawBufferPointer) {
        unsafe base = buffer.baseAddress
        limit = buffer.count
        isDecoding = false
    }

    /// Decodes `bytes`, which must outlive the coder.
    @inlinable
    public init(decoding bytes: UnsafeRawBufferPointer) {
        // SAFETY: nothing is written while decoding.
        unsafe base = UnsafeMutableRawPointer(mutating: bytes.baseAddress)
        limit = bytes.count
        isDecoding = true
    }

    /// Whether everything encoded so far was stored.
    @inlinable public var fits: Bool { count <= limit }

    /// Bytes that are left to decode, or the room that is left.
    @inlinable public var remaining: Int { max(0, limit - count) }

    /// Throws unless every byte was decoded.
    @inlinable
    public func finish() throws(DecodingFailure) {
        if isDecoding, count != limit { throw .trailingBytes }
    }

    // MARK: - Fixed sizes

    /// Codes an integer in its own size.
    @inlinable @inline(__always)
    public mutating func code<Value: FixedWidthInteger & BitwiseCopyable>(
        _ value: inout Value
    ) throws(DecodingFailure) {
        let size = MemoryLayout<Value>.size
        if isDecoding {
            guard limit - count >= size, let base = unsafe base else { throw .truncated }
            value = Value(
                littleEndian: unsafe base.loadUnaligned(fromByteOffset: count, as: Value.self))
        } else if count + size <= limit, let base = unsafe base {
            unsafe base.storeBytes(of: value.littleEndian, toByteOffset: count, as: Value.self)
        }
        position += size
    }

    /// Codes a boolean as one byte, 0 or 1.
    @inlinable
    public mutating func code(_ value: inout Bool) throws(DecodingFailure) {
        var byte: UInt8 = value ? 1 : 0
        try code(&byte)
        guard byte <= 1 else { throw .invalidValue }
        if isDecoding { value = byte == 1 }
    }

    /// Codes a floating-point number as its bits.
    @inlinable
    public mutating func code(_ value: inout Double) throws(DecodingFailure) {
        var bits = value.bitPattern
        try code(&bits)
        if isDecoding { value = Double(bitPattern: bits) }
    }

    /// Codes an enumerator by its raw value; an unknown one is `.invalidValue`.
    @inlinable
    public mutating func code<Value: RawRepresentable>(
        _ value: inout Value
    ) throws(DecodingFailure) where Value.RawValue: FixedWidthInteger & BitwiseCopyable {
        var raw = value.rawValue
        try code(&raw)
        guard isDecoding else { return }
        guard let known = Value(rawValue: raw) else { throw .invalidValue }
        value = known
    }

    // MARK: - Composites

    /// Codes a value by its own description.
    @inlinable
    public mutating func code<Value: ByteCodable>(
        _ value: inout Value
    ) throws(DecodingFailure) {
        try value.code(with: &self)
    }

    /// Codes a byte that says whether there is a value, and the value by `body`.
    @inlinable
    public mutating func code<Value>(
        _ value: inout Value?, default initial: @autoclosure () -> Value,
        _ body: (inout ByteCoder, inout Value) throws(DecodingFailure) -> Void
    ) throws(DecodingFailure) {
        var present = value != nil
        try code(&present)
        guard present else {
            if isDecoding { value = nil }
            return
        }
        var content = isDecoding ? initial() : (value ?? initial())
        try body(&self, &content)
        if isDecoding { value = content }
    }

    /// Codes an optional value by its own description.
    @inlinable
    public mutating func code<Value: ByteCodable>(
        _ value: inout Value?
    ) throws(DecodingFailure) {
        try code(&value, default: Value()) { (coder, value) throws(DecodingFailure) in
            try value.code(with: &coder)
        }
    }

    /// Codes an optional integer.
    @inlinable
    public mutating func code<Value: FixedWidthInteger & BitwiseCopyable>(
        _ value: inout Value?
    ) throws(DecodingFailure) {
        try code(&value, default: 0) { (coder, value) throws(DecodingFailure) in
            try coder.code(&value)
        }
    }

    /// Codes at most `max` elements, each by `body`; every element takes at least one byte.
    @inlinable
    public mutating func code<Value>(
        _ values: inout [Value], max: Int, default initial: @autoclosure () -> Value,
        _ body: (inout ByteCoder, inout Value) throws(DecodingFailure) -> Void
    ) throws(DecodingFailure) {
        let elements = try codeCount(values.count, max: max)
        guard isDecoding else {
            // A copy of each element would count every reference in it up and down.
            // SAFETY: others may have the array too, but nothing is changed while encoding.
            try unsafe values.withUnsafeBufferPointer { elements throws(DecodingFailure) in
                for index in elements.indices {
                    let element = unsafe UnsafeMutablePointer(
                        mutating: elements.baseAddress.unsafelyUnwrapped + index)
                    try unsafe body(&self, &element.pointee)
                }
            }
            return
        }
        var decoded: [Value] = []
        decoded.reserveCapacity(Swift.min(elements, 4096))
        for _ in 0..<elements {
            var value = initial()
            try body(&self, &value)
            decoded.append(value)
        }
        values = decoded
    }

    /// Codes at most `max` elements, each by its own description.
    @inlinable
    public mutating func code<Value: ByteCodable>(
        _ values: inout [Value], max: Int
    ) throws(DecodingFailure) {
        try code(&values, max: max, default: Value()) { (coder, value) throws(DecodingFailure) in
            try value.code(with: &coder)
        }
    }

    /// Codes at most `max` integers.
    @inlinable
    public mutating func code<Value: FixedWidthInteger & BitwiseCopyable>(
        _ values: inout [Value], max: Int
    ) throws(DecodingFailure) {
        try code(&values, max: max, default: 0) { (coder, value) throws(DecodingFailure) in
            try coder.code(&value)
        }
    }

    /// Codes at most `max` byte strings of at most `bytesMax` bytes each.
    @inlinable
    public mutating func code(
        _ values: inout [[UInt8]], max: Int, bytesMax: Int
    ) throws(DecodingFailure) {
        try code(&values, max: max, default: []) { (coder, value) throws(DecodingFailure) in
            try coder.code(&value, max: bytesMax)
        }
    }

    // MARK: - Byte strings

    /// Codes a byte string of at most `max` bytes: its length, then the bytes.
    @inlinable
    public mutating func code(_ bytes: inout [UInt8], max: Int) throws(DecodingFailure) {
        let length = try codeCount(bytes.count, max: max)
        if isDecoding {
            let start = unsafe base.map { unsafe UnsafeRawPointer($0 + count) }
            bytes = unsafe [UInt8](
                copying: UnsafeRawBufferPointer(start: start, count: length))
        } else if length > 0, count + length <= limit, let base = unsafe base {
            let start = position
            unsafe bytes.withUnsafeBytes { source in
                unsafe (base + start).copyMemory(
                    from: source.baseAddress.unsafelyUnwrapped, byteCount: length)
            }
        }
        position += length
    }

    /// Codes text of at most `max` bytes of UTF-8. Ill-formed UTF-8 is `.invalidValue`.
    public mutating func code(_ text: inout String, max: Int) throws(DecodingFailure) {
        var bytes = isDecoding ? [] : Array(text.utf8)
        try code(&bytes, max: max)
        guard isDecoding else { return }
        guard let decoded = String(validating: bytes, as: UTF8.self) else { throw .invalidValue }
        text = decoded
    }

    /// Codes the count of a sequence. Refuses one above `max` or above the remaining bytes.
    @inlinable
    public mutating func codeCount(_ value: Int, max: Int) throws(DecodingFailure) -> Int {
        precondition(isDecoding || value <= max, "a value to encode exceeds its limit")
        var raw = UInt32(isDecoding ? 0 : value)
        try code(&raw)
        guard isDecoding else { return value }
        guard Int(raw) <= max else { throw .tooLong }
        guard Int(raw) <= limit - count else { throw .truncated }
        return Int(raw)
    }
}

extension ByteCodable {
    /// The encoded bytes. For whatever is not hot: allocates.
    public func encoded() -> [UInt8] {
        var copy = self
        var size = 256
        while true {
            var needed = 0
            let bytes = unsafe [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
                var coder = unsafe ByteCoder(encodingInto: UnsafeMutableRawBufferPointer(buffer))
                do throws(DecodingFailure) {
                    try copy.code(with: &coder)
                } catch {
                    preconditionFailure("encoding failed: \(error)")
                }
                needed = coder.count
                count = coder.fits ? needed : 0
            }
            if needed <= size { return bytes }
            size = needed
        }
    }

    /// Decodes a value from all of `bytes`.
    public init(decoding bytes: [UInt8]) throws(DecodingFailure) {
        let result = unsafe bytes.withUnsafeBytes { buffer -> Result<Self, DecodingFailure> in
            do throws(DecodingFailure) {
                return .success(try unsafe Self(decoding: buffer))
            } catch {
                return .failure(error)
            }
        }
        self = try result.get()
    }

    /// Decodes a value from all of `bytes`.
    @inlinable
    public init(decoding bytes: UnsafeRawBufferPointer) throws(DecodingFailure) {
        self.init()
        var coder = unsafe ByteCoder(decoding: bytes)
        try code(with: &coder)
        try coder.finish()
    }
}
