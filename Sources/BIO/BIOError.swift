/// What can go wrong with a device and what is stored on it.
public enum BIOError: Error, Hashable, Sendable {
    /// There is no such file or device.
    case missing(path: String)
    /// It cannot be opened or used: an errno and its words.
    case unusable(path: String, code: Int32, message: String)
    /// It holds something that is not ours; formatting needs to be told to overwrite it.
    case foreign(path: String, found: String)
    /// It is ours but belongs to another engine, target or layout version.
    case mismatch(path: String, expected: String, found: String)
    /// It is in use by another process.
    case busy(path: String)
    /// What is stored is damaged: where, and what was expected.
    case corrupt(path: String, offset: UInt64, what: String)
    /// A read or write failed: an errno and its words.
    case failed(path: String, offset: UInt64, code: Int32, message: String)
    /// No space left: how much was asked for and how much is free, in bytes.
    case full(requested: UInt64, free: UInt64)
    /// The request is out of the device's range or limits.
    case outOfRange(String)
    /// So much of the device cannot be read, or does not match its checksums, that it was taken out
    /// of service: places of both kinds.
    case faulty(path: String, unreadable: Int, damaged: Int)
    /// The device was declared faulty earlier, and nobody has returned it to service.
    case declaredFaulty(path: String)
    /// The device was taken out of service after an error.
    case outOfService(path: String)
}
