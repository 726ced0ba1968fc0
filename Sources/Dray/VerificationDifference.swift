public import DrayPlacement
public import DrayRuntime

/// A value, or a part of an array, that not every replica has alike, or that is damaged in one.
public struct VerificationDifference: Sendable, Hashable {
    public var object: ObjectID
    /// The redundancy group of the object.
    public var group: Int
    public var dkey: [UInt8]
    public var akey: [UInt8]
    /// The bytes of an array; nil for a single value.
    public var extent: Range<UInt64>?
    /// What each replica of the group has, the leader first.
    public var replicas: [Replica]

    /// What one replica has.
    public struct Replica: Sendable, Hashable {
        public var target: TargetAddress
        public var state: State
    }

    /// A value in one replica.
    public enum State: Sendable, Hashable {
        /// Nothing is there.
        case missing
        /// A value of so many bytes that was written at `epoch`; `checksum` is the CRC32C of what
        /// the device gives.
        case present(byteCount: UInt64, epoch: UInt64, checksum: UInt32)
        /// What the device gives does not match the checksums that were stored with it.
        case corrupt(byteCount: UInt64, epoch: UInt64)
    }
}
