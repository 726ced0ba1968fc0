internal import BasicContainers
internal import CSharedMemory
internal import DrayRuntime
internal import Glibc

/// An endpoint of shared memory on Linux: a ring for each direction of each pair, and the kernel to
/// read and write other processes' memory. It takes no lock, so a process that is killed stops
/// nobody else.
///
/// At most 1,024 peers send to one endpoint at a time.
@safe final class SharedMemoryEndpoint: Endpoint {
    static let provider = "shm"

    private let listener: Int32
    private let bell: Int32
    /// What the owner waits for: the listener, the bell, and the connections of all rings.
    private let set: Int32
    private let inboxDescriptor: Int32
    private let regionsDescriptor: Int32
    private let inbox: SharedInbox
    private let regions: OwnSharedRegions
    @safe @exclusivity(unchecked) private var keys: Entropy
    @safe @exclusivity(unchecked) private var peers = UniqueArray<SharedPeer>()
    @safe @exclusivity(unchecked) private var senders = UniqueArray<SharedSender>()
    /// The senders whose rings are looked into at every poll, and the same as bits.
    @safe @exclusivity(unchecked) private var busy = UniqueArray<Int32>()
    @safe @exclusivity(unchecked) private var busyBits = UniqueArray<UInt64>()
    @safe @exclusivity(unchecked) private var receives = UniqueArray<Receive>()
    /// What has ended and was not reported.
    @safe @exclusivity(unchecked) private var ended = UniqueArray<Completion>()
    @safe @exclusivity(unchecked) private var transfers: [Transfer] = []
    @safe @exclusivity(unchecked) private var connecting = 0
    @safe @exclusivity(unchecked) private var isAsleep = false
    @safe @exclusivity(unchecked) private var isClosed = false
    /// Polls since connections were looked at.
    @safe @exclusivity(unchecked) private var pollsSinceLook = 0

    // SAFETY: valid until the completion, as `Endpoint.postReceive` asks.
    @safe private struct Receive {
        var buffer: UnsafeMutableRawBufferPointer
        var token: UInt64
    }

    /// A read or write of a peer's memory.
    // SAFETY: the local memory is valid until the completion, as `Endpoint.read` asks.
    @safe private struct Transfer {
        var kind: CompletionKind
        var local: UnsafeMutableRawBufferPointer
        var peer: Int
        var remote: RemoteMemory
        var token: UInt64
        var done = 0
    }

    /// Operations under way; more get `.tryAgain`.
    private static let operationsMax = 8192
    /// Connections are looked at after so many polls, which are some microseconds: whether somebody
    /// connects, and who is gone.
    private static let pollsPerLook = 512
    /// How much one poll copies.
    private static let bytesPerPoll = 1 << 20

    /// Opens an endpoint of that name; nil for a new one.
    init(name: String?, entropy: Entropy) throws(FabricError) {
        keys = entropy.fork("keys")
        var names = entropy.fork("name")
        let name = name ?? "anonymous-" + String(names.next(), radix: 16)
        let listener = unsafe dray_shm_listen(name)
        guard listener >= 0 else { throw SharedMemoryEndpoint.openError(listener, name) }
        let descriptors = [
            listener, dray_shm_make_bell(), dray_shm_make_set(),
            dray_shm_make(SharedInbox.fileSize), dray_shm_make(SharedRegions.fileSize),
        ]
        guard descriptors.allSatisfy({ $0 >= 0 }), let inbox = SharedInbox(descriptors[3]),
            let regions = OwnSharedRegions(descriptors[4]),
            dray_shm_add(descriptors[2], listener, Token.listener.rawValue) == 0,
            dray_shm_add(descriptors[2], descriptors[1], Token.bell.rawValue) == 0
        else {
            for descriptor in descriptors where descriptor >= 0 { dray_shm_close(descriptor) }
            throw SharedMemoryEndpoint.openError(descriptors.first { $0 < 0 } ?? -ENOMEM, name)
        }
        self.inbox = inbox
        self.regions = regions
        self.listener = listener
        (bell, set) = (descriptors[1], descriptors[2])
        (inboxDescriptor, regionsDescriptor) = (descriptors[3], descriptors[4])
        dray_shm_allow_peers()
        super.init(
            address: FabricAddress(
                provider: SharedMemoryEndpoint.provider, bytes: Array(name.utf8)),
            messageSizeMax: SharedRing.messageSizeMax, gatheredMax: 8)
    }

    deinit { if !isClosed { closeDescriptors() } }

    private func closeDescriptors() {
        for descriptor in [listener, bell, set, inboxDescriptor, regionsDescriptor] {
            dray_shm_close(descriptor)
        }
        for index in senders.indices { senders[index].hangUp() }
        for index in peers.indices { peers[index].disconnect() }
    }

    private static func openError(_ code: Int32, _ name: String) -> FabricError {
        let text = "\(provider)://\(name)"
        if code == -EADDRINUSE {
            return .addressInUse(
                "\(text): another process of this machine, or this one, listens there")
        }
        return .provider(code: -code, message: "\(text): \(words(-code))")
    }

    private static func words(_ code: Int32) -> String {
        unsafe String(cString: strerror(code))
    }

    // MARK: - Peers

    override func insert(_ address: FabricAddress) throws(FabricError) -> Peer {
        precondition(!isClosed)
        guard address.provider == self.address.provider else {
            throw .badAddress("\(address): expected an address of \(self.address.provider)")
        }
        guard address.isWellFormed else {
            throw .badAddress("\(address): not an address of \(self.address.provider)")
        }
        let name = String(decoding: address.bytes, as: UTF8.self)
        var place = peers.count
        for index in peers.indices {
            if peers[index].uses > 0, peers[index].name == name {
                peers[index].uses += 1
                return Peer(index: UInt64(index))
            }
            if peers[index].uses == 0, place == peers.count { place = index }
        }
        if place == peers.count { peers.append(SharedPeer()) }
        peers[place].name = name
        peers[place].uses = 1
        return Peer(index: UInt64(place))
    }

    override func remove(_ peer: Peer) {
        precondition(!isClosed)
        let index = Int(peer.index)
        precondition(peers[index].uses > 0, "a peer was removed that is not there")
        peers[index].uses -= 1
        if peers[index].uses == 0 { disconnect(index) }
    }

    /// Ends the connection to a peer, and what is under way with it.
    private func disconnect(_ index: Int) {
        if peers[index].isConnecting { connecting -= 1 }
        peers[index].disconnect()
        for transfer in transfers where transfer.peer == index {
            ended.append(
                Completion(
                    token: transfer.token, kind: transfer.kind,
                    error: .unreachable(code: ECONNRESET)))
        }
        transfers.removeAll { $0.peer == index }
    }

    /// Makes sure that there is a ring to the peer.
    private func connect(_ index: Int) throws(FabricError) {
        precondition(!isClosed)
        precondition(peers[index].uses > 0, "an operation with a peer that was removed")
        guard !peers[index].isReady else { return }
        if !peers[index].isConnecting {
            let error = peers[index].connect()
            guard error == 0 else {
                if error == -EAGAIN || error == -EINTR { throw .tryAgain }
                throw .unreachable(code: -error)
            }
            connecting += 1
            let token = Token(.peer, index).rawValue
            guard dray_shm_add(set, peers[index].socket, token) == 0 else {
                disconnect(index)
                throw .tryAgain
            }
        }
        throw .tryAgain
    }

    // MARK: - Memory

    override func register(
        _ memory: UnsafeMutableRawBufferPointer, access: MemoryAccess
    ) throws(FabricError) -> MemoryRegion {
        precondition(!isClosed)
        precondition(memory.count > 0, "registered memory must not be empty")
        let address = UInt64(UInt(bitPattern: memory.baseAddress))
        var key = keys.next()
        guard !access.isEmpty else {
            return MemoryRegion(remoteAddress: address, key: key, descriptor: 0, handle: 0)
        }
        // Only when there are very many is there no place for a random key.
        for _ in 0..<16 {
            if key != 0, let handle = unsafe regions.add(memory, key: key, access: access) {
                return MemoryRegion(
                    remoteAddress: address, key: key, descriptor: 0, handle: handle)
            }
            key = keys.next()
        }
        throw .provider(code: ENOSPC, message: "too much memory is exposed at a time")
    }

    override func deregister(_ region: consuming MemoryRegion) {
        let handle = region.take()
        if handle > 0 { regions.remove(handle) }
    }

    // MARK: - Operations

    override func postReceive(
        _ buffer: UnsafeMutableRawBufferPointer, in region: borrowing MemoryRegion, token: UInt64
    ) throws(FabricError) {
        precondition(!isClosed)
        guard receives.count < SharedMemoryEndpoint.operationsMax else { throw .tryAgain }
        receives.append(unsafe Receive(buffer: buffer, token: token))
    }

    override func send(
        _ buffer: UnsafeRawBufferPointer, in region: borrowing MemoryRegion, to peer: Peer,
        token: UInt64
    ) throws(FabricError) {
        guard buffer.count <= messageSizeMax else { throw .messageTooLong }
        let index = Int(peer.index)
        if !peers[index].isReady { try connect(index) }
        guard ended.count < SharedMemoryEndpoint.operationsMax,
            unsafe peers[index].send(buffer)
        else { throw .tryAgain }
        ended.append(Completion(token: token, kind: .sent))
    }

    override func read(
        into buffer: UnsafeMutableRawBufferPointer, in region: borrowing MemoryRegion,
        from peer: Peer, remote: RemoteMemory, token: UInt64
    ) throws(FabricError) {
        try unsafe transfer(
            Transfer(
                kind: .read, local: buffer, peer: Int(peer.index), remote: remote, token: token))
    }

    override func write(
        _ buffer: UnsafeRawBufferPointer, in region: borrowing MemoryRegion, to peer: Peer,
        remote: RemoteMemory, token: UInt64
    ) throws(FabricError) {
        try unsafe transfer(
            Transfer(
                kind: .written, local: UnsafeMutableRawBufferPointer(mutating: buffer),
                peer: Int(peer.index), remote: remote, token: token))
    }

    private func transfer(_ transfer: Transfer) throws(FabricError) {
        try connect(transfer.peer)
        guard transfers.count < SharedMemoryEndpoint.operationsMax else { throw .tryAgain }
        transfers.append(transfer)
    }

    // MARK: - Progress

    override func poll(into completions: UnsafeMutableBufferPointer<Completion>) -> Int {
        precondition(!isClosed)
        pollsSinceLook += 1
        if isAsleep || connecting > 0 || pollsSinceLook >= SharedMemoryEndpoint.pollsPerLook {
            lookAtConnections()
        }
        if !transfers.isEmpty { work() }
        var count = 0
        while count < completions.count, let completion = ended.popLast() {
            unsafe completions[count] = completion
            count += 1
        }
        findBusy()
        var position = 0
        while position < busy.count {
            let ring = Int(busy[position])
            if unsafe receive(ring, into: completions, &count) {
                position += 1
            } else {
                busyBits[ring / 64] &= ~(1 << UInt64(ring % 64))
                busy[position] = busy[busy.count - 1]
                busy.removeLast()
            }
        }
        return count
    }

    /// Adds the rings whose senders say so to those that are looked into.
    @inline(__always)
    private func findBusy() {
        for word in busyBits.indices {
            let fresh = inbox.bits(word) & ~busyBits[word]
            if fresh != 0 { addBusy(word, fresh) }
        }
    }

    private func addBusy(_ word: Int, _ fresh: UInt64) {
        var bits = fresh
        while bits != 0 {
            let ring = word * 64 + bits.trailingZeroBitCount
            bits &= bits - 1
            // Anybody who sends to us may have set it.
            guard ring < senders.count, senders[ring].ring != nil else {
                inbox.forget(ring)
                continue
            }
            busyBits[word] |= 1 << UInt64(ring % 64)
            senders[ring].emptyLooks = 0
            busy.append(Int32(ring))
        }
    }

    /// Takes messages from one ring. Returns whether to look into it at the next poll, too.
    @inline(__always)
    private func receive(
        _ ring: Int, into completions: UnsafeMutableBufferPointer<Completion>, _ count: inout Int
    ) -> Bool {
        var found = false
        while count < completions.count, !receives.isEmpty {
            switch senders[ring].ring!.next() {
            case .nothing:
                if found { senders[ring].emptyLooks = 0 } else { senders[ring].emptyLooks += 1 }
                guard senders[ring].socket >= 0 else {
                    free(ring)
                    return false
                }
                return senders[ring].emptyLooks < SharedSender.emptyLooksMax || rest(ring)
            case .broken:
                senders[ring].hangUp()
                free(ring)
                return false
            case .message(let message):
                found = true
                let receive = receives.removeLast()
                let fits = unsafe message.count <= receive.buffer.count
                if fits { unsafe receive.buffer.copyMemory(from: message) }
                unsafe completions[count] = Completion(
                    token: receive.token, kind: .received, length: fits ? message.count : 0,
                    error: fits ? nil : .messageTooLong)
                count += 1
                senders[ring].ring!.consume()
            }
        }
        return true
    }

    /// Nothing has come through a ring for long. Returns whether something has after all.
    private func rest(_ ring: Int) -> Bool {
        senders[ring].emptyLooks = 0
        inbox.forget(ring)
        guard senders[ring].isFilled else { return false }
        inbox.mark(ring)
        return true
    }

    /// Forgets a sender, whose place another may have.
    private func free(_ ring: Int) {
        senders[ring].ring = nil
        inbox.forget(ring)
    }

    /// Copies from and to peers.
    private func work() {
        var budget = SharedMemoryEndpoint.bytesPerPoll
        var index = 0
        while index < transfers.count, budget > 0 {
            let (error, isOver) = copy(&transfers[index], &budget)
            guard isOver else { break }
            ended.append(
                Completion(
                    token: transfers[index].token, kind: transfers[index].kind, error: error))
            index += 1
        }
        transfers.removeSubrange(..<index)
    }

    private func copy(
        _ transfer: inout Transfer, _ budget: inout Int
    ) -> (FabricError?, isOver: Bool) {
        let access: MemoryAccess = transfer.kind == .read ? .remoteRead : .remoteWrite
        let total = unsafe transfer.local.count
        guard peers[transfer.peer].allows(transfer.remote, count: total, access) else {
            return (.badKey, true)
        }
        while transfer.done < total {
            guard budget > 0 else { return (nil, false) }
            let length = min(budget, total - transfer.done)
            let process = peers[transfer.peer].process
            let remote = transfer.remote.address &+ UInt64(transfer.done)
            let local = unsafe transfer.local.baseAddress.unsafelyUnwrapped + transfer.done
            let copied =
                transfer.kind == .read
                ? unsafe dray_shm_read(process, local, remote, length)
                : unsafe dray_shm_write(process, local, remote, length)
            guard copied > 0 else {
                return (SharedMemoryEndpoint.transferError(Int32(copied)), true)
            }
            transfer.done += copied
            budget -= copied
        }
        return (nil, true)
    }

    private static func transferError(_ code: Int32) -> FabricError {
        switch code {
        case 0, -EFAULT: .badKey
        case -ESRCH: .unreachable(code: ESRCH)
        case -EPERM:
            .provider(
                code: EPERM,
                message: "the kernel does not let this process read and write its peer's memory "
                    + "(kernel.yama.ptrace_scope of at most 1, one user, one namespace of "
                    + "processes)")
        default: .provider(code: -code, message: words(-code))
        }
    }

    override func prepareToBlock() -> BlockReadiness {
        precondition(!isClosed)
        if !ended.isEmpty || !transfers.isEmpty { return .busy }
        inbox.fallAsleep()
        guard !receives.isEmpty, hasMessages else {
            isAsleep = true
            return .descriptor(set)
        }
        inbox.wakeUp()
        return .busy
    }

    private var hasMessages: Bool {
        for word in busyBits.indices where inbox.bits(word) & ~busyBits[word] != 0 { return true }
        for position in busy.indices {
            // One that is gone is forgotten at the next poll.
            let ring = Int(busy[position])
            if senders[ring].isFilled || senders[ring].socket < 0 { return true }
        }
        return false
    }

    // MARK: - Connections

    private struct Token {
        enum Kind: UInt64 {
            case listener, bell, peer, sender
        }

        let rawValue: UInt64

        init(_ kind: Kind, _ index: Int = 0) { rawValue = kind.rawValue << 32 | UInt64(index) }
        init(rawValue: UInt64) { self.rawValue = rawValue }

        static let listener = Token(.listener)
        static let bell = Token(.bell)

        var kind: Kind? { Kind(rawValue: rawValue >> 32) }
        var index: Int { Int(rawValue & 0xffff_ffff) }
    }

    private func lookAtConnections() {
        pollsSinceLook = 0
        if isAsleep {
            inbox.wakeUp()
            isAsleep = false
        }
        let capacity = 16
        unsafe withUnsafeTemporaryAllocation(of: UInt64.self, capacity: capacity) { tokens in
            let count = unsafe dray_shm_ready(set, tokens.baseAddress, Int32(capacity))
            for position in 0..<max(0, Int(count)) {
                let token = Token(rawValue: unsafe tokens[position])
                switch token.kind {
                case .listener: accept()
                case .bell: dray_shm_silence(bell)
                case .peer: lookAt(peer: token.index)
                case .sender: lookAt(sender: token.index)
                case nil: break
                }
            }
        }
    }

    /// A peer answers; or it is gone.
    private func lookAt(peer index: Int) {
        guard peers[index].socket >= 0 else { return }
        let isAnswer = peers[index].isConnecting
        guard isAnswer, peers[index].takeAnswer() else { return disconnect(index) }
        if peers[index].isReady { connecting -= 1 }
    }

    private func accept() {
        while true {
            let socket = dray_shm_accept(listener)
            guard socket >= 0 else { return }
            var (process, user): (pid_t, uid_t) = (0, 0)
            guard unsafe dray_shm_peer(socket, &process, &user) == 0,
                user == geteuid() || user == 0, let ring = freePlace(),
                dray_shm_add(set, socket, Token(.sender, ring).rawValue) == 0
            else {
                dray_shm_close(socket)
                continue
            }
            senders[ring].socket = socket
            lookAt(sender: ring)
        }
    }

    private func freePlace() -> Int? {
        for index in senders.indices where senders[index].isFree { return index }
        guard senders.count < SharedInbox.ringsMax else { return nil }
        senders.append(SharedSender(socket: -1))
        while busyBits.count * 64 < senders.count { busyBits.append(0) }
        return senders.count - 1
    }

    /// A sender greets; or it is gone, or says what it should not.
    private func lookAt(sender ring: Int) {
        guard senders[ring].socket >= 0 else { return }
        switch SharedGreeting.receive(over: senders[ring].socket, count: 1) {
        case .nothing: return
        case .greeting(_, let descriptors):
            defer { dray_shm_close(descriptors[0]) }
            if senders[ring].ring == nil, let reader = SharedRingReader(descriptors[0]) {
                senders[ring].ring = consume reader
                if answer(ring) { return }
                senders[ring].ring = nil
            }
        case .end: break
        }
        senders[ring].hangUp()
        // What the sender has written is read first.
        if senders[ring].ring != nil { inbox.mark(ring) }
    }

    private func answer(_ ring: Int) -> Bool {
        let readable = dray_shm_read_only(regionsDescriptor)
        guard readable >= 0 else { return false }
        defer { dray_shm_close(readable) }
        return SharedGreeting(number: UInt64(ring))
            .send(over: senders[ring].socket, [inboxDescriptor, readable, bell])
    }

    override func listening(at address: FabricAddress) -> Listening {
        precondition(!isClosed)
        let socket = unsafe dray_shm_connect(String(decoding: address.bytes, as: UTF8.self))
        if socket >= 0 { dray_shm_close(socket) }
        return socket == -ECONNREFUSED ? .refused : .accepted
    }

    override func close() {
        precondition(!isClosed, "an endpoint is closed once")
        isClosed = true
        closeDescriptors()
    }
}
