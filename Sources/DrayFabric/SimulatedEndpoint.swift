internal import DequeModule
internal import DrayRuntime

/// An endpoint on the simulated fabric.
@safe final class SimulatedEndpoint: Endpoint {
    let identity: Int
    let xstream: XStream
    private unowned let network: SimulatedNetwork
    private var isClosed = false

    private var peers: [String?] = []
    private var regions: [UInt: Region] = [:]
    private var regionsByKey: [UInt64: Region] = [:]
    private var regionCount: UInt = 0
    /// Where the next region begins. A process's own addresses must not reach the wire: they
    /// differ from run to run.
    private var nextAddress: UInt64 = 0x10_0000
    private var keys: Entropy

    private var receives: [Receive] = []
    private var completions = Deque<Completion>()
    private var operationCount = 0
    /// Connections on which a message waits for a receive, in the order they stalled.
    private var starving: [SimulatedLink] = []

    // SAFETY: the memory stays valid until the region is deregistered (the contract of
    // `register`), and is not touched after that, nor after the end of the process.
    @safe private struct Region {
        let memory: UnsafeMutableRawBufferPointer
        let address: UInt64
        let key: UInt64
        let access: MemoryAccess
    }

    // SAFETY: the buffer stays valid until the receive is reported or the endpoint is closed.
    @safe private struct Receive {
        let buffer: UnsafeMutableRawBufferPointer
        let token: UInt64
    }

    /// The most sends, reads and writes under way.
    static let operationsMax = 256
    /// The most posted receives.
    static let receivesMax = 8192
    /// The largest message; small enough that tests meet it.
    static let messageSizeMax = 16 << 20
    /// Few, so that it comes to pass.
    static let gatheredMax = 4
    /// The largest read or write; small enough that tests meet it.
    static let transferSizeMax = 1 << 20

    init(network: SimulatedNetwork, name: String, identity: Int, xstream: XStream) {
        self.network = network
        self.identity = identity
        self.xstream = xstream
        keys = network.simulation.entropy.fork("fabric keys \(identity)")
        super.init(
            address: FabricAddress(provider: "sim", bytes: Array(name.utf8)),
            messageSizeMax: SimulatedEndpoint.messageSizeMax,
            transferSizeMax: SimulatedEndpoint.transferSizeMax,
            gatheredMax: SimulatedEndpoint.gatheredMax)
    }

    /// The number of the simulated process.
    var node: Int { xstream.node >> 16 }

    /// Whether the process lives and has not closed the endpoint.
    var isAlive: Bool { !isClosed && !network.simulation.isDead(xstream.node) }

    /// Whether the process lives and stands still.
    var isPaused: Bool { isAlive && network.simulation.isPaused(xstream.node) }

    // MARK: - Peers

    override func insert(_ address: FabricAddress) throws(FabricError) -> Peer {
        precondition(!isClosed)
        guard address.provider == "sim", address.isWellFormed else {
            throw .badAddress("\(address): expected an address of sim")
        }
        peers.append(String(decoding: address.bytes, as: UTF8.self))
        return Peer(index: UInt64(peers.count - 1))
    }

    override func remove(_ peer: Peer) {
        precondition(peer.index < UInt64(peers.count), "a peer that was never inserted")
        precondition(peers[Int(peer.index)] != nil, "a peer was removed twice")
        peers[Int(peer.index)] = nil
    }

    private func name(of peer: Peer) -> String {
        precondition(peer.index < UInt64(peers.count), "a peer that was never inserted")
        guard let name = peers[Int(peer.index)] else {
            preconditionFailure("a peer is used after it was removed")
        }
        return name
    }

    // MARK: - Memory

    override func register(
        _ memory: UnsafeMutableRawBufferPointer, access: MemoryAccess
    ) throws(FabricError) -> MemoryRegion {
        precondition(!isClosed)
        precondition(memory.count > 0, "registered memory must not be empty")
        regionCount += 1
        let region = unsafe Region(
            memory: memory, address: nextAddress, key: keys.next(), access: access)
        // A gap, so that running over the end of a region never meets the next.
        nextAddress += UInt64(memory.count) + 0x1000
        regions[regionCount] = region
        regionsByKey[region.key] = region
        return MemoryRegion(
            remoteAddress: region.address, key: region.key, descriptor: regionCount,
            handle: regionCount)
    }

    override func deregister(_ region: consuming MemoryRegion) {
        let handle = region.take()
        guard let region = regions.removeValue(forKey: handle) else {
            preconditionFailure("a region of another endpoint")
        }
        regionsByKey[region.key] = nil
    }

    /// Whether a peer that names `remote` may do so.
    func exposes(_ remote: RemoteMemory, count: Int, access: MemoryAccess) -> Bool {
        unsafe exposed(remote, range: 0..<count, access: access) != nil
    }

    /// The memory behind `range` of `remote`, or nil when key, bounds or access are wrong.
    func exposed(
        _ remote: RemoteMemory, range: Range<Int>, access: MemoryAccess
    ) -> UnsafeMutableRawBufferPointer? {
        guard let region = regionsByKey[remote.key], region.access.contains(access),
            remote.address >= region.address
        else { return nil }
        let size = unsafe region.memory.count
        let (offset, count) = (remote.address - region.address, UInt64(range.upperBound))
        guard offset <= UInt64(size), count <= UInt64(size) - offset else { return nil }
        let start = Int(offset)
        return unsafe UnsafeMutableRawBufferPointer(
            rebasing: region.memory[(start + range.lowerBound)..<(start + range.upperBound)])
    }

    /// Programmer error unless `buffer` lies in `region`, and that is registered here.
    private func check(_ buffer: UnsafeRawBufferPointer, in region: borrowing MemoryRegion) {
        precondition(!isClosed, "an endpoint is used after it was closed")
        precondition(xstream.isCurrent, "an endpoint is used outside its xstream")
        guard let registered = regions[region.handle], registered.key == region.key else {
            preconditionFailure("a region that is not registered with this endpoint")
        }
        guard let start = buffer.baseAddress, let base = unsafe registered.memory.baseAddress else {
            precondition(buffer.count == 0)
            return
        }
        let isInside =
            unsafe start >= UnsafeRawPointer(base)
            && start + buffer.count <= UnsafeRawPointer(base) + registered.memory.count
        precondition(isInside, "a local buffer outside its registered region")
    }

    // MARK: - Operations

    override func postReceive(
        _ buffer: UnsafeMutableRawBufferPointer, in region: borrowing MemoryRegion, token: UInt64
    ) throws(FabricError) {
        unsafe check(UnsafeRawBufferPointer(buffer), in: region)
        guard receives.count < SimulatedEndpoint.receivesMax else { throw .tryAgain }
        unsafe receives.append(Receive(buffer: buffer, token: token))
        guard let link = starving.first else { return }
        network.after(.nanoseconds(200)) { self.feed(link) }
    }

    override func send(
        _ buffer: UnsafeRawBufferPointer, in region: borrowing MemoryRegion, to peer: Peer,
        token: UInt64
    ) throws(FabricError) {
        unsafe check(buffer, in: region)
        guard buffer.count <= messageSizeMax else { throw .messageTooLong }
        try unsafe post(
            .sent, UnsafeMutableRawBufferPointer(mutating: buffer), peer,
            RemoteMemory(address: 0, key: 0), token)
    }

    override func read(
        into buffer: UnsafeMutableRawBufferPointer, in region: borrowing MemoryRegion,
        from peer: Peer, remote: RemoteMemory, token: UInt64
    ) throws(FabricError) {
        unsafe check(UnsafeRawBufferPointer(buffer), in: region)
        precondition(buffer.count <= transferSizeMax, "a read is too large")
        try unsafe post(.read, buffer, peer, remote, token)
    }

    override func write(
        _ buffer: UnsafeRawBufferPointer, in region: borrowing MemoryRegion, to peer: Peer,
        remote: RemoteMemory, token: UInt64
    ) throws(FabricError) {
        unsafe check(buffer, in: region)
        precondition(buffer.count <= transferSizeMax, "a write is too large")
        try unsafe post(
            .written, UnsafeMutableRawBufferPointer(mutating: buffer), peer, remote, token)
    }

    private func post(
        _ kind: CompletionKind, _ buffer: UnsafeMutableRawBufferPointer, _ peer: Peer,
        _ remote: RemoteMemory, _ token: UInt64
    ) throws(FabricError) {
        let target = name(of: peer)
        let isInjected = network.happens(network.faults.tryAgainRate)
        guard operationCount < SimulatedEndpoint.operationsMax, !isInjected else {
            if isInjected { network.counts.tryAgains += 1 }
            // Who waits to be polled before it tries again must be polled.
            network.after(.microseconds(1)) { self.xstream.signalSources() }
            throw .tryAgain
        }
        operationCount += 1
        let operation = unsafe SimulatedOperation(
            kind: kind, token: token, source: self, targetName: target, buffer: buffer,
            remote: remote, network: network)
        operation.start()
    }

    // MARK: - What the network does here

    var hasReceive: Bool { !receives.isEmpty }

    /// Puts a message into one of the posted receives, whichever. Returns false when it did not
    /// fit.
    func receive(_ payload: [UInt8]) -> Bool {
        let index = Int(network.entropy.below(UInt64(receives.count)))
        receives.swapAt(index, receives.count - 1)
        let receive = receives.removeLast()
        let isFitting = unsafe payload.count <= receive.buffer.count
        if isFitting { unsafe receive.buffer.copyBytes(from: payload) }
        report(
            Completion(
                token: receive.token, kind: .received, length: isFitting ? payload.count : 0,
                error: isFitting ? nil : .messageTooLong))
        return isFitting
    }

    /// A message on `link` waits for a receive.
    func starve(_ link: SimulatedLink) {
        guard !starving.contains(where: { $0 === link }) else { return }
        starving.append(link)
    }

    /// Delivers what waits on `link`, as far as there are receives.
    private func feed(_ link: SimulatedLink) {
        guard isAlive else { return }
        starving.removeAll { $0 === link }
        while let operation = link.takeWaiting(at: self) {
            guard operation.take(at: self, link: link) else { break }
        }
        if hasReceive, let next = starving.first, next !== link { feed(next) }
    }

    /// One of our operations has ended.
    func finish(_ completion: Completion) {
        operationCount -= 1
        report(completion)
    }

    private func report(_ completion: Completion) {
        guard isAlive else { return }
        completions.append(completion)
        xstream.signalSources()
    }

    // MARK: - Progress

    override func poll(into completions: UnsafeMutableBufferPointer<Completion>) -> Int {
        precondition(!isClosed, "an endpoint is used after it was closed")
        var count = 0
        while count < completions.count, let completion = self.completions.popFirst() {
            unsafe completions[count] = completion
            count += 1
        }
        return count
    }

    override func prepareToBlock() -> BlockReadiness {
        completions.isEmpty ? .idle : .busy
    }

    /// The kernel of the other node answers, also for a process that is stopped.
    override func listening(at address: FabricAddress) -> Listening {
        precondition(!isClosed)
        let name = String(decoding: address.bytes, as: UTF8.self)
        guard let node = network.node(of: name) else { return .refused }
        guard !network.isBlocked(from: self.node, to: node),
            !network.isBlocked(from: node, to: self.node)
        else { return .unknown }
        return network.holder(of: name) == nil ? .refused : .accepted
    }

    override func close() {
        precondition(!isClosed, "an endpoint is closed once")
        isClosed = true
        receives = []
        completions.removeAll()
    }
}
