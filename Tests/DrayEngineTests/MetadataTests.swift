import CaRT
import DrayPlacement
import DrayProtocol
import DrayRuntime
import Testing
import VOS

@testable import DrayEngine

@Suite struct MetadataTests {
    private let map = PoolMap(version: 1, engines: [.init(rank: 0, targetCount: 2)])
    private let capacity: UInt64 = 1 << 30
    private let secret = [UInt8](repeating: 7, count: PoolSecret.keyLength)

    private func id(_ number: UInt64) -> UniqueID { UniqueID(high: 1, low: number) }

    private func change(
        _ kind: MetadataChange.Kind, pool: UInt64, container: UInt64 = 0, label: String = "",
        size: UInt64 = 64 << 20
    ) -> MetadataChange {
        var change = MetadataChange()
        change.kind = kind
        change.pool = id(pool)
        change.container = container == 0 ? .zero : id(container)
        change.label = label
        change.size = size
        return change
    }

    private func snapshot(
        _ kind: MetadataChange.Kind, of container: UInt64 = 5, _ number: UInt64 = 0,
        epoch: UInt64, label: String = "", pool: UInt64 = 1
    ) -> MetadataChange {
        var change = change(kind, pool: pool, container: container, label: label)
        change.snapshot = id(number)
        change.epoch = epoch
        return change
    }

    private func outcome(
        _ metadata: inout ClusterMetadata, _ change: MetadataChange
    ) -> ServiceCode? {
        do {
            try metadata.apply(change, map: map, capacity: capacity, secret: secret)
            return nil
        } catch {
            return error.code
        }
    }

    /// A pool (1) with two containers (5 and 6).
    private func containers() -> ClusterMetadata {
        var metadata = ClusterMetadata()
        #expect(outcome(&metadata, change(.createPool, pool: 1, label: "tank")) == nil)
        for (number, label) in [(5, "c"), (6, "d")] as [(UInt64, String)] {
            let creation = change(.createContainer, pool: 1, container: number, label: label)
            #expect(outcome(&metadata, creation) == nil)
        }
        return metadata
    }

    @Test func changesAreCheckedAndRepeatable() {
        var metadata = ClusterMetadata()
        let table: [(MetadataChange, ServiceCode?)] = [
            (change(.createContainer, pool: 1, container: 5, label: "c"), .notFound),
            (change(.createPool, pool: 1, label: ""), .invalidArgument),
            (change(.createPool, pool: 1, label: "no/slash"), .invalidArgument),
            (
                change(.createPool, pool: 1, label: String(repeating: "x", count: 128)),
                .invalidArgument
            ),
            (change(.createPool, pool: 1, label: "tank", size: 1), .invalidArgument),
            (change(.createPool, pool: 1, label: "tank", size: .max), .noSpace),
            (change(.createPool, pool: 1, label: "tank"), nil),
            (change(.createPool, pool: 1, label: "tank"), nil),  // a resend
            (change(.createPool, pool: 1, label: "other"), .exists),  // an id used twice
            (change(.createPool, pool: 2, label: "tank"), .exists),
            (change(.createPool, pool: 2, label: "rest", size: 2 << 30), .noSpace),
            (change(.createContainer, pool: 1, container: 5, label: "c"), nil),
            (change(.createContainer, pool: 1, container: 5, label: "c"), nil),
            (change(.createContainer, pool: 1, container: 6, label: "c"), .exists),
            (change(.destroyContainer, pool: 1, container: 6), .notFound),
            (change(.destroyContainer, pool: 1, container: 5), nil),
            (change(.destroyContainer, pool: 1, container: 5), nil),
            (change(.createContainer, pool: 1, container: 5, label: "c"), .notFound),  // too late
            (change(.createContainer, pool: 1, container: 7, label: "c"), nil),
            (change(.destroyPool, pool: 3), .notFound),
            (change(.destroyPool, pool: 1), nil),
            (change(.destroyPool, pool: 1), nil),
            (change(.createPool, pool: 1, label: "tank"), .notFound),
        ]
        for (step, row) in table.enumerated() {
            let before = metadata
            let result = outcome(&metadata, row.0)
            #expect(result == row.1, "step \(step)")
            if result != nil { #expect(metadata == before, "step \(step) changed something") }
        }
        #expect(metadata.pools.isEmpty)
        #expect(metadata.containers.isEmpty)
        #expect(metadata.destroyed.count == 2)
    }

    @Test func snapshotsOfContainers() {
        var metadata = containers()
        let table: [(MetadataChange, ServiceCode?)] = [
            (snapshot(.createSnapshot, of: 7, 1, epoch: 10), .notFound),
            (snapshot(.createSnapshot, 1, epoch: 10, pool: 2), .notFound),
            (snapshot(.createSnapshot, 1, epoch: 10, label: "no/slash"), .invalidArgument),
            (snapshot(.createSnapshot, 1, epoch: 10, label: "one"), nil),
            (snapshot(.createSnapshot, 1, epoch: 11, label: "one"), nil),  // a resend
            (snapshot(.createSnapshot, 1, epoch: 11, label: "two"), .exists),
            (snapshot(.createSnapshot, of: 6, 1, epoch: 11, label: "one"), .exists),
            (snapshot(.createSnapshot, 2, epoch: 12, label: "one"), .exists),
            (snapshot(.createSnapshot, of: 6, 3, epoch: 13, label: "one"), nil),
            (snapshot(.createSnapshot, 4, epoch: 14), nil),
            (snapshot(.createSnapshot, 5, epoch: 15), nil),
            (snapshot(.destroySnapshot, epoch: 13), .notFound),
            (snapshot(.destroySnapshot, epoch: 14), nil),
            (snapshot(.destroySnapshot, epoch: 14), nil),  // a resend
            (snapshot(.createSnapshot, 4, epoch: 16), .notFound),  // one that comes too late
            (snapshot(.createSnapshot, 6, epoch: 17), nil),
            (snapshot(.destroySnapshot, epoch: 17), nil),
        ]
        for (step, row) in table.enumerated() {
            let before = metadata
            let result = outcome(&metadata, row.0)
            #expect(result == row.1, "step \(step)")
            if result != nil { #expect(metadata == before, "step \(step) changed something") }
        }
        #expect(metadata.snapshots(of: id(5)).map(\.epoch) == [10, 15])
        #expect(outcome(&metadata, change(.destroyContainer, pool: 1, container: 5)) == nil)
        #expect(metadata.snapshots.map(\.epoch) == [13])
        #expect(outcome(&metadata, change(.destroyPool, pool: 1)) == nil)
        #expect(metadata.snapshots == [])
    }

    /// What is remembered of snapshots is at most so much, and in nobody else's place.
    @Test func manyDestroyedSnapshots() {
        var metadata = containers()
        #expect(outcome(&metadata, change(.destroyContainer, pool: 1, container: 6)) == nil)
        let count = UInt64(ClusterMetadata.destroyedSnapshotsMax) + 1
        for number in 1...count {
            let created = snapshot(.createSnapshot, number, epoch: number, label: "s")
            #expect(outcome(&metadata, created) == nil)
            #expect(outcome(&metadata, snapshot(.destroySnapshot, epoch: number)) == nil)
        }
        #expect(metadata.destroyed == [DestroyedRecord(pool: id(1), container: id(6))])
        #expect(metadata.destroyedSnapshots.map(\.epoch) == Array(2...count))
        #expect(metadata.destroyedSnapshots.allSatisfy { $0.label.isEmpty })
        #expect(outcome(&metadata, snapshot(.destroySnapshot, epoch: 1)) == .notFound)
    }

    /// Pools of large clusters take much of the one value that holds all metadata.
    @Test func noMoreThanCanBeStored() {
        let map = PoolMap(
            version: 1, engines: (0..<2000).map { .init(rank: $0, targetCount: 1) })
        var metadata = ClusterMetadata()
        func make(_ change: MetadataChange) -> (code: ServiceCode, message: String)? {
            do {
                try metadata.apply(change, map: map, capacity: .max, secret: secret)
                return nil
            } catch {
                return (error.code, error.message)
            }
        }
        func fill(_ change: (UInt64) -> MetadataChange) -> UInt64 {
            var number: UInt64 = 1
            while true {
                let before = metadata
                if let refusal = make(change(number)) {
                    #expect(refusal.code == .noSpace && refusal.message.contains("too many pools"))
                    #expect(metadata == before)
                    return number - 1
                }
                number += 1
            }
        }
        let pools = fill { change(.createPool, pool: $0, label: "p\($0)", size: 1 << 40) }
        #expect(pools > 50 && pools < UInt64(ClusterMetadata.poolsMax))
        let label = String(repeating: "x", count: 100)
        let containers = fill {
            change(.createContainer, pool: 1, container: 1000 + $0, label: label + "\($0)")
        }
        #expect(containers > 5)
        let snapshots = fill { snapshot(.createSnapshot, of: 1001, $0, epoch: $0) }
        var request = MetadataAcceptRequest()
        request.ballot = Ballot(stamp: .max, rank: .max)
        request.metadata = metadata
        let size = StoredMetadata.bytes(of: request).count
        #expect(size <= VOSLimits.valueLengthMax && size > VOSLimits.valueLengthMax - 8192)
        // There is a way back.
        for number in 1...containers where number != 1 || snapshots == 0 {
            #expect(make(change(.destroyContainer, pool: 1, container: 1000 + number)) == nil)
        }
        #expect(make(change(.createContainer, pool: 1, container: 999, label: "c")) == nil)
        #expect(make(change(.destroyPool, pool: pools)) == nil)
        #expect(make(change(.createPool, pool: 999, label: "p", size: 1 << 40)) == nil)
    }

    /// A resend finds the secret that there is; a pool takes it along when it goes.
    @Test func aPoolHasOneSecret() throws {
        var metadata = containers()
        let known = metadata.secrets
        #expect(known == [PoolSecret(pool: id(1), key: secret)])
        let other = [UInt8](repeating: 8, count: PoolSecret.keyLength)
        try metadata.apply(
            change(.createPool, pool: 1, label: "tank"), map: map, capacity: capacity,
            secret: other)
        #expect(metadata.secrets == known)
        try metadata.apply(
            change(.createPool, pool: 2, label: "second"), map: map, capacity: capacity,
            secret: other)
        #expect(metadata.secret(of: id(1))?.key == secret)
        #expect(metadata.secret(of: id(2))?.key == other)
        #expect(outcome(&metadata, change(.destroyPool, pool: 1)) == nil)
        #expect(metadata.secrets == [PoolSecret(pool: id(2), key: other)])
    }

    @Test func anotherVersionIsNotRead() throws {
        var request = MetadataAcceptRequest()
        request.ballot = Ballot(stamp: 7, rank: 1)
        let bytes = StoredMetadata.bytes(of: request)
        #expect(try StoredMetadata.decode(bytes) == request)
        for (bytes, part) in [
            ([StoredMetadata.version + 1] + bytes.dropFirst(), "stored in version 3"),
            (bytes + [0], "cannot be read"), (Array(bytes.dropLast()), "cannot be read"),
            ([], "nothing is stored"),
        ] {
            do {
                _ = try StoredMetadata.decode(bytes)
                Issue.record("\(bytes) were read")
            } catch {
                #expect("\(error)".contains(part), "\(error)")
            }
        }
    }

    @Test(
        arguments: [
            ("SX", 1, nil), ("RP_2GX", 2, nil), ("RP_3GX", 3, nil),
            ("RP_2G1", 1, "class RP_2G1 needs 2 engines; pool tank has 1"),
            ("RP_3GX", 2, "class RP_3GX needs 3 engines; pool tank has 2"),
            ("RP_6G32", 5, "class RP_6G32 needs 6 engines; pool tank has 5"),
        ] as [(String, UInt32, String?)])
    func aContainersClassFitsItsPool(name: String, engines: UInt32, refusal: String?) throws {
        let map = PoolMap(
            version: 1, engines: (0..<engines).map { .init(rank: $0, targetCount: 2) })
        var metadata = ClusterMetadata()
        try metadata.apply(
            change(.createPool, pool: 1, label: "tank", size: 1 << 30), map: map,
            capacity: capacity, secret: secret)
        var container = change(.createContainer, pool: 1, container: 5, label: "c")
        container.objectClass = try #require(ObjectClass(name)).code
        var message: String?
        do {
            try metadata.apply(container, map: map, capacity: capacity, secret: secret)
        } catch {
            #expect(error.code == .invalidArgument)
            message = error.message
        }
        #expect(message == refusal)
        #expect(metadata.containers.count == (refusal == nil ? 1 : 0))
    }

    @Test func anAcceptorNeverGoesBack() {
        var acceptor = MetadataAcceptor()
        func ballot(_ stamp: UInt64, _ rank: UInt32 = 0) -> Ballot {
            Ballot(stamp: stamp, rank: rank)
        }
        #expect(acceptor.prepare(ballot(5)).promised)
        #expect(!acceptor.prepare(ballot(5)).promised)
        #expect(!acceptor.prepare(ballot(4, 9)).promised)
        #expect(acceptor.prepare(ballot(5, 1)).promised)
        #expect(!acceptor.mayAccept(ballot(5)))
        #expect(acceptor.mayAccept(ballot(5, 1)))
        acceptor.didStore(ballot(5, 1), ClusterMetadata())
        #expect(!acceptor.mayAccept(ballot(4)))
        #expect(acceptor.mayAccept(ballot(5, 1)))  // a repair repeats what is there
        let read = acceptor.prepare(Ballot())
        #expect(!read.promised)
        #expect(read.accepted == ballot(5, 1))
        #expect(acceptor.mayAccept(ballot(5, 1)), "reading promised something")
    }

    /// Every interleaving of two proposals at two acceptors: whatever both acceptors accepted for
    /// an acknowledged proposal is never replaced by something that did not see it.
    @Test func twoProposersInEveryOrder() {
        // Steps of proposer p: prepare at 0, prepare at 1, accept at 0, accept at 1.
        func merge(_ a: [Int], _ b: [Int]) -> [[Int]] {
            if a.isEmpty { return [b] }
            if b.isEmpty { return [a] }
            return merge(Array(a.dropFirst()), b).map { [a[0]] + $0 }
                + merge(a, Array(b.dropFirst())).map { [b[0]] + $0 }
        }
        for order in merge([0, 0, 0, 0], [1, 1, 1, 1]) {
            var acceptors = [MetadataAcceptor(), MetadataAcceptor()]
            var next = [0, 0]
            var alive = [true, true]
            var newest = [MetadataPrepareReply(), MetadataPrepareReply()]
            var documents = [ClusterMetadata(), ClusterMetadata()]
            var acknowledged: [Int] = []
            for proposer in order where alive[proposer] {
                let step = next[proposer]
                next[proposer] += 1
                let ballot = Ballot(stamp: UInt64(10 + proposer), rank: UInt32(proposer))
                if step < 2 {
                    let promise = acceptors[step].prepare(ballot)
                    alive[proposer] = promise.promised
                    if promise.accepted > newest[proposer].accepted { newest[proposer] = promise }
                    documents[proposer] = newest[proposer].metadata
                    var container = ContainerRecord()
                    container.label = "from \(proposer)"
                    documents[proposer].containers.append(container)
                } else if acceptors[step - 2].mayAccept(ballot) {
                    acceptors[step - 2].didStore(ballot, documents[proposer])
                    if step == 3 { acknowledged.append(proposer) }
                } else {
                    alive[proposer] = false
                }
            }
            let winner = acceptors.max { $0.accepted < $1.accepted }!
            for proposer in acknowledged {
                #expect(
                    winner.metadata.containers.contains { $0.label == "from \(proposer)" },
                    "order \(order): an acknowledged change is lost")
            }
        }
    }

    @Test func labels() {
        for good in ["a", "tank", "a.b-c_d", "0", String(repeating: "x", count: 127)] {
            #expect(Label.problem(with: good) == nil)
        }
        for bad in ["", "-a", ".a", "a b", "a/b", "ä", String(repeating: "x", count: 128)] {
            #expect(Label.problem(with: bad) != nil)
        }
    }
}
