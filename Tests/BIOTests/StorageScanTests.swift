import DrayRuntime
import Glibc
import Testing

@testable import BIO

@Suite struct StorageScanTests {
    /// A device in memory.
    private static func content(_ bytes: [UInt8], size: UInt64? = nil) -> DeviceContent {
        DeviceContent(size: size ?? UInt64(bytes.count)) { (offset, buffer) throws(BIOError) in
            guard offset < UInt64(bytes.count) else { return 0 }
            let end = min(bytes.count, Int(offset) + buffer.count)
            bytes[Int(offset)..<end].withUnsafeBytes { buffer.bytes.copyMemory(from: $0) }
            return end - Int(offset)
        }
    }

    private static func zeroes(with bytes: [UInt8], at offset: Int) -> [UInt8] {
        var all = [UInt8](repeating: 0, count: 1 << 20)
        all.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        return all
    }

    @Test(arguments: [
        (0, Array("XFSB".utf8), "XFS file system"),
        (1080, [0x53, 0xef], "ext2, ext3 or ext4 file system"),
        (65_600, Array("_BHRfS_M".utf8), "Btrfs file system"),
        (0, [0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe], "LUKS encryption"),
        (510, [0x55, 0xaa], "partition table or boot sector"),
        (512, Array("EFI PART".utf8), "GPT partition table"),
        (4086, Array("SWAPSPACE2".utf8), "swap space"),
        (32_769, Array("CD001".utf8), "ISO 9660 file system"),
        (5000, [1], "unknown data"),
    ])
    func othersAreNamed(offset: Int, bytes: [UInt8], name: String) {
        #expect(Self.content(Self.zeroes(with: bytes, at: offset)) == .foreign(name))
    }

    @Test func whatIsNothing() {
        #expect(Self.content([UInt8](repeating: 0, count: 1 << 20)) == .empty)
        #expect(Self.content([], size: 0) == .empty)
        #expect(Self.content([UInt8](repeating: 0, count: 100)) == .empty)
        let unreadable = DeviceContent(size: 1 << 20) { (offset, _) throws(BIOError) in
            throw .failed(path: "x", offset: offset, code: EIO, message: "Input/output error")
        }
        #expect(unreadable == .unreadable("Input/output error at byte 0"))
    }

    /// Real files with stores, one after the other, on one device and on two.
    @Test func storesAreFound() async throws {
        let folder = TemporaryFolder()
        let (path, second) = (folder.path + "/disk", folder.path + "/metadata")
        let store = RealDeviceStore()
        try store.create(path: path, size: 8 << 20)
        try store.create(path: second, size: 2 << 20)
        #expect(StorageScan.device(at: path).content == .empty)
        #expect(StorageScan.device(at: path).usedBy == nil)
        let xstream = World.real().makeXStream(name: "bio-test")
        defer { xstream.stop() }
        let identity = SimulatedNode.identity
        let whileOpen = try await xstream.run { () async throws(BIOError) in
            let device = try store.open(path: path, on: xstream)
            let metadata = try store.open(path: second, on: xstream)
            try await BlockStore.format(
                device, partition: 0..<4 << 20, identity: identity, logSize: 1 << 20)
            var other = identity
            other.target = 6
            try await BlockStore.format(
                device, partition: 4 << 20..<8 << 20, identity: other, logSize: 1 << 20, salt: 5,
                metadata: BlockStore.MetadataPartition(device: metadata, partition: 0..<2 << 20))
            let found = StorageScan.device(at: path)
            await device.close()
            await metadata.close()
            return found
        }
        #expect(whileOpen.usedBy == "process \(getpid())")
        let found = StorageScan.device(at: path)
        #expect(found.usedBy == nil && found.kind == .file && found.size == 8 << 20)
        guard case .stores(let labels) = found.content, labels.count == 2 else {
            Issue.record("\(found)")
            return
        }
        #expect(labels[0].identity == identity && labels[0].role == .whole)
        #expect(labels[0].partition == 0..<4 << 20 && labels[0].logSize == 1 << 20)
        #expect(labels[0].dataSize == (3 << 20) - 8192)
        #expect(labels[0].pairID == nil && labels[0].isIntact && labels[0].checkpoint == nil)
        #expect(labels[1].identity.target == 6 && labels[1].role == .data)
        #expect(labels[1].logSize == 0 && labels[1].dataSize == (4 << 20) - 8192)
        guard case .stores(let others) = StorageScan.device(at: second).content else {
            Issue.record("no metadata")
            return
        }
        #expect(others.count == 1 && others[0].role == .metadata)
        #expect(others[0].pairID == labels[1].pairID && others[0].pairID != nil)
        #expect(others[0].dataSize == (1 << 20) - 8192)

        // One damaged superblock, of the second store; then both.
        let descriptor = open(path, O_RDWR)
        defer { close(descriptor) }
        // A DAX device is mapped.
        let size: UInt64 = 8 << 20
        #expect(
            StorageScan.content(of: descriptor, path: path, size: size, isMapped: true)
                == found.content)
        // Memory that cannot be read: behind the end of the file.
        #expect(
            StorageScan.content(of: descriptor, path: path, size: 2 * size, isMapped: true)
                == .unreadable(
                    "Input/output error (memory that cannot be used) at byte \(size)"))
        var byte: UInt8 = 0x55
        for (copy, count) in [(0, 2), (1, 1)] {
            pwrite(descriptor, &byte, 1, off_t((4 << 20) + copy * 4096 + 3000))
            guard case .stores(let now) = StorageScan.device(at: path).content else {
                Issue.record("no stores")
                return
            }
            #expect(now.count == count && now.last?.isIntact == (count == 1))
        }
    }

    @Test func thisMachineCanBeScanned() {
        for device in StorageScan.devices() {
            #expect(device.path.hasPrefix("/dev/") && device.size > 0)
        }
        let missing = StorageScan.device(at: "/no/such/device")
        #expect(missing.content == .unreadable("No such file or directory"))
        #expect(
            StorageScan.device(at: "/dev/null").content
                == .unreadable("neither a file nor a block device"))
        guard case .unreadable = StorageScan.device(at: "/tmp").content else {
            Issue.record("a directory has a content")
            return
        }
    }

    /// The fields of a health log page, where the specification has them.
    @Test func healthOfNVMe() async {
        var page = [UInt8](repeating: 0, count: 512)
        page.replaceSubrange(0..<6, with: [0b1000_1001, 0x43, 0x01, 90, 10, 103])
        page.replaceSubrange(160..<168, with: [1, 2, 0, 0, 0, 0, 0, 0])
        var health = NVMeHealth(page: page)
        #expect(health.criticalWarning == 0x89 && health.temperature == 50)
        #expect(health.spare == 90 && health.spareThreshold == 10)
        #expect(health.percentageUsed == 103 && health.mediaErrors == 513)
        #expect(health.warnings == ["spare space is low", "read-only", "bit 7"])
        page.replaceSubrange(0..<3, with: [0, 0, 0])
        page[175] = 1
        health = NVMeHealth(page: page)
        #expect(health.temperature == nil)
        #expect(health.warnings.isEmpty && health.mediaErrors == .max)
        // Nobody else has one.
        let store = RealDeviceStore()
        let xstream = World.real().makeXStream(name: "bio-test")
        defer { xstream.stop() }
        for path in ["/no/such/device", "/dev/null", "/tmp"] {
            #expect(StorageScan.health(of: path) == nil)
            let health = await xstream.run { await store.health(of: path, on: xstream) }
            #expect(health == nil)
        }
    }
}
