internal import CUring
internal import DrayRuntime
internal import Glibc

/// A device of this machine, and what is on it.
public struct FoundDevice: Hashable, Sendable {
    /// How it would be used.
    public enum Kind: String, Hashable, Sendable {
        case file, block, nvme, memory
    }

    public var path: String
    public var kind: Kind
    /// In bytes; 0 when nobody says.
    public var size: UInt64
    /// What its maker calls it; of a loop device, its file. Empty when nobody says.
    public var model: String
    /// Who has it: a process that holds our lock, or the kernel (mounted, or part of something
    /// else). Nil when it is free.
    public var usedBy: String?
    public var content: DeviceContent
}

/// Looks for devices, and at what is on them, without changing or locking anything.
public enum StorageScan {
    /// The block devices, generic devices of NVMe, and DAX devices of this machine, in the order of
    /// their names. Left out are those without a size, and memory that the kernel calls a disk.
    public static func devices() -> [FoundDevice] {
        var paths = names("/sys/class/block").filter { name in
            !["ram", "zram", "nbd"].contains { name.hasPrefix($0) && name != $0 }
                && (number("/sys/class/block/\(name)/size") ?? 0) > 0
        }
        paths += names("/sys/class/nvme-generic")
        paths += names("/sys/bus/dax/devices")
        return paths.sorted().map { device(at: "/dev/" + $0) }
    }

    /// What stands at a path: a device, or a file.
    public static func device(at path: String) -> FoundDevice {
        var found = FoundDevice(
            path: path, kind: .file, size: 0, model: "", usedBy: nil, content: .empty)
        var status = stat()
        guard unsafe stat(path, &status) == 0 else {
            found.content = .unreadable(BIOError.message(errno))
            return found
        }
        // Where its bytes can be read, if not here.
        var place = path
        switch DeviceKind(path: path) {
        case .nvme(let name):
            found.kind = .nvme
            let block = "nvme" + name.dropFirst("ng".count)
            found.model = model(of: block)
            place = "/dev/" + block
            found.size = (number("/sys/class/block/\(block)/size") ?? 0) * 512
        case .memory:
            found.kind = .memory
            let name = String(path.split(separator: "/").last ?? "")
            found.size = number("/sys/bus/dax/devices/\(name)/size") ?? 0
        case .file:
            let isBlock = status.st_mode & S_IFMT == S_IFBLK
            found.kind = isBlock ? .block : .file
            if isBlock {
                let name = kernelName(status)
                found.model = model(of: name)
                found.size = (number("/sys/class/block/\(name)/size") ?? 0) * 512
            }
        }
        read(place, &found)
        return found
    }

    private static func read(_ place: String, _ found: inout FoundDevice) {
        let descriptor = unsafe place.withCString {
            unsafe dray_file_open($0, O_RDONLY | O_NONBLOCK)
        }
        guard descriptor >= 0 else {
            found.content = .unreadable(BIOError.message(-descriptor))
            return
        }
        defer { Glibc.close(descriptor) }
        var status = stat()
        var size: UInt64 = 0
        var isBlock = false
        let code = unsafe dray_file_size(descriptor, &size, &isBlock)
        guard unsafe fstat(descriptor, &status) == 0, code == 0 else {
            found.content = .unreadable(
                code == ENOTBLK ? "neither a file nor a block device" : BIOError.message(code))
            return
        }
        found.size = size
        found.usedBy = holder(of: status)
        if isBlock, found.usedBy == nil {
            // Refused when it is mounted, or part of another device.
            let exclusive = unsafe place.withCString {
                unsafe dray_file_open($0, O_RDONLY | O_EXCL)
            }
            if exclusive >= 0 {
                Glibc.close(exclusive)
            } else if exclusive == -EBUSY {
                found.usedBy = "the kernel"
            }
        }
        let isCharacterDevice = status.st_mode & S_IFMT == S_IFCHR
        if !isBlock, !isCharacterDevice {
            found.kind = dray_file_is_dax(descriptor) ? .memory : .file
        }
        found.content = content(
            of: descriptor, path: found.path, size: size, isMapped: isCharacterDevice)
    }

    /// Looks at an open device. `isMapped`: it has no read(2), as a DAX device.
    static func content(
        of descriptor: Int32, path: String, size: UInt64, isMapped: Bool
    ) -> DeviceContent {
        if isMapped {
            let memory: MappedMemory
            do throws(BIOError) {
                memory = try MappedMemory(reading: descriptor, path: path, size: size)
            } catch {
                return DeviceContent(error)
            }
            return DeviceContent(size: size) { (offset, buffer) throws(BIOError) in
                try memory.read(at: offset, into: buffer)
            }
        }
        return DeviceContent(size: size) { (offset, buffer) throws(BIOError) in
            let count = unsafe dray_file_read(
                descriptor, buffer.bytes.baseAddress!, UInt64(buffer.count), offset)
            guard count >= 0 else {
                let code = Int32(clamping: -count)
                throw .failed(
                    path: path, offset: offset, code: code, message: BIOError.message(code))
            }
            return Int(count)
        }
    }

    // MARK: - What the kernel says

    private static func names(_ folder: String) -> [String] {
        guard let stream = unsafe opendir(folder) else { return [] }
        defer { unsafe closedir(stream) }
        var names: [String] = []
        while let entry = unsafe readdir(stream) {
            // SAFETY: the kernel ends names with a zero byte.
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
                unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) {
                    unsafe String(cString: $0)
                }
            }
            if !name.hasPrefix(".") { names.append(name) }
        }
        return names
    }

    /// The first line of a small file; nil when there is none.
    private static func line(_ path: String) -> String? {
        text(path)?.split(separator: "\n").first.map { line in
            String(line.drop { $0 == " " }.reversed().drop { $0 == " " }.reversed())
        }
    }

    private static func text(_ path: String) -> String? {
        let descriptor = unsafe path.withCString { unsafe dray_file_open($0, O_RDONLY) }
        guard descriptor >= 0 else { return nil }
        defer { Glibc.close(descriptor) }
        var bytes: [UInt8] = []
        let buffer = IOBuffer(count: 4096)
        while true {
            let count = unsafe Glibc.read(descriptor, buffer.bytes.baseAddress, buffer.count)
            guard count > 0, bytes.count < 1 << 20 else { break }
            bytes += buffer.array(0..<count)
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    private static func number(_ path: String) -> UInt64? { line(path).flatMap { UInt64($0) } }

    /// What the kernel calls a block device.
    private static func kernelName(_ status: stat) -> String {
        // The numbers, as the C library's macros put them together.
        let device = UInt64(status.st_rdev)
        let major = device >> 8 & 0xfff | device >> 32 & ~0xfff
        let minor = device & 0xff | device >> 12 & ~0xff
        return (text("/sys/dev/block/\(major):\(minor)/uevent") ?? "").split(separator: "\n")
            .first { $0.hasPrefix("DEVNAME=") }.map { String($0.dropFirst(8)) } ?? ""
    }

    private static func model(of name: String) -> String {
        for attribute in ["device/model", "loop/backing_file"] {
            if let text = line("/sys/class/block/\(name)/\(attribute)") { return text }
        }
        return ""
    }

    /// The process that has locked a file or device (flock), as an engine does.
    private static func holder(of status: stat) -> String? {
        let device = UInt64(status.st_dev)
        let major = device >> 8 & 0xfff | device >> 32 & ~0xfff
        let minor = device & 0xff | device >> 12 & ~0xff
        for line in (text("/proc/locks") ?? "").split(separator: "\n") {
            // 1: FLOCK  ADVISORY  WRITE 42 08:01:1234 0 EOF
            let fields = line.split(separator: " ")
            guard fields.count >= 6, fields[1] == "FLOCK" else { continue }
            let place = fields[5].split(separator: ":")
            guard place.count == 3, UInt64(place[0], radix: 16) == major,
                UInt64(place[1], radix: 16) == minor, UInt64(place[2]) == UInt64(status.st_ino)
            else { continue }
            return "process \(fields[4])"
        }
        return nil
    }
}
