import CaRT
import Dray
import DrayPlacement
import DrayProtocol
import DrayRuntime
import DraySimulator
import Testing

/// A restarted engine has prepared something whose outcome only an absent leader knows. It serves,
/// and nothing it says depends on that outcome. (Aggregation: `DTXTests`.)
@Suite struct UndecidedTests {
    /// What is undecided.
    enum Prepared: CaseIterable {
        /// New text in two dkeys, and more of an array.
        case values
        /// The punch of the whole object.
        case punch
    }

    /// All that looks at the object or changes it.
    enum Path: CaseIterable {
        case get, getAbsent, read, arrayEnd, recordSize, condition, listDkeys, listAkeys
        case listObjects, verify, verifyAll, transaction, past, snapshot
        case put, insert, remove, punch, update

        /// Stores or removes values whatever was there: ordered by its epoch, it shows nothing.
        private var isBlind: Bool { self == .put || self == .remove || self == .update }

        /// Whether it has to wait until it is decided what becomes of what was prepared.
        func waits(for prepared: Prepared) -> Bool { prepared == .punch || !isBlind }

        func run(_ object: DrayObject, _ rig: TransactionRig) async throws {
            let container = object.container
            let buffer = IOBuffer(count: 100)
            let absent: [UInt8] = [7]
            switch self {
            case .get: _ = try await object.text()
            case .getAbsent: _ = try await object.text(UndecidedTests.other)
            case .read:
                try await object.read(
                    dkey: UndecidedTests.array, akey: TransactionRig.key, offset: 0, into: buffer,
                    range: 0..<100)
            case .arrayEnd:
                _ = try await object.arrayEnd(
                    dkey: UndecidedTests.array, akey: TransactionRig.key)
            case .recordSize:
                _ = try await object.recordSize(
                    dkey: UndecidedTests.array, akey: TransactionRig.key)
            case .condition:
                _ = try await object.get(
                    dkey: TransactionRig.key, akey: absent, condition: .dkeyExists)
            case .listDkeys: _ = try await object.listDkeys()
            case .listAkeys: _ = try await object.listAkeys(dkey: TransactionRig.key)
            case .listObjects: _ = try await container.listObjects()
            case .verify: _ = try await object.verify()
            case .verifyAll: _ = try await container.verify()
            case .transaction:
                _ = try await container.transaction { transaction in
                    try await transaction.listDkeys(object)
                }
            case .past:
                let past = container.at(epoch: rig.context.clock.now())
                _ = try await past.object(object.id).text()
            case .snapshot: _ = try await container.createSnapshot()
            case .put: try await object.put("mine")
            case .insert:
                try await object.put(
                    dkey: UndecidedTests.other, akey: TransactionRig.key, value: [1],
                    condition: .insert)
            case .remove: try await object.remove(dkey: TransactionRig.key)
            case .punch: try await object.punch()
            case .update:
                try await object.update([
                    .put(dkey: absent, akey: TransactionRig.key, value: [1]),
                    .put(dkey: TransactionRig.key, akey: TransactionRig.key, value: [1]),
                ])
            }
        }
    }

    static let other: [UInt8] = [2]
    static let array: [UInt8] = [3]

    /// All that an object shows.
    private struct State: Equatable {
        var texts: [String?] = []
        var end: UInt64 = 0
        var dkeys: [[UInt8]] = []
        var isListed = false

        init(of object: DrayObject) async throws {
            texts = [try await object.text(), try await object.text(UndecidedTests.other)]
            end = try await object.arrayEnd(dkey: UndecidedTests.array, akey: TransactionRig.key)
            dkeys = try await object.listDkeys().keys
            isListed = try await object.container.listObjects().objects.contains(object.id)
        }

        init(texts: [String?], end: UInt64, dkeys: [[UInt8]]) {
            self.texts = texts
            self.end = end
            self.dkeys = dkeys
            isListed = !dkeys.isEmpty
        }
    }

    private static let before = State(
        texts: ["old", nil], end: 100, dkeys: [TransactionRig.key, array])
    private static let withValues = State(
        texts: ["new", "new"], end: 103, dkeys: [TransactionRig.key, other, array])
    private static let punched = State(texts: [nil, nil], end: 0, dkeys: [])

    private func operations(
        _ rig: TransactionRig, _ object: DrayObject, _ prepared: Prepared
    ) -> (list: [ObjectOperation], data: String) {
        switch prepared {
        case .values:
            var append = rig.put(object, Self.array, "new")
            append.kind = .updateArray
            append.offset = 100
            let list = [
                rig.put(object, TransactionRig.key, "new"), rig.put(object, Self.other, "new"),
                append,
            ]
            return (list, "newnewnew")
        case .punch:
            var punch = ObjectOperation()
            punch.kind = .punchObject
            return ([punch], "")
        }
    }

    @Test(arguments: Prepared.allCases, [false, true])
    func nothingShowsWhatIsUndecided(prepared: Prepared, isCommitted: Bool) {
        TransactionRig.run(engines: 1) { rig in
            let object = try await rig.makeObject(.s1)
            let neighbour = try await rig.makeObject(.s1)
            for object in [object, neighbour] { try await object.put("old") }
            try await object.write(
                dkey: Self.array, akey: TransactionRig.key, offset: 0,
                buffer: IOBuffer(count: 100), range: 0..<100)
            let snapshot = try await rig.container.createSnapshot()

            let target = try object.layout()[0]
            let id = UniqueID(high: 3, low: 1)
            let (list, data) = operations(rig, object, prepared)
            let request = try rig.prepareRequest(
                list, of: object, id, epoch: rig.context.clock.now())
            #expect(try await rig.prepare(request, data, at: target) == 0)
            rig.cluster.kill(rank: 0)
            try await rig.cluster.start(rank: 0)

            let limited = rig.container.within(.milliseconds(1500)).object(object.id)
            for path in Path.allCases where path.waits(for: prepared) {
                do {
                    try await path.run(limited, rig)
                    Issue.record("\(path) has an answer")
                } catch let error as DrayError {
                    // A snapshot is waited for as long as the client likes.
                    let isLate = path == .snapshot && error.code == .timedOut
                    #expect(error.code == .unavailable || isLate, "\(path): \(error)")
                }
            }
            // Others are served.
            try await neighbour.put("new")
            #expect(try await neighbour.text() == "new")

            try await rig.decide(id, isCommitted: isCommitted, at: target)
            let after = prepared == .values ? Self.withValues : Self.punched
            #expect(try await State(of: object) == (isCommitted ? after : Self.before))
            let past = rig.container.at(snapshot).object(object.id)
            #expect(try await State(of: past) == Self.before)
            #expect(try await rig.container.verify().isEqual)
        }
    }
}
