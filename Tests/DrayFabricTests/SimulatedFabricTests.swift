import DrayFabric
import DrayRuntime
import Testing

/// What only the simulated fabric does: faults, and the same ones for the same seed.
@Suite struct SimulatedFabricTests {
    @Test(arguments: 1...5) func sameSeedSameRun(seed: UInt64) throws {
        func run(_ seed: UInt64) throws -> (UInt64, FabricFaultCounts) {
            let cluster = Cluster(seed: seed, faults: .harsh, nodes: 3)
            try cluster.chatter(messages: 300)
            return (cluster.simulation.eventHash, cluster.fabric.counts)
        }
        let (first, second) = (try run(seed), try run(seed))
        #expect(first.0 == second.0)
        #expect(first.1 == second.1)
        #expect(try run(seed + 100).0 != first.0)
    }

    @Test func harshFabricInjectsEveryFault() throws {
        var total = FabricFaultCounts()
        for seed in UInt64(1)...4 {
            let cluster = Cluster(seed: seed, faults: .harsh, nodes: 3)
            try cluster.chatter(messages: 400)
            let counts = cluster.fabric.counts
            total.connectionsLost += counts.connectionsLost
            total.messagesLost += counts.messagesLost
            total.tryAgains += counts.tryAgains
            total.slowMessages += counts.slowMessages
            #expect(counts.operations > 500)
        }
        #expect(total.connectionsLost > 10)
        #expect(total.messagesLost > 10)
        #expect(total.tryAgains > 30)
        #expect(total.slowMessages > 20)
    }

    /// Without faults nothing is lost, and the order is still not kept.
    @Test func calmFabricLosesNothingAndReorders() throws {
        let cluster = Cluster(seed: 3, faults: .none, nodes: 2)
        try cluster.chatter(messages: 500)
        #expect(cluster.fabric.counts.messagesLost == 0)
        let received = cluster.members.flatMap(\.received)
        #expect(received.count == 1000)
        #expect(cluster.members[0].received != cluster.members[0].received.sorted())
    }

    @Test func partitionsStopMessagesBothWaysOrOne() throws {
        for oneWay in [false, true] {
            let cluster = Cluster(seed: 7, faults: .none, nodes: 3)
            if oneWay {
                cluster.fabric.partitionOneWay(from: [0], to: [1])
            } else {
                cluster.fabric.partition([0], [1, 2])
            }
            try cluster.send(from: 0, to: 1, number: 1)
            try cluster.send(from: 1, to: 0, number: 2)
            try cluster.send(from: 1, to: 2, number: 3)
            cluster.simulation.run(for: .seconds(10))
            #expect(cluster.members[1].received == [])
            #expect(cluster.members[0].received == (oneWay ? [2] : []))
            #expect(cluster.members[2].received == [3])
            #expect(cluster.fabric.counts.partitioned > 0)
            cluster.fabric.heal()
            try cluster.send(from: 0, to: 1, number: 4)
            cluster.simulation.run(for: .seconds(10))
            #expect(cluster.members[1].received == [4])
        }
    }

    @Test func deadNodesGetNothingAndTheNextIncarnationOnlyWhatIsNew() throws {
        let cluster = Cluster(seed: 9, faults: .none, nodes: 2)
        cluster.fabric.faults.latency = .milliseconds(10) ... .milliseconds(20)
        try cluster.send(from: 0, to: 1, number: 1)
        cluster.simulation.run(for: .milliseconds(5))
        cluster.simulation.kill(node: 1, incarnation: 0)
        cluster.restart(1)
        cluster.simulation.run(for: .seconds(1))
        #expect(cluster.members[1].received == [])
        #expect(cluster.fabric.counts.messagesLost >= 1)
        try cluster.send(from: 0, to: 1, number: 2)
        cluster.simulation.run(for: .seconds(1))
        #expect(cluster.members[1].received == [2])
    }

    @Test func messagesToTheDeadMayReachTheNextIncarnation() throws {
        let cluster = Cluster(seed: 9, faults: .none, nodes: 2)
        cluster.fabric.faults.latency = .milliseconds(10) ... .milliseconds(20)
        cluster.fabric.faults.misdeliveryRate = FabricFaults.unit
        try cluster.send(from: 0, to: 1, number: 1)
        cluster.simulation.run(for: .milliseconds(5))
        cluster.simulation.kill(node: 1, incarnation: 0)
        cluster.restart(1)
        cluster.simulation.run(for: .seconds(1))
        #expect(cluster.members[1].received == [1])
        #expect(cluster.fabric.counts.misdeliveries == 1)
    }

    @Test func nobodyThereIsUnreachable() throws {
        let cluster = Cluster(seed: 11, faults: .none, nodes: 2)
        cluster.simulation.kill(node: 1, incarnation: 0)
        try cluster.send(from: 0, to: 1, number: 1)
        cluster.simulation.run(for: .seconds(1))
        #expect(cluster.members[0].errors == [.unreachable(code: 111)])
        #expect(cluster.fabric.counts.refusals == 1)
    }

    @Test func addressesAreNamesOfLivingProcesses() throws {
        let cluster = Cluster(seed: 1, faults: .none, nodes: 1)
        #expect(throws: FabricError.self) {
            try cluster.fabric.makeEndpoint("sim://member-0", on: cluster.members[0].xstream)
        }
        cluster.simulation.kill(node: 0, incarnation: 0)
        cluster.restart(0)
        #expect(cluster.members[0].endpoint.address.description == "sim://member-0")
    }

    /// A remote write whose connection breaks half-way has written a part.
    /// Ports answer for stopped processes too, and not across a partition.
    @Test func kernelsSayWhetherSomebodyListens() {
        let cluster = Cluster(seed: 3, faults: .none, nodes: 3)
        func listening(_ name: String) -> Listening? {
            var answer: Listening?
            let asker = cluster.members[0]
            asker.onXStream {
                answer = asker.endpoint.listening(
                    at: FabricAddress(provider: "sim", bytes: Array(name.utf8)))
            }
            cluster.simulation.run(for: .seconds(1), until: { answer != nil })
            return answer
        }
        let names = cluster.members.map {
            String(decoding: $0.endpoint.address.bytes, as: UTF8.self)
        }
        #expect(listening(names[1]) == .accepted)
        #expect(listening("nobody") == .refused)
        cluster.simulation.pause(node: 1, incarnation: 0)
        #expect(listening(names[1]) == .accepted)
        cluster.simulation.kill(node: 1, incarnation: 0)
        #expect(listening(names[1]) == .refused)
        cluster.fabric.partitionOneWay(from: [2], to: [0])
        #expect(listening(names[2]) == .unknown)
    }

    @Test func remoteWritesAreLeftHalfDone() throws {
        var halves = 0
        for seed in UInt64(1)...40 {
            let cluster = Cluster(seed: seed, faults: .none, nodes: 2)
            let (writer, target) = (cluster.members[0], cluster.members[1])
            for index in 0..<32_768 {
                writer.memory.bytes[index] = 1
                target.memory.bytes[index] = 0
            }
            cluster.fabric.faults.latency = .microseconds(10) ... .microseconds(10)
            var isDone = false
            writer.xstream.simulate {
                must { try writer.write(32_768, to: target) }
                isDone = true
            }
            cluster.simulation.run(for: .seconds(1), until: { isDone })
            cluster.simulation.run(for: .nanoseconds(12_000 + Int64(seed) * 100))
            cluster.fabric.breakConnections(0, 1)
            cluster.simulation.run(for: .seconds(1))
            let written = (0..<8).map { target.memory.bytes[$0 * 4096] }
            if written.contains(0), written.contains(1) {
                halves += 1
                #expect(writer.errors.count == 1)
            }
        }
        #expect(halves > 3)
    }
}

/// Some simulated processes with an endpoint each.
final class Cluster {
    let simulation: Simulation
    let fabric: SimulatedFabric
    private(set) var members: [Member] = []
    private var graveyard: [Member] = []

    init(seed: UInt64, faults: FabricFaults, nodes: Int) {
        simulation = Simulation(seed: seed)
        fabric = SimulatedFabric(simulation: simulation, faults: faults)
        for node in 0..<nodes { members.append(Member(self, node: node, incarnation: 0)) }
        for member in members { introduce(member) }
    }

    private func introduce(_ member: Member) {
        member.onXStream {
            member.peers = (0..<self.members.count).map { index in
                let address = FabricAddress(
                    provider: "sim", bytes: Array("member-\(index)".utf8))
                return must { try member.endpoint.insert(address) }
            }
        }
    }

    func restart(_ node: Int) {
        graveyard.append(members[node])
        members[node] = Member(self, node: node, incarnation: members[node].incarnation + 1)
        introduce(members[node])
    }

    func send(from: Int, to: Int, number: UInt64) throws {
        members[from].onXStream {
            self.members[from].queue.append((to, number))
            self.members[from].flush()
        }
    }

    /// Everybody sends `messages` numbers to everybody else.
    func chatter(messages: Int) throws {
        for member in members {
            member.onXStream {
                for number in 0..<messages {
                    for to in 0..<self.members.count where to != member.node {
                        member.queue.append((to, UInt64(number)))
                    }
                }
                member.flush()
            }
        }
        simulation.run(for: .seconds(30))
        let left = members.map(\.queue.count)
        #expect(left.allSatisfy { $0 == 0 }, "\(left) messages were never sent")
    }
}

final class Member: PollSource {
    let node: Int
    let incarnation: Int
    let xstream: XStream
    let endpoint: Endpoint
    let memory = IOBuffer(count: 65_536)
    private var region: RegionBox!
    private unowned let cluster: Cluster
    private let scratch = {
        let buffer = UnsafeMutableBufferPointer<Completion>.allocate(capacity: 16)
        buffer.initialize(repeating: Completion(token: 0, kind: .sent))
        return buffer
    }()
    var peers: [Peer] = []
    var queue: [(to: Int, number: UInt64)] = []
    private var freeSlots = Array(0..<64)
    private(set) var received: [UInt64] = []
    private(set) var errors: [FabricError] = []

    static let slots = 40_000
    static let receives = 60_000

    init(_ cluster: Cluster, node: Int, incarnation: Int) {
        self.cluster = cluster
        self.node = node
        self.incarnation = incarnation
        let world = cluster.simulation.world(node: node, incarnation: incarnation)
        xstream = world.makeXStream(name: "member-\(node)")
        let home = xstream
        endpoint = must { try cluster.fabric.makeEndpoint("sim://member-\(node)", on: home) }
        scratch.initialize(repeating: Completion(token: 0, kind: .sent))
        onXStream { [self] in
            region = RegionBox(
                must {
                    try endpoint.register(memory.bytes, access: [.remoteRead, .remoteWrite])
                })
            for index in 0..<32 { post(index) }
            xstream.addSource(self)
        }
    }

    deinit {
        scratch.deallocate()
        endpoint.deregister(region.take())
    }

    /// Runs `body` on the xstream, now.
    func onXStream(_ body: @escaping () -> Void) {
        var isDone = false
        xstream.simulate {
            body()
            isDone = true
        }
        cluster.simulation.run(for: .seconds(1), until: { isDone })
        precondition(isDone)
    }

    private func slice(_ offset: Int, _ count: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(rebasing: memory.bytes[offset..<(offset + count)])
    }

    private func post(_ index: Int) {
        must {
            try region.use { region throws(FabricError) in
                try endpoint.postReceive(
                    slice(Member.receives + index * 8, 8), in: region, token: UInt64(index))
            }
        }
    }

    func write(_ count: Int, to target: Member) throws {
        try region.use { region throws(FabricError) in
            try endpoint.write(
                UnsafeRawBufferPointer(slice(0, count)), in: region, to: peers[target.node],
                remote: target.region.remote, token: 1 << 20)
        }
    }

    func flush() {
        while let (to, number) = queue.first, let slot = freeSlots.last {
            memory.bytes.storeBytes(
                of: number, toByteOffset: Member.slots + slot * 8, as: UInt64.self)
            do throws(FabricError) {
                try region.use { region throws(FabricError) in
                    try endpoint.send(
                        UnsafeRawBufferPointer(slice(Member.slots + slot * 8, 8)), in: region,
                        to: peers[to], token: 1000 + UInt64(slot))
                }
                freeSlots.removeLast()
                queue.removeFirst()
            } catch {
                return
            }
        }
    }

    func poll() -> Int {
        let count = endpoint.poll(into: scratch)
        for completion in scratch[0..<count] {
            if let error = completion.error { errors.append(error) }
            switch completion.kind {
            case .received:
                if completion.error == nil {
                    received.append(
                        memory.bytes.load(
                            fromByteOffset: Member.receives + Int(completion.token) * 8,
                            as: UInt64.self))
                }
                post(Int(completion.token))
            case .sent: freeSlots.append(Int(completion.token) - 1000)
            case .read, .written: break
            }
        }
        flush()
        return count
    }

    func prepareToBlock() -> BlockReadiness { endpoint.prepareToBlock() }
}
