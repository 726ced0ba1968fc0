internal import CUring

/// How what a path names is to be used.
enum DeviceKind: Hashable {
    /// A file or block device; or nothing of the sort, which opening it will tell.
    case file
    /// The generic device of an NVMe namespace, by the kernel's name for it: ng0n1.
    case nvme(name: String)
    /// A DAX device.
    case memory

    init(path: String) {
        // SAFETY: both buffers are as long as the call wants them, and hold strings after it.
        self = unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 128) { buffer in
            let (group, name) = unsafe (buffer.baseAddress!, buffer.baseAddress! + 64)
            guard unsafe dray_file_class(path, group, name) == 0 else { return .file }
            switch unsafe String(cString: group) {
            case "nvme-generic": return unsafe .nvme(name: String(cString: name))
            case "dax": return .memory
            default: return .file
            }
        }
    }
}
