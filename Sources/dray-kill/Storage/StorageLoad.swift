internal import DrayRuntime
internal import Glibc
internal import VOS
internal import VOSSimulator

/// Uses a store as hard as it can, in several lanes with a container each, and tells what it does
/// before it does it.
final class StorageLoad {
    private let vos: VOS
    private let xstream: XStream
    private let lanes: Int
    private var entropy: Entropy
    private var journal = StoreJournal()
    private var epoch: UInt64 = 1000
    private var numbers: [UInt64]
    private var reads: UInt64 = 0
    private let buffers = ReadBuffers()
    private(set) var violations: [String] = []

    /// Of a read that is reported.
    private static let readsPerEvent: UInt64 = 16

    init(_ vos: VOS, xstream: XStream, lanes: Int, seed: UInt64) {
        self.vos = vos
        self.xstream = xstream
        self.lanes = lanes
        entropy = Entropy(seed: seed).fork("storage")
        numbers = Array(repeating: 0, count: lanes)
    }

    private static var names: StoreGenerator.Names {
        var names = StoreGenerator.Names()
        names.dkeys += (0..<12 as Range<UInt8>).map { [9, $0] }
        return names
    }

    private static func container(_ lane: UInt32) -> UniqueID {
        UniqueID(high: 0xbb, low: UInt64(lane))
    }

    /// The update that an event is about.
    private static func update(_ event: StorageEvent) -> StoreUpdate {
        var generator = StoreGenerator(entropy: Entropy(seed: event.seed), names: names)
        return StoreUpdate(
            generator.changes(), epoch: event.epoch,
            transaction: UniqueID(high: 1 + UInt64(event.lane), low: event.number),
            container: container(event.lane))
    }

    private func send(_ event: StorageEvent) {
        // Nobody listens any more: there is nothing left to do.
        guard event.send(to: StorageNode.reportDescriptor) else { exit(2) }
    }

    // MARK: - Verification

    private struct Key: Hashable {
        var lane: UInt32
        var number: UInt64
    }

    /// Compares the store with what is known, and finds out what became of the rest.
    func verify(_ known: [UInt8]) async throws {
        var open: [Key: (journal: Int, event: StorageEvent)] = [:]
        for index in 0..<known.count / StorageEvent.byteCount {
            guard let event = StorageEvent(known, at: index) else {
                throw Failure("event \(index) is malformed")
            }
            let key = Key(lane: event.lane, number: event.number)
            switch event.kind {
            case .begun:
                open[key] = (journal.begin(StorageLoad.update(event)), event)
                epoch = max(epoch, event.epoch)
                numbers[Int(event.lane)] = max(numbers[Int(event.lane)], event.number)
            case .acknowledged, .found, .refused, .missing:
                guard let (number, _) = open.removeValue(forKey: key) else {
                    throw Failure("an event about nothing")
                }
                journal.end(
                    number, isApplied: event.kind == .acknowledged || event.kind == .found)
            case .verified, .read: break
            }
        }
        try await checkInvariants(of: vos)
        if let wrong = try await journal.resolve(vos, []) { return violations.append(wrong) }
        try await compare()
        guard violations.isEmpty else { return }
        for (_, event) in open.values.sorted(by: { $0.journal < $1.journal }) {
            let id = StorageLoad.update(event).transaction
            let isThere = journal.acknowledged[id] != nil
            send(StorageEvent(isThere ? .found : .missing, lane: event.lane, number: event.number))
        }
    }

    /// Everything, at the end and at some earlier epochs.
    private func compare() async throws {
        var epochs: [UInt64] = [.max, max(1, vos.aggregatedEpoch)]
        for back in [1, 10, 100] as [UInt64] where epoch > vos.aggregatedEpoch + back {
            epochs.append(epoch - back)
        }
        var comparison = StoreComparison(vos, journal.model, entropy: entropy.fork("compare"))
        comparison.readsDevice = true
        if let found = try await comparison.difference(at: epochs) { violations.append(found) }
    }

    // MARK: - Load

    /// Until something is wrong, or we are killed.
    func run() async {
        xstream.spawn { [vos] in await vos.runBackground() }
        var running = lanes
        for lane in 0..<lanes {
            xstream.spawn { [self] in
                var entropy = entropy.fork("lane \(lane) \(numbers[lane])")
                while violations.isEmpty {
                    do {
                        try await step(UInt32(lane), &entropy)
                    } catch {
                        violations.append("lane \(lane): \(error)")
                    }
                }
                running -= 1
            }
        }
        while running > 0 { await xstream.sleep(for: .milliseconds(5)) }
    }

    private func step(_ lane: UInt32, _ entropy: inout Entropy) async throws {
        if entropy.chance(1, in: 4) { return try await read(lane, &entropy) }
        numbers[Int(lane)] += 1
        epoch += 1
        let event = StorageEvent(
            .begun, lane: lane, number: numbers[Int(lane)], epoch: epoch, seed: entropy.next())
        let update = StorageLoad.update(event)
        var refusal: VOSError?
        for change in update.changes where refusal == nil {
            refusal = journal.model.refusal(update.container, change)
        }
        // Only this lane changes the container, so nothing can come in between.
        let isMixed =
            refusal == nil
            && journal.model.mixesRecordSizes(
                update.container, update.changes, epoch: update.epoch)
        send(event)
        let number = journal.begin(update)
        var failure: VOSError?
        do throws(VOSError) {
            let applied = try await vos.apply(update)
            if applied != update.epoch { violations.append("applied at \(applied)") }
        } catch {
            failure = error
        }
        journal.end(number, isApplied: failure == nil)
        send(
            StorageEvent(
                failure == nil ? .acknowledged : .refused, lane: lane, number: event.number))
        switch failure {
        case .noSpace: try await vos.aggregate(upTo: epoch)
        case .recordSizeMismatch where isMixed: return
        case nil where isMixed:
            return violations.append("success, with records of another size")
        case nil, .exists, .notFound:
            guard failure == refusal else {
                let expected = refusal.map { "\($0)" } ?? "success"
                return violations.append("\(failure.map { "\($0)" } ?? "success"), not \(expected)")
            }
        case let failure?: throw failure
        }
    }

    private func read(_ lane: UInt32, _ entropy: inout Entropy) async throws {
        var generator = StoreGenerator(
            entropy: Entropy(seed: entropy.next()), names: StorageLoad.names)
        let name = generator.name(StorageLoad.container(lane))
        var comparison = StoreComparison(
            vos, journal.model, entropy: Entropy(seed: entropy.next()), buffers: buffers)
        comparison.readsDevice = entropy.chance(1, in: 2)
        if let found = try await comparison.difference(name, .max) { violations.append(found) }
        reads += 1
        if reads % StorageLoad.readsPerEvent == 0 {
            send(StorageEvent(.read, number: StorageLoad.readsPerEvent))
        }
    }
}
