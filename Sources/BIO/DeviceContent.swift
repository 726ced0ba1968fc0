public import DrayRuntime

/// What is on a device, as far as its first bytes tell.
public enum DeviceContent: Hashable, Sendable {
    /// Stores of ours, in the order of their places.
    case stores([StoreLabel])
    /// Something else, by its name: "ext4 file system".
    case foreign(String)
    /// Zeroes, in all the places that were looked at.
    case empty
    /// It could not be read: why.
    case unreadable(String)
}

/// What the superblock of a store says.
public struct StoreLabel: Hashable, Sendable {
    /// What is in the partition.
    public enum Role: String, Hashable, Sendable {
        /// Everything.
        case whole
        /// The data of a store with a metadata device.
        case data
        /// Log and metadata of one.
        case metadata
    }

    public var identity: StoreIdentity
    public var role: Role
    /// Where it lies on the device, in bytes.
    public var partition: Range<UInt64>
    /// The size of the log in bytes; 0 where the metadata device has it.
    public var logSize: UInt64
    /// Space for data on this device, in bytes.
    public var dataSize: UInt64
    /// What the two partitions of a store on two devices have in common.
    public var pairID: UniqueID?
    /// The last record that a checkpoint includes; nil where there is none.
    public var checkpoint: UInt64?
    /// Whether both copies of the superblock are there and say the same.
    public var isIntact: Bool
    /// Whether the device was declared faulty, and nobody has returned it to service.
    public var isFaulty: Bool

    init(_ superblock: Superblock, isIntact: Bool) {
        let unit = UInt64(BlockDevice.blockSize)
        identity = superblock.identity
        partition = superblock.partition
        logSize = superblock.role == .data ? 0 : superblock.logBlocks * unit
        pairID = superblock.partner?.pairID
        checkpoint = superblock.checkpoint?.logSequence
        self.isIntact = isIntact
        isFaulty = superblock.isFaulty
        switch superblock.role {
        case .single: (role, dataSize) = (.whole, UInt64(superblock.dataBlocks) * unit)
        case .data: (role, dataSize) = (.data, UInt64(superblock.dataBlocks) * unit)
        case .metadata: (role, dataSize) = (.metadata, UInt64(superblock.metadataBlocks) * unit)
        }
    }
}

/// Reads a device's bytes: `count` at an offset, or throws why not. Short at the end.
typealias DeviceReader = (_ offset: UInt64, _ buffer: IOBuffer) throws(BIOError) -> Int

extension DeviceContent {
    /// The most stores of a device: the targets of an engine, and its metadata.
    static let storesMax = 1024
    /// How much of the beginning is looked at: the signatures of all file systems that we know.
    static let signatureBytes = 72 << 10

    /// Looks at a device of `size` bytes.
    init(size: UInt64, _ read: DeviceReader) {
        do throws(BIOError) {
            let stores = try DeviceContent.stores(size: size, read)
            if !stores.isEmpty {
                self = .stores(stores)
                return
            }
            let buffer = IOBuffer(count: DeviceContent.signatureBytes)
            _ = try read(0, buffer)
            if let name = DeviceContent.signature(buffer) {
                self = .foreign(name)
                return
            }
            let isEmpty = buffer.isZero(0..<buffer.count)
            self = isEmpty ? .empty : .foreign("unknown data")
        } catch {
            self.init(error)
        }
    }

    /// Why it cannot be read.
    init(_ error: BIOError) {
        switch error {
        case .failed(_, let offset, _, let message):
            self = .unreadable("\(message) at byte \(offset)")
        case .unusable(_, _, let message): self = .unreadable(message)
        default: self = .unreadable("\(error)")
        }
    }

    /// Partitions follow each other without gaps, from the beginning.
    private static func stores(
        size: UInt64, _ read: DeviceReader
    ) throws(BIOError) -> [StoreLabel] {
        var labels: [StoreLabel] = []
        var offset: UInt64 = 0
        let block = IOBuffer(count: BlockDevice.blockSize)
        while offset < size, labels.count < storesMax {
            var copies: [Superblock] = []
            for copy in 0..<Superblock.copies {
                let place = offset + copy * UInt64(BlockDevice.blockSize)
                block.zero(0..<block.count)
                guard place < size, try read(place, block) == block.count else { break }
                if case .valid(let superblock) = Superblock.decode(block),
                    superblock.partition.lowerBound == offset
                {
                    copies.append(superblock)
                }
            }
            guard let newest = copies.max(by: { $0.sequence < $1.sequence }) else { break }
            let isIntact = copies.count == Int(Superblock.copies) && copies[0] == copies[1]
            labels.append(StoreLabel(newest, isIntact: isIntact))
            offset = newest.partition.upperBound
        }
        return labels
    }

    // MARK: - What others leave

    private struct Signature {
        var offset: Int
        var bytes: [UInt8]
        var name: String

        init(_ offset: Int, _ text: String, _ name: String) {
            self.init(offset, Array(text.utf8), name)
        }

        init(_ offset: Int, _ bytes: [UInt8], _ name: String) {
            (self.offset, self.bytes, self.name) = (offset, bytes, name)
        }
    }

    /// As their formats' own documents give them. What may stand inside another comes after it.
    private static let signatures = [
        Signature(0, "XFSB", "XFS file system"),
        Signature(0, "LUKS\u{ba}\u{be}".unicodeScalars.map { UInt8($0.value) }, "LUKS encryption"),
        Signature(0, "bluestore block device", "Ceph BlueStore"),
        Signature(0, "hsqs", "squashfs file system"),
        Signature(3, "NTFS    ", "NTFS file system"),
        Signature(3, "EXFAT   ", "exFAT file system"),
        Signature(82, "FAT32   ", "FAT file system"),
        Signature(54, "FAT16   ", "FAT file system"),
        Signature(54, "FAT12   ", "FAT file system"),
        Signature(1080, [0x53, 0xef], "ext2, ext3 or ext4 file system"),
        Signature(1024, [0x10, 0x20, 0xf5, 0xf2], "F2FS file system"),
        Signature(1024, [0xe2, 0xe1, 0xf5, 0xe0], "EROFS file system"),
        Signature(65_600, "_BHRfS_M", "Btrfs file system"),
        Signature(32_769, "CD001", "ISO 9660 file system"),
        Signature(4096, [0xfc, 0x4e, 0x2b, 0xa9], "RAID member"),
        Signature(0, [0xfc, 0x4e, 0x2b, 0xa9], "RAID member"),
        Signature(4086, "SWAPSPACE2", "swap space"),
        Signature(4096, "NVDIMM_PFN_INFO", "persistent memory namespace"),
        Signature(512, "LABELONE", "LVM physical volume"),
        Signature(0, "LABELONE", "LVM physical volume"),
        Signature(512, "EFI PART", "GPT partition table"),
        Signature(4096, "EFI PART", "GPT partition table"),
        Signature(510, [0x55, 0xaa], "partition table or boot sector"),
    ]

    private static func signature(_ buffer: IOBuffer) -> String? {
        signatures.first { signature in
            let range = signature.offset..<signature.offset + signature.bytes.count
            return range.upperBound <= buffer.count && buffer.array(range) == signature.bytes
        }?.name
    }
}
