internal import Glibc

extension BIOError {
    /// What it means that a file could not be opened.
    static func opening(_ path: String, _ code: Int32) -> BIOError {
        switch code {
        case ENOENT, ENXIO: .missing(path: path)
        case EBUSY: .busy(path: path)
        case ENOTBLK:
            .unusable(
                path: path, code: code, message: "neither a file nor a block device")
        default: .unusable(path: path, code: code, message: message(code))
        }
    }

    /// The words of an errno.
    static func message(_ code: Int32) -> String {
        // SAFETY: the buffer is longer than any message, and the result points into it or at a
        // constant.
        unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { buffer in
            guard unsafe strerror_r(code, buffer.baseAddress!, buffer.count) == 0 else {
                return "error \(code)"
            }
            return unsafe String(cString: buffer.baseAddress!)
        }
    }
}

extension BlockDevice {
    /// Checks a transfer against the contract: alignment traps, the range throws.
    func checkTransfer(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BIOError) {
        let unit = BlockDevice.blockSize
        precondition(offset % UInt64(unit) == 0, "transfers are of whole blocks")
        precondition(buffer.count % unit == 0, "transfers are of whole blocks")
        precondition(UInt(bitPattern: buffer.baseAddress) % UInt(unit) == 0, "unaligned")
        guard offset <= size, UInt64(buffer.count) <= size - offset else {
            throw .outOfRange(
                "\(buffer.count) bytes at \(offset) of \(name), which has \(size)")
        }
    }
    /// Checks what is to be discarded.
    func checkDiscard(_ range: Range<UInt64>) throws(BIOError) {
        let unit = UInt64(BlockDevice.blockSize)
        precondition(
            range.lowerBound % unit == 0 && range.upperBound % unit == 0,
            "discards are of whole blocks")
        guard range.upperBound <= size else {
            throw .outOfRange("bytes \(range) of \(name), which has \(size)")
        }
    }
}
