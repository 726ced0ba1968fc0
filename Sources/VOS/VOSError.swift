public import BIO
public import DrayRuntime

/// What can go wrong with an operation on a versioned object store.
///
/// Whatever is thrown, nothing has changed, and no data was given out.
public enum VOSError: Error, Hashable, Sendable {
    /// There is no such value at that epoch, or a condition asked for one that is not there.
    case notFound
    /// A condition asked for a key that is not there, and it is.
    case exists
    /// Not enough space: how much was asked for and how much is free, in bytes.
    case noSpace(requested: UInt64, free: UInt64)
    /// What is stored does not match its checksum: the value, and what was expected.
    case corrupt(ValueLocation, what: String)
    /// The index itself, in the checkpoint or the log, is damaged: what, and where.
    case damaged(what: String)
    /// A distribution or attribute key is too long, in bytes.
    case keyTooLong(length: Int, maximum: Int)
    /// A value is too long, in bytes.
    case valueTooLong(length: Int, maximum: Int)
    /// The caller's bytes do not match the caller's checksum of chunk `chunk`.
    case checksumMismatch(chunk: Int)
    /// The array has records of `stored` bytes, and the request is about records of `given`.
    case recordSizeMismatch(stored: UInt32, given: UInt32)
    /// The request makes no sense; nothing but the caller can help.
    case badArgument(String)
    /// The device failed.
    case device(BIOError)
    /// The transaction is being applied right now. Ask again.
    case duplicateInProgress(UniqueID)
    /// Something that the transaction has read, or is about to write, has changed: begin again.
    case conflict
    /// Another transaction holds the key, and what becomes of it is not known yet. Ask again.
    case undecided
    /// The epoch lies where versions may have been aggregated away already.
    case epochTooOld(epoch: UInt64, oldest: UInt64)
    /// The store was closed.
    case closed
}

/// Names one stored value, for messages.
public struct ValueLocation: Hashable, Sendable {
    public var pool: UniqueID
    public var container: UniqueID
    public var object: ObjectID
    public var dkey: [UInt8]
    public var akey: [UInt8]
    /// The first byte of the extent; 0 for a single value.
    public var offset: UInt64
    /// The length of the value or extent in bytes.
    public var byteCount: Int
    public var epoch: UInt64
    /// The device that has what is wrong.
    public var device: String
    /// The byte where that begins there; nil for a value that stands in the index.
    public var deviceOffset: UInt64?
}

extension ValueLocation: CustomStringConvertible {
    public var description: String { "pool \(pool), container \(container), \(objectText)" }

    /// The same for who knows the container. Not longer than 800 bytes, whatever the keys are, but
    /// for the name of the device.
    public var objectText: String {
        let place = deviceOffset.map { "\(device) at byte \($0)" } ?? "the index on \(device)"
        return "object \(object), dkey \(ValueLocation.text(of: dkey)), akey "
            + "\(ValueLocation.text(of: akey)), offset \(offset), \(byteCount) bytes, epoch "
            + "\(epoch), in \(place)"
    }

    /// A key as a line can show it: its beginning, and how long it is, where it is long.
    static func text(of key: [UInt8]) -> String {
        var text = ""
        let special = [UInt8(ascii: "\\"), UInt8(ascii: "'")]
        for byte in key.prefix(64) {
            if (32..<127).contains(byte), !special.contains(byte) {
                text.unicodeScalars.append(Unicode.Scalar(byte))
            } else {
                text += "\\x" + (byte < 16 ? "0" : "") + String(byte, radix: 16)
            }
        }
        return "'\(text)'" + (key.count > 64 ? "… (\(key.count) bytes)" : "")
    }
}
