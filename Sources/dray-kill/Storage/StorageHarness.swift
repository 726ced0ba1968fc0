internal import DrayRuntime
internal import Glibc

/// What a run of processes that use a store is made with.
struct StorageSetting: Sendable {
    /// Updates under way at once.
    var lanes: Int
    /// Whether the store has a metadata device.
    var hasMetadata: Bool
    var seed: UInt64
    /// Where files go meanwhile.
    var directory: String
    var isVerbose: Bool

    static let deviceSize: UInt64 = 64 << 20
    static let metadataSize: UInt64 = 16 << 20

    /// The metadata device beside a device.
    static func metadata(of device: String) -> String { device + "-metadata" }

    /// Small, so that it is full several times in a life.
    static let logSize: UInt64 = 2 << 20
    /// How long the verification of everything may take.
    static let verificationMax: Duration = .seconds(60)
    /// After so many cycles a new file is begun: what must be verified grows.
    static let cyclesPerFile = 10
}

/// Kills a process that uses a store in a file, again and again, and copies the file at moments of
/// its life; each time another process verifies what is there.
final class StorageHarness {
    private let setting: StorageSetting
    private let xstream: XStream
    private let directory: String
    private var entropy: Entropy
    /// Events of all lives with the file.
    private var known: [UInt8] = []
    private var report = StorageReport()

    private init(_ setting: StorageSetting, on xstream: XStream) throws(Failure) {
        self.setting = setting
        self.xstream = xstream
        directory = try Files.makeDirectory(setting.directory + "/dray-kill-storage")
        entropy = Entropy(seed: setting.seed).fork("storage")
    }

    private var device: String { directory + "/device" }
    private var copy: String { directory + "/copy" }
    private var events: String { directory + "/events" }
    private var copyEvents: String { directory + "/copy-events" }
    private var log: String { directory + "/log" }

    /// All cycles, and what came of them.
    static func run(
        _ setting: StorageSetting, cycles: Int, on xstream: XStream
    ) async -> StorageReport {
        var report = StorageReport()
        do throws(Failure) {
            let harness = try StorageHarness(setting, on: xstream)
            let begin = xstream.now
            do throws(Failure) {
                try await harness.run(cycles)
            } catch {
                harness.report.violations.append(error.description)
            }
            harness.report.duration = xstream.now.since(begin)
            report = harness.report
            if report.violations.isEmpty {
                harness.removeFiles()
                _ = unsafe rmdir(harness.directory)
            } else {
                report.files = harness.directory
            }
        } catch {
            report.violations.append(error.description)
        }
        return report
    }

    private func removeFiles() {
        let metadata = [device, copy].map { StorageSetting.metadata(of: $0) }
        for path in [device, copy, events, copyEvents, log] + metadata { _ = unsafe unlink(path) }
    }

    private func run(_ cycles: Int) async throws(Failure) {
        var process: StorageProcess?
        for cycle in 0..<cycles {
            if cycle % StorageSetting.cyclesPerFile == 0 {
                if cycle > 0 { try await verifyAtEnd() }
                removeFiles()
                known = []
            }
            do throws(Failure) {
                try await disturb(cycle, &process)
            } catch {
                // A child must not outlive the run.
                await process?.kill()
                throw error
            }
            process = nil
        }
        try await verifyAtEnd()
    }

    private func start(
        _ options: [String] = [], device: String, known path: String, bytes: [UInt8]
    ) throws(Failure) -> StorageProcess {
        try Files.write(path, bytes)
        return try StorageProcess(
            setting, device: device, known: path, log: log, seed: entropy.next(),
            options: options, xstream: xstream)
    }

    private func draw(_ range: ClosedRange<UInt64>) -> Duration {
        .milliseconds(Int64(range.lowerBound + entropy.below(UInt64(range.count))))
    }

    /// One life of a process, and its end.
    private func disturb(_ cycle: Int, _ current: inout StorageProcess?) async throws(Failure) {
        let isNew = cycle % StorageSetting.cyclesPerFile == 0
        let process = try start(
            isNew ? ["--format"] : [], device: device, known: events, bytes: known)
        current = process
        var text = "killed"
        if !isNew, entropy.chance(1, in: 4) {
            // While it recovers or verifies, most likely.
            let time = draw(0...80)
            await process.run(for: time)
            text += " \(milliseconds(time)) ms after its start"
            if !process.isVerified { report.earlyKills += 1 }
            try process.check()
        } else {
            try await process.waitUntilVerified()
            let time = draw(20...400)
            await process.run(for: time)
            try process.check()
            text += " after \(milliseconds(time)) ms of load"
            if entropy.chance(1, in: 2) {
                text += " and a power cut"
                try await cutPower(process)
                await process.run(for: draw(1...100))
                try process.check()
            }
        }
        await process.kill()
        report.kills += 1
        try await inspect(device)
        let count = process.reported.count / StorageEvent.byteCount
        keep(process.reported)
        if setting.isVerbose { print("  cycle \(cycle): \(text); \(count) events") }
        report.cycles += 1
    }

    /// Another process looks at what was left, before anybody recovers it.
    private func inspect(_ device: String) async throws(Failure) {
        try await waitUntilEnded(
            start(["--inspect-only"], device: device, known: copyEvents, bytes: []))
        report.inspections += 1
    }

    private func waitUntilEnded(_ process: StorageProcess) async throws(Failure) {
        do throws(Failure) {
            try await process.waitUntilEnded()
        } catch {
            await process.kill()
            throw error
        }
    }

    /// What a process has told is known from now on.
    private func keep(_ reported: [UInt8]) {
        let whole = reported.count / StorageEvent.byteCount * StorageEvent.byteCount
        known += reported[0..<whole]
        for index in 0..<whole / StorageEvent.byteCount {
            switch StorageEvent(reported, at: index)?.kind {
            case .acknowledged: report.acknowledged += 1
            case .refused: report.refused += 1
            case .found: report.found += 1
            case .missing: report.missing += 1
            case .read: report.reads += Int(StorageEvent(reported, at: index)?.number ?? 0)
            case .verified: report.verifications += 1
            case .begun, nil: break
            }
        }
    }

    /// What the power would leave if it failed now: the process stands still while the file is
    /// copied, and another process verifies the copy.
    private func cutPower(_ process: StorageProcess) async throws(Failure) {
        try await process.stop()
        let reported = process.reported
        let copying: Failure?
        do throws(Failure) {
            try await Files.copy(device, to: copy, log: log, on: xstream)
            if setting.hasMetadata {
                try await Files.copy(
                    StorageSetting.metadata(of: device), to: StorageSetting.metadata(of: copy),
                    log: log, on: xstream)
            }
            copying = nil
        } catch {
            copying = error
        }
        process.resume()
        if let copying { throw copying }
        let whole = reported.count / StorageEvent.byteCount * StorageEvent.byteCount
        let other = try start(
            ["--verify-only"], device: copy, known: copyEvents,
            bytes: known + reported[0..<whole])
        do throws(Failure) {
            // The one that works must not wait for us, nor end.
            while other.isRunning {
                await process.run(for: .milliseconds(5))
                other.pump()
            }
            try await other.waitUntilEnded()
        } catch {
            await other.kill()
            throw error
        }
        for path in [copy, StorageSetting.metadata(of: copy)] { _ = unsafe unlink(path) }
        report.powerCuts += 1
    }

    private func verifyAtEnd() async throws(Failure) {
        let process = try start(["--verify-only"], device: device, known: events, bytes: known)
        try await waitUntilEnded(process)
        keep(process.reported)
    }
}

/// What was done and found.
struct StorageReport: Sendable {
    var cycles = 0
    var kills = 0
    /// Kills of a process that had not verified everything yet.
    var earlyKills = 0
    var powerCuts = 0
    /// Verifications of everything.
    var verifications = 0
    /// Times that the inspector has looked at what a kill had left, and found nothing.
    var inspections = 0
    var acknowledged = 0
    var refused = 0
    /// Updates under way at a kill that were there afterwards, and that were not.
    var found = 0
    var missing = 0
    /// Values that were read and compared under load.
    var reads = 0
    var duration = Duration.zero
    /// Where the files are, if they were kept.
    var files: String?
    var violations: [String] = []

    /// For each cycle; less is too little.
    private static let acknowledgedMin = 20

    /// The floors that the run did not reach.
    var shortfalls: [String] {
        guard violations.isEmpty else { return [] }
        var shortfalls: [String] = []
        if acknowledged < StorageReport.acknowledgedMin * cycles {
            shortfalls.append("\(acknowledged) updates")
        }
        if cycles >= 10, powerCuts == 0 { shortfalls.append("no power cut") }
        return shortfalls
    }

    var summary: String {
        """
        the store: \(cycles) cycles in \(milliseconds(duration) / 1_000) s: \(kills) killed, \
        \(earlyKills) of them before they had verified everything, \(powerCuts) power cuts; \
        \(acknowledged) updates acknowledged, \(refused) refused, \(found) found and \(missing) \
        missing of those under way, \(reads) reads, everything verified \
        \(verifications + powerCuts) times, inspected \(inspections) times; \
        \(violations.count) violations
        """
    }
}
