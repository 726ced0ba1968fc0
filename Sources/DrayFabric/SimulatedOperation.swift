internal import DrayRuntime

/// One operation on the simulated fabric, from the post to the completion.
@safe final class SimulatedOperation {
    let kind: CompletionKind
    let token: UInt64
    let source: SimulatedEndpoint
    // SAFETY: what the operation sends, or where it reads to. Valid until the operation is reported
    // and used only before that, while the source is alive.
    private let buffer: UnsafeMutableRawBufferPointer
    private let remote: RemoteMemory
    private unowned let network: SimulatedNetwork

    private var target: SimulatedEndpoint?
    private let targetName: String
    private var link: SimulatedLink?
    private var generation: UInt64 = 0
    /// The bytes as they left.
    private var payload: [UInt8] = []
    private var isReported = false
    private var partsLeft = 0
    /// Parts of a write whose process stands still.
    private var heldParts: [Range<Int>] = []
    private var delays = 0

    /// A part of a remote read or write; parts travel on their own.
    private static let partSize = 4096
    private static let partsMax = 64
    /// How often a write looks whether its process goes on.
    private static let holdTime: Duration = .milliseconds(10)
    /// How often a message that meets a partition is sent again before its connection breaks.
    private static let delaysMax = 20

    init(
        kind: CompletionKind, token: UInt64, source: SimulatedEndpoint, targetName: String,
        buffer: UnsafeMutableRawBufferPointer, remote: RemoteMemory, network: SimulatedNetwork
    ) {
        self.kind = kind
        self.token = token
        self.source = source
        self.targetName = targetName
        unsafe self.buffer = buffer
        self.remote = remote
        self.network = network
    }

    /// Whether the operation still belongs to a connection that holds.
    private var isConnected: Bool { link.map { $0.generation == generation } ?? false }

    // MARK: - Leaving

    /// Begins the journey. The bytes leave a little later: who changes them early is found out.
    func start() {
        network.after(network.between(.nanoseconds(100), .microseconds(2))) { self.leave() }
    }

    private func leave() {
        guard source.isAlive else { return }
        network.counts.operations += 1
        guard let target = network.holder(of: targetName) else {
            network.counts.refusals += 1
            network.after(network.latency()) { self.report(.unreachable(code: 111)) }
            return
        }
        self.target = target
        let link = network.link(source, target)
        self.link = link
        if network.happens(network.faults.connectionLossRate) { link.breakDown() }
        generation = link.generation
        link.began(self)
        if kind != .read {
            unsafe payload = [UInt8](copying: UnsafeRawBufferPointer(buffer))
            unsafe payload.withUnsafeBytes { bytes in
                unsafe network.simulation.record("wire", bytes: bytes)
            }
        }
        if kind == .sent, network.entropy.chance(1, in: 2) {
            // Sent is when the bytes are no longer needed here, not when they have arrived.
            report(nil)
        }
        network.after(network.latency()) { self.arrive() }
    }

    // MARK: - Arriving

    private func arrive() {
        guard let link, let target else { return }
        guard isConnected else {
            if kind == .sent { misdeliver() }
            return
        }
        guard target.isAlive else {
            link.breakDown()
            if kind == .sent { misdeliver() }
            return
        }
        if network.isBlocked(from: source.node, to: target.node) {
            network.counts.partitioned += 1
            delays += 1
            guard delays < SimulatedOperation.delaysMax, network.entropy.chance(7, in: 8) else {
                link.breakDown()
                return
            }
            // The network repeats it, ever more rarely.
            let pause = Duration.milliseconds(10) * delays
            network.after(network.between(pause, pause * 2)) { self.arrive() }
            return
        }
        if link.isStalled(at: target) {
            link.wait(self, at: target)
        } else {
            take(at: target, link: link)
        }
    }

    /// The target handles the operation, or lets it wait. Returns false in the latter case.
    @discardableResult
    func take(at target: SimulatedEndpoint, link: SimulatedLink) -> Bool {
        switch kind {
        case .sent, .received:
            guard target.hasReceive else {
                network.counts.starvations += 1
                link.putBack(self, at: target)
                target.starve(link)
                watch()
                return false
            }
            let fitted = target.receive(payload)
            report(nil)
            if !fitted {
                network.counts.truncations += 1
                link.breakDown()
            }
        case .read, .written:
            transfer(at: target, link: link)
        }
        return true
    }

    /// Notices that the target died while something waited there.
    private func watch() {
        network.after(.milliseconds(50)) { [self] in
            guard isConnected, let target, let link, link.isStalled(at: target) else { return }
            if target.isAlive { watch() } else { link.breakDown() }
        }
    }

    /// A message whose connection broke may still reach whoever has the address now.
    private func misdeliver() {
        guard network.happens(network.faults.misdeliveryRate),
            let holder = network.holder(of: targetName), holder !== target, holder.hasReceive,
            !network.isBlocked(from: source.node, to: holder.node)
        else {
            network.counts.messagesLost += 1
            return
        }
        network.counts.misdeliveries += 1
        _ = holder.receive(payload)
    }

    // MARK: - Remote reads and writes

    private func transfer(at target: SimulatedEndpoint, link: SimulatedLink) {
        let access: MemoryAccess = kind == .read ? .remoteRead : .remoteWrite
        let count = unsafe buffer.count
        guard target.exposes(remote, count: count, access: access) else {
            network.counts.badKeys += 1
            let isBreaking = network.happens(network.faults.badKeyBreakRate)
            network.after(network.latency()) { [self] in
                report(.badKey)
                if isBreaking, isConnected { link.breakDown() }
            }
            return
        }
        let size = max(
            SimulatedOperation.partSize,
            (count + SimulatedOperation.partsMax - 1) / SimulatedOperation.partsMax)
        partsLeft = max(1, (count + size - 1) / size)
        for part in 0..<partsLeft {
            let range = (part * size)..<min(count, (part + 1) * size)
            let pause = network.between(.zero, .microseconds(5))
            network.after(pause) { self.move(range) }
        }
    }

    /// Moves one part. Each moves at its own time: a transfer that fails may be half done.
    private func move(_ range: Range<Int>) {
        guard let target, let link else { return }
        guard kind == .read || !source.isPaused else { return hold(range) }
        guard isConnected else {
            guard kind == .written, network.happens(network.faults.lateWriteRate) else { return }
            // Too late: the writer knows of the failure, and the bytes land all the same.
            network.after(network.latency()) { [self] in
                guard store(range) else { return }
                network.counts.lateWrites += 1
            }
            return
        }
        guard target.isAlive, source.isAlive || kind == .written else {
            link.breakDown()
            return
        }
        let moved = kind == .read ? load(range) : store(range)
        guard moved else {
            // The region went away in the middle: a real provider may go on all the same.
            network.counts.badKeys += 1
            network.counts.regionsLost += 1
            report(.badKey)
            return
        }
        partsLeft -= 1
        if partsLeft == 0 { acknowledge() }
    }

    /// The bytes of a write come from its process: what is half done when that is stopped is
    /// finished when it goes on, however late.
    private func hold(_ range: Range<Int>) {
        if heldParts.isEmpty {
            network.after(SimulatedOperation.holdTime) { [self] in
                let parts = heldParts
                heldParts = []
                // What a process that was killed had not sent is lost.
                guard source.isAlive else { return }
                for part in parts { move(part) }
            }
        }
        network.counts.heldParts += 1
        heldParts.append(range)
    }

    private func store(_ range: Range<Int>) -> Bool {
        guard let target, target.isAlive,
            let memory = unsafe target.exposed(remote, range: range, access: .remoteWrite)
        else { return false }
        unsafe payload.withUnsafeBytes { bytes in
            unsafe memory.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[range]))
        }
        return true
    }

    private func load(_ range: Range<Int>) -> Bool {
        guard !isReported, let target,
            let memory = unsafe target.exposed(remote, range: range, access: .remoteRead)
        else { return false }
        let bytes = UnsafeRawBufferPointer(memory)
        unsafe network.simulation.record("wire", bytes: bytes)
        unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[range]).copyMemory(from: bytes)
        return true
    }

    private func acknowledge() {
        network.after(network.latency()) { [self] in
            guard isConnected, let link, let target else { return }
            if network.isBlocked(from: target.node, to: source.node) {
                network.counts.partitioned += 1
                link.breakDown()
            } else {
                report(nil)
            }
        }
    }

    // MARK: - Ending

    /// The connection that carried this operation is gone.
    func connectionBroke() {
        let isSilent = kind == .sent && network.entropy.chance(1, in: 2)
        if kind == .sent { network.counts.messagesLost += 1 }
        network.after(network.between(.microseconds(1), .milliseconds(5))) {
            self.report(isSilent ? nil : .unreachable(code: 104))
        }
    }

    private func report(_ error: FabricError?) {
        guard !isReported else { return }
        isReported = true
        link?.ended(self)
        source.finish(Completion(token: token, kind: kind, error: error))
    }
}
