internal import BIO
internal import DrayRuntime
internal import Glibc

/// The file or block device that a benchmark of a store writes to. Its first MiB says so, so that
/// nothing else is ever overwritten; the store, or `fio`, has the rest.
struct BenchFile: Sendable {
    let path: LocalPath
    /// The part that belongs to the store, and on a block device the part that `fio` may use.
    let range: Range<UInt64>
    /// On a block device, which has both.
    let fioRange: Range<UInt64>?
    /// Whether it was made just now.
    let isNew: Bool

    /// What the first block begins with.
    static let mark = Array("This belongs to 'dray bench vos', which overwrites it.\n".utf8)
    private static let unit: UInt64 = 1 << 20
    /// The smallest file: for a store and its log.
    static let sizeMin: UInt64 = 64 << 20

    private init(path: LocalPath, size: UInt64, isBlockDevice: Bool, isNew: Bool) {
        let end = size / BenchFile.unit * BenchFile.unit
        let middle = end / BenchFile.unit / 2 * BenchFile.unit
        self.path = path
        range = BenchFile.unit..<(isBlockDevice ? middle : end)
        fioRange = isBlockDevice ? middle..<end : nil
        self.isNew = isNew
    }

    /// The path as the device layer takes it.
    var name: String { String(decoding: path.bytes, as: UTF8.self) }

    /// Makes a file of `size` bytes, or takes what is there if it is a benchmark's.
    ///
    /// A block device is taken as well when its first and last MiB are all zeroes. Call it on
    /// `xstream`.
    static func prepare(
        _ path: LocalPath, size: UInt64, world: World, on xstream: XStream
    ) async throws(CommandFailure) -> BenchFile {
        guard String(validating: path.bytes, as: UTF8.self) != nil else {
            throw CommandFailure(.usage, path.text, "a device's path must be UTF-8")
        }
        let found: LocalStatus?
        do throws(Errno) {
            found = try LocalFiles.status(path, followingLinks: true)
        } catch {
            guard error.code == ENOENT else { throw CommandFailure(path.text, error.text) }
            found = nil
        }
        let isBlockDevice = found?.kind == .special("a device")
        guard found == nil || found?.kind == .file || isBlockDevice else {
            throw CommandFailure(.exists, path.text, "is neither a file nor a block device")
        }
        let name = String(decoding: path.bytes, as: UTF8.self)
        return try await onDevice(path) { () async throws(BIOError) in
            if found == nil {
                let whole = size / unit * unit
                try world.devices.create(path: name, size: whole)
            }
            let device: BlockDevice
            do throws(BIOError) {
                device = try world.devices.open(path: name, on: xstream)
            } catch {
                if found == nil { try? LocalFiles.remove(path) }
                throw error
            }
            do throws(BIOError) {
                let file = BenchFile(
                    path: path, size: device.size, isBlockDevice: isBlockDevice,
                    isNew: found == nil)
                if try await !file.isMarked(device, isBlockDevice: isBlockDevice) {
                    if file.isNew { try await file.fill(device, world: world, on: xstream) }
                    try await file.mark(device)
                }
                await device.close()
                return file
            } catch {
                await device.close()
                if found == nil { try? LocalFiles.remove(path) }
                throw error
            }
        }
    }

    /// Whether the device is ours already. Throws when it is not, and may not become ours.
    private func isMarked(
        _ device: BlockDevice, isBlockDevice: Bool
    ) async throws(BIOError) -> Bool {
        guard device.size >= BenchFile.sizeMin else {
            throw .outOfRange(
                "a benchmark needs \(Size(bytes: BenchFile.sizeMin).exact), this has "
                    + "\(device.size) bytes")
        }
        let buffer = IOBuffer(count: Int(BenchFile.unit))
        try unsafe await device.read(into: buffer.bytes, at: 0)
        if buffer.array(0..<BenchFile.mark.count) == BenchFile.mark { return true }
        if isNew { return false }
        var isEmpty = buffer.array(0..<buffer.count).allSatisfy { $0 == 0 }
        try unsafe await device.read(into: buffer.bytes, at: device.size - BenchFile.unit)
        isEmpty = isEmpty && buffer.array(0..<buffer.count).allSatisfy { $0 == 0 }
        guard isBlockDevice, isEmpty else {
            throw .foreign(path: device.name, found: "something that no 'dray bench vos' made")
        }
        return false
    }

    private func mark(_ device: BlockDevice) async throws(BIOError) {
        let rest = [UInt8](repeating: 0, count: BlockDevice.blockSize - BenchFile.mark.count)
        let block = IOBuffer(copying: BenchFile.mark + rest)
        try unsafe await device.write(UnsafeRawBufferPointer(block.bytes), at: 0, durable: true)
    }

    /// Writes all of a new file once, as a device that has been in use: a file system pays for the
    /// first write of each extent, which would hide what a store costs, and read as fast zeroes.
    private func fill(
        _ device: BlockDevice, world: World, on xstream: XStream
    ) async throws(BIOError) {
        var entropy = world.entropy.fork("bench file")
        let buffer = IOBuffer(count: Int(BenchFile.unit))
        for offset in stride(from: 0, to: buffer.count, by: 8) {
            unsafe buffer.bytes.storeBytes(
                of: entropy.next(), toByteOffset: offset, as: UInt64.self)
        }
        let bar = ProgressBar(
            "writing \(path.text)", unit: "MiB", now: xstream.now)
        defer { bar.clear() }
        let workers = TaskCounter()
        let state = FillState(next: range.lowerBound)
        for _ in 0..<8 {
            workers.spawn(on: xstream) {
                while state.failure == nil, state.next < range.upperBound {
                    let offset = state.next
                    state.next += BenchFile.unit
                    do throws(BIOError) {
                        try unsafe await device.write(
                            UnsafeRawBufferPointer(buffer.bytes), at: offset, durable: false)
                    } catch {
                        state.failure = error
                    }
                    bar.update(
                        ProgressBar.Figures(
                            files: offset >> 20, bytes: offset,
                            filesTotal: range.upperBound >> 20, bytesTotal: range.upperBound),
                        now: xstream.now)
                }
            }
        }
        await workers.wait()
        if let failure = state.failure { throw failure }
        try await device.flush()
    }

    private final class FillState {
        var next: UInt64
        var failure: BIOError?

        init(next: UInt64) { self.next = next }
    }
}

/// Runs work on a device and turns its error into a failure about `path`.
func onDevice<Value>(
    _ path: LocalPath, _ body: () async throws(BIOError) -> Value
) async throws(CommandFailure) -> Value {
    do throws(BIOError) {
        return try await body()
    } catch {
        throw CommandFailure(error, path.text)
    }
}

extension CommandFailure {
    /// The failure that an error of a device means for `what`.
    init(_ error: BIOError, _ what: String) {
        switch error {
        case .missing: self.init(.notFound, what, "no such file or device")
        case .unusable(_, _, let message): self.init(what, message)
        case .foreign(_, let found):
            self.init(
                .exists, what, "holds \(found)",
                advice: "name a file that does not exist yet, or remove this one")
        case .mismatch(_, let expected, let found):
            self.init(what, "holds \(found), where \(expected) was expected")
        case .busy: self.init(what, "is in use by another process")
        case .corrupt(_, let offset, let text):
            self.init(what, "is damaged at offset \(offset): \(text)")
        case .failed(_, let offset, _, let message):
            self.init(what, "failed at offset \(offset): \(message)")
        case .full(let requested, let free):
            self.init(
                .noSpace, what,
                "\(Size(bytes: requested)) wanted, \(Size(bytes: free)) free",
                advice: "choose another --device-size or directory")
        case .outOfRange(let text): self.init(what, text)
        case .faulty(_, let unreadable, let damaged):
            self.init(
                what, "is faulty: \(unreadable) places cannot be read, \(damaged) are damaged")
        case .declaredFaulty: self.init(what, "was declared faulty")
        case .outOfService: self.init(what, "is out of service after an error")
        }
    }
}
