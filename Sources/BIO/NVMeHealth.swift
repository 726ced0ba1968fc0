internal import CUring
internal import DrayRuntime
internal import Glibc

/// What the controller of an NVMe device says of its health (log page 02h of the NVM Express base
/// specification).
public struct NVMeHealth: Hashable, Sendable {
    /// What it warns of, a bit each: 0 spare space, 1 temperature, 2 reliability, 3 the medium is
    /// read-only, 4 the backup of volatile memory, 5 the persistent memory region.
    public var criticalWarning: UInt8
    /// In degrees Celsius; nil where nobody measures it.
    public var temperature: Int?
    /// Spare space that is left, in percent; below the threshold it warns.
    public var spare: UInt8
    public var spareThreshold: UInt8
    /// How much of the device's life is used, in percent; may be more than 100.
    public var percentageUsed: UInt8
    /// How often the controller has found data damaged that it could not mend.
    public var mediaErrors: UInt64

    /// Bytes of the log page.
    static let pageBytes = Int(dray_nvme_health_size)

    /// Reads a log page.
    init(page: [UInt8]) {
        precondition(page.count == NVMeHealth.pageBytes, "a health log page has 512 bytes")
        criticalWarning = page[0]
        // In kelvins; 0 where nobody measures it.
        let kelvins = Int(page[1]) + Int(page[2]) << 8
        temperature = kelvins == 0 ? nil : kelvins - 273
        spare = page[3]
        spareThreshold = page[4]
        percentageUsed = page[5]
        // 16 bytes, the last of which nobody will need.
        let low = page[160..<168].reversed().reduce(0 as UInt64) { $0 << 8 | UInt64($1) }
        mediaErrors = page[168..<176].allSatisfy { $0 == 0 } ? low : .max
    }

    /// What it warns of, in words.
    public var warnings: [String] {
        let words = [
            "spare space is low", "temperature", "reliability is degraded", "read-only",
            "volatile memory backup failed", "persistent memory region",
        ]
        return (0..<8).filter { criticalWarning >> $0 & 1 == 1 }.map { bit in
            bit < words.count ? words[bit] : "bit \(bit)"
        }
    }
}

extension StorageScan {
    /// The health of an NVMe device, generic or block; nil for any other, and where the kernel does
    /// not let us ask. Locks nothing: an engine may use the device. Takes a command to the
    /// controller.
    public static func health(of path: String) -> NVMeHealth? {
        let descriptor = unsafe path.withCString {
            unsafe dray_file_open($0, O_RDONLY | O_NONBLOCK)
        }
        guard descriptor >= 0 else { return nil }
        defer { Glibc.close(descriptor) }
        let page = IOBuffer(count: NVMeHealth.pageBytes)
        var status: Int32 = 0
        // SAFETY: the command writes no more than the page, and has ended when this returns.
        let code = unsafe dray_nvme_health(
            descriptor, page.bytes.baseAddress?.assumingMemoryBound(to: UInt8.self), &status)
        return code == 0 ? NVMeHealth(page: page.array(0..<NVMeHealth.pageBytes)) : nil
    }
}
