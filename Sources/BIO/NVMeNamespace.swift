internal import CUring
internal import Glibc

/// An open generic device of NVMe (/dev/ngXnY), locked for this process together with the block
/// device of the same namespace. Closed when dropped.
final class NVMeNamespace: Sendable {
    let path: String
    let descriptor: Int32
    /// The number of the namespace at its controller.
    let number: UInt32
    /// The size of a logical block is 2 to this.
    let blockShift: UInt64
    /// Rounded down to whole blocks of ours.
    let size: UInt64
    /// The most bytes of one command, in whole blocks of ours.
    let transferMax: Int
    /// Whether what is written must be flushed.
    let hasVolatileCache: Bool
    /// Whether blocks can be given back.
    let deallocates: Bool
    private let locks: FileLocks
    private let identity: FileIdentity

    /// The most bytes of one command where neither controller nor kernel says.
    static let transferDefault: UInt64 = 128 << 10

    /// `name` is what the kernel calls the device: ng0n1.
    init(path: String, name: String, locks: FileLocks) throws(BIOError) {
        // Who uses the block device, a mounted file system for one, must not find it changed.
        let block = "nvme" + name.dropFirst("ng".count)
        let hasBlockDevice = unsafe access("/dev/" + block, F_OK) == 0
        let identity = try locks.acquire(path: hasBlockDevice ? "/dev/" + block : path)
        let descriptor = unsafe path.withCString { unsafe dray_file_open($0, O_RDWR) }
        do throws(BIOError) {
            guard descriptor >= 0 else { throw BIOError.opening(path, -descriptor) }
            let space = try NVMeNamespace.identify(descriptor, path)
            number = space.number
            blockShift = UInt64(space.block_size.trailingZeroBitCount)
            let unit = UInt64(BlockDevice.blockSize)
            size = space.blocks << blockShift / unit * unit
            let kernelMax = unsafe block.withCString { unsafe dray_nvme_kernel_transfer_max($0) }
            // A command counts logical blocks in 16 bits.
            let limits = [space.transfer_max, kernelMax, UInt64(1 << 16) << blockShift]
            let most =
                kernelMax == 0
                ? min(limits[2], NVMeNamespace.transferDefault)
                : limits.filter { $0 > 0 }.reduce(UInt64(1 << 30)) { min($0, $1) }
            transferMax = Int(max(unit, most / unit * unit))
            hasVolatileCache = space.volatile_cache
            deallocates = space.deallocates
        } catch {
            if descriptor >= 0 { Glibc.close(descriptor) }
            locks.release(identity)
            throw error
        }
        self.path = path
        self.descriptor = descriptor
        self.locks = locks
        self.identity = identity
    }

    private static func identify(
        _ descriptor: Int32, _ path: String
    ) throws(BIOError) -> dray_nvme_namespace {
        var space = dray_nvme_namespace()
        var status: Int32 = 0
        let code = unsafe dray_nvme_identify(descriptor, &space, &status)
        if code == EPROTO { throw NVMeStatus(status).error(path, offset: 0) }
        guard code == 0 else { throw BIOError.opening(path, code) }
        let unit = UInt64(BlockDevice.blockSize)
        var problem: String?
        if space.metadata_size != 0 {
            problem = "its blocks have \(space.metadata_size) bytes of metadata"
        } else if space.block_size == 0 || UInt64(space.block_size) > unit {
            problem = "its blocks have \(space.block_size) bytes, more than \(unit)"
        } else if space.blocks > UInt64(Int64.max) / UInt64(space.block_size) {
            problem = "it says that it has \(space.blocks) blocks"
        } else if space.blocks * UInt64(space.block_size) < unit {
            problem = "smaller than one block"
        }
        if let problem { throw .unusable(path: path, code: EINVAL, message: problem) }
        return space
    }

    deinit {
        Glibc.close(descriptor)
        locks.release(identity)
    }
}

/// What a command of NVMe has come to: zero, a negative errno of the kernel, or the status of the
/// controller (code in 8 bits, type of the code in 3, and in bit 14 "do not retry").
struct NVMeStatus: Hashable {
    let value: Int32

    init(_ value: Int32) { self.value = value }

    private var code: Int32 { value & 0xff }
    private var type: Int32 { value >> 8 & 7 }

    var isSuccess: Bool { value == 0 }

    /// Whether the same command may succeed if it is given again.
    var isTemporary: Bool {
        if value < 0 { return value == -EINTR || value == -EAGAIN }
        if value >> 14 & 1 != 0 { return false }
        // Of the path to the namespace; or it is not ready, or the command was aborted.
        return type == 3 || type == 0 && (code == 0x82 || code == 0x07)
    }

    /// The errno that comes closest.
    var errorCode: Int32 {
        if value < 0 { return -value }
        switch (type, code) {
        case (0, 0x02), (0, 0x01): return EINVAL
        case (0, 0x0b): return ENODEV
        case (0, 0x20): return EROFS
        case (0, 0x80): return ERANGE
        case (0, 0x81): return ENOSPC
        case (0, 0x83): return EBUSY
        case (2, 0x86): return EACCES
        default: return EIO
        }
    }

    /// What went wrong, in words.
    var message: String {
        if value < 0 { return BIOError.message(-value) }
        let words: String =
            switch (type, code) {
            case (0, 0x01): "invalid opcode"
            case (0, 0x02): "invalid field in the command"
            case (0, 0x04): "data transfer error"
            case (0, 0x06): "internal error"
            case (0, 0x07): "command aborted"
            case (0, 0x0b): "invalid namespace"
            case (0, 0x20): "namespace is write-protected"
            case (0, 0x80): "block address out of range"
            case (0, 0x81): "capacity exceeded"
            case (0, 0x82): "namespace not ready"
            case (0, 0x83): "reservation conflict"
            case (2, 0x80): "write fault"
            case (2, 0x81): "unrecovered read error"
            case (2, 0x82...0x84): "end-to-end check failed"
            case (2, 0x86): "access denied"
            case (2, 0x87): "deallocated or unwritten block"
            case (2, _): "error of the medium"
            case (3, _): "error of the path to the device"
            default: "error"
            }
        let hex = String(value & 0x7ff, radix: 16)
        return "NVMe: \(words) (status 0x\(hex))"
    }

    /// The error of a transfer at `offset`.
    func error(_ path: String, offset: UInt64) -> BIOError {
        if value > 0, type == 0, code == 0x80 {
            return .outOfRange("\(path): the device refuses offset \(offset): \(message)")
        }
        return .failed(path: path, offset: offset, code: errorCode, message: message)
    }
}
