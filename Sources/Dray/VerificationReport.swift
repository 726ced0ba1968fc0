/// What a verification found: what was read and compared, and where replicas differ.
public struct VerificationReport: Sendable {
    public internal(set) var objects: UInt64 = 0
    /// Redundancy groups of these objects.
    public internal(set) var groups: UInt64 = 0
    /// Replicas that were read: for each group, as many as its class has.
    public internal(set) var replicas: UInt64 = 0
    /// Values and extents, each counted once however many replicas have it.
    public internal(set) var values: UInt64 = 0
    /// Their bytes, each counted once.
    public internal(set) var bytes: UInt64 = 0
    /// The first `differencesMax` differences.
    public internal(set) var differences: [VerificationDifference] = []
    /// All differences.
    public internal(set) var differenceCount: UInt64 = 0

    /// The most differences that a report names.
    public static let differencesMax = 1000

    /// Whether every replica has the same, and all of it is whole.
    public var isEqual: Bool { differenceCount == 0 }

    mutating func add(_ other: VerificationReport) {
        objects += other.objects
        groups += other.groups
        replicas += other.replicas
        values += other.values
        bytes += other.bytes
        differenceCount += other.differenceCount
        let room = VerificationReport.differencesMax - differences.count
        differences += other.differences.prefix(room)
    }

    mutating func add(_ difference: VerificationDifference) {
        differenceCount += 1
        if differences.count < VerificationReport.differencesMax { differences.append(difference) }
    }
}
