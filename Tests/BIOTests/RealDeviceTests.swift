import BIO
import DrayRuntime
import Glibc
import Testing

/// A folder of a test's own, removed with what is in it.
final class TemporaryFolder {
    let path: String

    init() {
        var template = Array("/tmp/dray-bio-XXXXXX".utf8CString)
        path = template.withUnsafeMutableBufferPointer {
            String(cString: mkdtemp($0.baseAddress!)!)
        }
    }

    deinit {
        if let folder = opendir(path) {
            while let entry = readdir(folder) {
                let name = withUnsafePointer(to: &entry.pointee.d_name) {
                    $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
                }
                unlink(path + "/" + name)
            }
            closedir(folder)
        }
        rmdir(path)
    }

    func file(_ name: String, _ bytes: [UInt8]) -> String {
        let file = path + "/" + name
        let descriptor = open(file, O_CREAT | O_WRONLY, 0o600)
        _ = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
        close(descriptor)
        return file
    }
}

@Suite struct RealDeviceTests {
    /// What an asynchronous body threw, or nil.
    private static func error(_ body: () async throws -> Void) async -> BIOError? {
        do {
            try await body()
            return nil
        } catch {
            return error as? BIOError
        }
    }

    @Test(arguments: [RealDeviceStore.Mode.ring, .threads, .memory])
    func parallelWritesReadBack(mode: RealDeviceStore.Mode) async throws {
        let folder = TemporaryFolder()
        let path = folder.path + "/disk"
        let store = RealDeviceStore(mode: mode)
        try store.create(path: path, size: 8 << 20)
        let xstream = World.real().makeXStream(name: "bio-test")
        defer { xstream.stop() }
        // More than there are slots in a ring.
        let count = 400
        let good = try await xstream.run { () async throws(BIOError) -> Int in
            let device = try store.open(path: path, on: xstream)
            var left = count
            var failed = 0
            for index in 0..<count {
                xstream.spawn {
                    let buffer = IOBuffer(
                        copying: [UInt8](repeating: UInt8(index % 251 + 1), count: 4096))
                    do {
                        let bytes = UnsafeRawBufferPointer(buffer.bytes)
                        if index % 16 == 1 {
                            try await device.writeAndFlush(bytes, at: UInt64(index) * 8192)
                        } else {
                            try await device.write(
                                bytes, at: UInt64(index) * 8192, durable: index % 16 == 0)
                        }
                    } catch { failed += 1 }
                    left -= 1
                }
            }
            while left > 0 { await xstream.sleep(for: .milliseconds(1)) }
            try await device.flush()
            var good = 0
            let buffer = IOBuffer(count: 8192)
            for index in 0..<count {
                try await device.read(into: buffer.bytes, at: UInt64(index) * 8192)
                let value = UInt8(index % 251 + 1)
                let expected =
                    [UInt8](repeating: value, count: 4096)
                    + [UInt8](
                        repeating: 0, count: 4096)
                if buffer.array(0..<8192) == expected { good += 1 }
            }
            await device.close()
            return failed == 0 ? good : -failed
        }
        #expect(good == count)
    }

    /// Parts of a registered buffer, one that is not, and more than may be registered.
    @Test(arguments: [RealDeviceStore.Mode.ring, .threads, .memory])
    func registeredBuffersHoldWhatOthersWouldHold(mode: RealDeviceStore.Mode) async throws {
        let folder = TemporaryFolder()
        let path = folder.path + "/disk"
        let store = RealDeviceStore(mode: mode)
        try store.create(path: path, size: 4 << 20)
        let xstream = World.real().makeXStream(name: "bio-test")
        defer { xstream.stop() }
        let (taken, good) = try await xstream.run { () async throws(BIOError) -> ([Bool], Int) in
            let device = try store.open(path: path, on: xstream)
            let (buffer, other) = (IOBuffer(count: 65536), IOBuffer(count: 65536))
            var taken = [device.register(buffer)]
            for _ in 0..<260 { taken.append(device.register(IOBuffer(count: 4096))) }
            var good = 0
            for step in 0..<48 {
                let part = step % 15 * 4096..<(step % 15 + 2) * 4096
                let source = UnsafeMutableRawBufferPointer(
                    rebasing: (step % 2 == 0 ? buffer : other).bytes[part])
                let target = UnsafeMutableRawBufferPointer(
                    rebasing: (step % 3 == 0 ? buffer : other).bytes[part])
                source.initializeMemory(as: UInt8.self, repeating: UInt8(step + 1))
                let bytes = UnsafeRawBufferPointer(source)
                switch step % 3 {
                case 0: try await device.writeAndFlush(bytes, at: UInt64(step) * 8192)
                case let kind:
                    try await device.write(bytes, at: UInt64(step) * 8192, durable: kind == 1)
                }
                target.initializeMemory(as: UInt8.self, repeating: 0)
                try await device.read(into: target, at: UInt64(step) * 8192)
                if target.allSatisfy({ $0 == UInt8(step + 1) }) { good += 1 }
            }
            await device.close()
            return (taken, good)
        }
        #expect(good == 48)
        let count = taken.count { $0 }
        // As many as the limit of locked memory allows, and never more than the table has.
        #expect(
            mode == .threads ? count == 0 : count <= 256 && taken.prefix(count).allSatisfy { $0 })
        print("\(mode): \(count) buffers registered")
    }

    @Test(arguments: [RealDeviceStore.Mode.ring, .threads, .memory])
    func errorsAreTyped(mode: RealDeviceStore.Mode) async throws {
        let folder = TemporaryFolder()
        let path = folder.path + "/disk"
        let store = RealDeviceStore(mode: mode)
        try store.create(path: path, size: 1 << 20)
        let xstream = World.real().makeXStream(name: "bio-test")
        defer { xstream.stop() }
        #expect(throws: BIOError.foreign(path: path, found: "a file or device of that name")) {
            try store.create(path: path, size: 1 << 20)
        }
        #expect(throws: BIOError.missing(path: folder.path + "/no/disk")) {
            try store.create(path: folder.path + "/no/disk", size: 1 << 20)
        }
        let small = folder.file("small", [1, 2, 3])
        let folderPath = folder.path
        let errors = await xstream.run { () -> [BIOError?] in
            var errors: [BIOError?] = []
            for path in [folderPath + "/none", folderPath, "/dev/null", small] {
                errors.append(await Self.error { _ = try store.open(path: path, on: xstream) })
            }
            // Another process, or as good as: a store with locks of its own.
            let other = RealDeviceStore(mode: mode)
            guard let device = try? store.open(path: path, on: xstream),
                let second = try? store.open(path: path, on: xstream)
            else { return [] }
            errors.append(await Self.error { _ = try other.open(path: path, on: xstream) })
            await device.close()
            errors.append(await Self.error { _ = try other.open(path: path, on: xstream) })
            let buffer = IOBuffer(count: 8192)
            errors.append(
                await Self.error { try await second.read(into: buffer.bytes, at: 1 << 20) })
            errors.append(
                await Self.error {
                    try await second.write(
                        UnsafeRawBufferPointer(buffer.bytes), at: (1 << 20) - 4096, durable: false)
                })
            // The file shrinks behind our back: no endless retry, no made-up bytes.
            truncate(path, 4096)
            errors.append(
                await Self.error { try await second.read(into: buffer.bytes, at: 0) })
            await second.close()
            errors.append(
                await Self.error {
                    try await other.open(path: path, on: xstream).close()
                })
            return errors
        }
        try #require(errors.count == 10)
        #expect(errors[0] == .missing(path: folder.path + "/none"))
        #expect(
            errors[1..<4].allSatisfy {
                if case .unusable = $0 { true } else { false }
            })
        #expect(errors[4] == .busy(path: path))
        #expect(errors[5] == .busy(path: path))
        #expect(
            errors[6..<8].allSatisfy {
                if case .outOfRange = $0 { true } else { false }
            })
        #expect(errors[9] == nil, "the lock ends with the last device")
        guard case .failed(_, 4096, EIO, _) = errors[8] else {
            Issue.record("read beyond the end: \(String(describing: errors[8]))")
            return
        }
    }

    @Test func noSpaceIsAnErrorAndLeavesNoFile() throws {
        let folder = TemporaryFolder()
        let path = folder.path + "/disk"
        let store = RealDeviceStore()
        do throws(BIOError) {
            try store.create(path: path, size: 1 << 46)
            Issue.record("64 TiB were reserved")
        } catch {
            switch error {
            case .full(let requested, let free): #expect(requested == 1 << 46 && free < 1 << 46)
            case .unusable(_, EFBIG, _): break
            default: Issue.record("\(error)")
            }
        }
        #expect(access(path, F_OK) != 0)
    }

    @Test func writeErrorsAreReported() async throws {
        let folder = TemporaryFolder()
        let xstream = World.real().makeXStream(name: "bio-test")
        defer { xstream.stop() }
        let modes = [RealDeviceStore.Mode.ring, .threads]
        let stores = modes.map { RealDeviceStore(mode: $0) }
        let paths = modes.map { folder.path + "/" + $0.rawValue }
        for (store, path) in zip(stores, paths) { try store.create(path: path, size: 64 << 20) }
        // The process may not write beyond 32 MiB of any file: EFBIG. No other test does.
        signal(SIGXFSZ, SIG_IGN)
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(1), &limit)
        var lower = rlimit(rlim_cur: 32 << 20, rlim_max: limit.rlim_max)
        setrlimit(__rlimit_resource_t(1), &lower)
        defer { setrlimit(__rlimit_resource_t(1), &limit) }
        for (store, path) in zip(stores, paths) {
            let errors = await xstream.run { () -> [BIOError?] in
                guard let device = try? store.open(path: path, on: xstream) else { return [] }
                let buffer = IOBuffer(count: 4096)
                var errors: [BIOError?] = []
                errors.append(
                    await Self.error {
                        try await device.writeAndFlush(
                            UnsafeRawBufferPointer(buffer.bytes), at: 48 << 20)
                    })
                for (offset, durable) in [(48, false), (48, true), (1, true)] {
                    errors.append(
                        await Self.error {
                            try await device.write(
                                UnsafeRawBufferPointer(buffer.bytes), at: UInt64(offset) << 20,
                                durable: durable)
                        })
                }
                await device.close()
                return errors
            }
            try #require(errors.count == 4)
            for error in errors[0..<3] {
                guard case .failed(path, 48 << 20, EFBIG, _) = error else {
                    Issue.record("\(String(describing: error))")
                    continue
                }
            }
            #expect(errors[3] == nil)
        }
    }

    /// What stands in a small file of /proc.
    private static func text(_ path: String) -> String {
        guard let file = fopen(path, "r") else { return "" }
        defer { fclose(file) }
        var bytes = [UInt8](repeating: 0, count: 8192)
        let count = fread(&bytes, 1, bytes.count, file)
        return String(decoding: bytes[0..<count], as: UTF8.self)
    }

    /// How often the thread called `name` was switched to; nil when there is none.
    private static func switches(thread name: String) -> Int? {
        guard let folder = opendir("/proc/self/task") else { return nil }
        defer { closedir(folder) }
        while let entry = readdir(folder) {
            let id = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            guard text("/proc/self/task/\(id)/comm") == name + "\n" else { continue }
            return text("/proc/self/task/\(id)/status").split(separator: "\n")
                .filter { $0.contains("ctxt_switches") }
                .reduce(0) { $0 + (Int($1.split(separator: "\t").last ?? "") ?? 0) }
        }
        return nil
    }

    @Test(arguments: [RealDeviceStore.Mode.ring, .threads, .memory])
    func anIdleDeviceWakesNobody(mode: RealDeviceStore.Mode) async throws {
        let folder = TemporaryFolder()
        let path = folder.path + "/disk"
        let store = RealDeviceStore(mode: mode)
        try store.create(path: path, size: 1 << 20)
        let name = "idle-\(mode.rawValue)"
        let xstream = World.real().makeXStream(name: name)
        defer { xstream.stop() }
        // Only the xstream touches it.
        nonisolated(unsafe) var opened: BlockDevice?
        try await xstream.run { () async throws -> Void in
            let device = try store.open(path: path, on: xstream)
            opened = device
            let buffer = IOBuffer(count: 4096)
            try await device.write(UnsafeRawBufferPointer(buffer.bytes), at: 0, durable: true)
        }
        usleep(20_000)
        let before = try #require(Self.switches(thread: name))
        usleep(200_000)
        let after = try #require(Self.switches(thread: name))
        #expect(after - before <= 1)
        await xstream.run { await opened?.close() }
    }
}
