internal import DrayFabric
internal import DrayRuntime

/// One rank's copy of the bulk data of a collective: fetched from the parent chunk by chunk, while
/// the children fetch from it what is there already. So the time that all take is that of the data
/// once, and that of one chunk for each level of the tree.
///
/// Fetching can be repeated without harm. When it fails, it is tried again, until the collective is
/// over or another parent has adopted us: then it goes on from there.
///
/// Confined to the context's xstream.
@safe final class ChunkRelay {
    private unowned let context: Context
    /// Nil where the data comes from.
    let buffer: RegisteredBuffer?
    /// For the children.
    let handle: BulkHandle
    private let chunkSize: Int
    private let total: Int
    private let chunkCount: Int
    /// By chunk.
    private var isThere: [Bool] = []
    /// Chunks, from the first on, that are there.
    private var available: Int
    /// Nil where the data comes from.
    private var source: CollectiveBulk?
    /// The parent that fetching goes on from.
    private var nextSource: CollectiveBulk?
    /// When we must answer.
    private let deadline: Deadline
    /// What is being read then is waited for a while longer: our answer tells the parent that its
    /// memory is its own again.
    private let readDeadline: Deadline
    private var questions: [(have: Int, reply: DeferredReply<ChunkAnswer>)] = []
    private var fetch: Fetch?
    private var retry: Timer?
    private var pause = ChunkRelay.pauseMin
    private var hasStarted = false
    private var hasStopped = false
    private var isClosed = false
    private var waiter: SuspendedTask?
    private var onStop: (() -> Void)?

    /// Fetching from one source, until it fails or all is there.
    private final class Fetch {
        let source: CollectiveBulk
        /// Chunks, from the first on, that the source has.
        var known: Int
        /// The chunk to read next.
        var next: Int
        /// Chunks that are being read.
        var reads = 0
        /// Asks the source for more.
        var question: Task<Void, Never>?
        var isOver = false

        init(_ source: CollectiveBulk, known: Int, next: Int) {
            self.source = source
            self.known = known
            self.next = next
        }
    }

    /// Chunks that are fetched at a time.
    private static let windowMax = 4
    private static let pauseMin = Duration.milliseconds(2)
    private static let pauseMax = Duration.milliseconds(100)

    /// The data itself, at the initiator.
    init(_ handle: BulkHandle, chunkSize: Int, context: Context) {
        self.context = context
        self.handle = handle
        self.chunkSize = chunkSize
        buffer = nil
        total = handle.range.count
        chunkCount = (total + chunkSize - 1) / chunkSize
        available = chunkCount
        deadline = .standard
        readDeadline = .standard
        context.relays[handle.descriptor.key] = self
    }

    /// A copy of the parent's.
    ///
    /// - Throws: `.overloaded` or `.messageTooLong` when there is no memory for it.
    init(
        copying source: CollectiveBulk, deadline: UInt64, context: Context
    ) throws(RPCError) {
        guard source.memory.length <= UInt64(Context.pulledBytesMax) else { throw .messageTooLong }
        total = Int(source.memory.length)
        guard context.pulledBytes + total <= Context.pulledBytesMax else { throw .overloaded }
        self.context = context
        self.source = source
        self.deadline = .at(deadline)
        readDeadline = .at(deadline &+ CallTracker.graceMax)
        chunkSize = Int(source.chunkSize)
        chunkCount = (total + chunkSize - 1) / chunkSize
        isThere = Array(repeating: false, count: chunkCount)
        available = 0
        let buffer = try context.makeBuffer(count: total)
        self.buffer = buffer
        handle = try context.expose(buffer, access: .remoteRead)
        context.pulledBytes += total
        context.relays[handle.descriptor.key] = self
    }

    deinit {
        retry?.cancel()
    }

    /// What the children are told.
    var offer: CollectiveBulk {
        CollectiveBulk(
            memory: handle.descriptor, chunkSize: UInt32(chunkSize), isWhole: isWhole)
    }

    private var isWhole: Bool { available == chunkCount }

    private func range(_ chunk: Int) -> Range<Int> {
        chunk * chunkSize..<min((chunk + 1) * chunkSize, total)
    }

    /// Bytes of the first chunks.
    private func bytes(_ chunks: Int) -> Int { min(chunks * chunkSize, total) }

    // MARK: - Children

    /// A child wants to know when there is more.
    func asked(_ have: UInt64, _ reply: DeferredReply<ChunkAnswer>) {
        guard have < UInt64(total) else {
            reply.fail(.badMessage)
            return
        }
        questions.append((Int(have), reply))
        tellChildren()
    }

    private func tellChildren() {
        let open = questions
        questions = []
        for question in open {
            if question.have < bytes(available) {
                question.reply.reply(ChunkAnswer(available: UInt64(bytes(available))))
            } else {
                questions.append(question)
            }
        }
    }

    // MARK: - Fetching

    /// Begins to fetch.
    func start() {
        guard source != nil, !hasStarted, !hasStopped else { return }
        hasStarted = true
        begin(isFirst: true)
    }

    /// Another parent has the data, too.
    func change(to new: CollectiveBulk) {
        guard !hasStopped, !isWhole, Int(new.memory.length) == total, source != nil else { return }
        if let fetch {
            nextSource = new
            interrupt(fetch)
        } else {
            source = new
            retry?.cancel()
            if hasStarted { begin(isFirst: true) }
        }
    }

    /// Waits until all is there.
    func whole() async throws(RPCError) {
        while !isWhole {
            guard !hasStopped else { throw .cancelled }
            await SuspendedTask.suspend { waiter = $0 }
        }
    }

    private func wake() {
        let waiting = waiter
        waiter = nil
        waiting?.resume()
    }

    /// - Parameter isFirst: what the source said of itself is still true. Else it is asked before
    ///   anything is read: another process may be there by now.
    private func begin(isFirst: Bool) {
        guard let source else { return }
        let known = isFirst && source.isWhole ? chunkCount : available
        let fetch = Fetch(source, known: known, next: available)
        self.fetch = fetch
        proceed(fetch)
    }

    /// Reads what the source has, and asks it for more at the same time.
    private func proceed(_ fetch: Fetch) {
        while fetch.reads < ChunkRelay.windowMax, fetch.next < fetch.known {
            let chunk = fetch.next
            fetch.next += 1
            guard !isThere[chunk] else { continue }
            fetch.reads += 1
            context.xstream.spawn { [self] in
                let isRead = await read(chunk, from: fetch.source)
                fetch.reads -= 1
                if isRead { arrived(chunk) } else { interrupt(fetch) }
                settle(fetch)
            }
        }
        guard fetch.known < chunkCount, fetch.question == nil else { return }
        fetch.question = context.xstream.spawnCancellable { [self] in
            let known = await ask(fetch.source, have: bytes(fetch.known))
            fetch.question = nil
            if let known { fetch.known = known } else { interrupt(fetch) }
            settle(fetch)
        }
    }

    private func read(_ chunk: Int, from source: CollectiveBulk) async -> Bool {
        guard let buffer else { return false }
        let range = range(chunk)
        do throws(RPCError) {
            try await context.bulkGet(
                source.memory, offset: range.lowerBound, into: buffer, range: range,
                deadline: readDeadline)
            return true
        } catch {
            // Whatever it was: it is tried again, or time decides.
            return false
        }
    }

    /// The chunks that a source has once they are more; nil when it does not say.
    private func ask(_ source: CollectiveBulk, have: Int) async -> Int? {
        do throws(RPCError) {
            let answer = try await context.call(
                CollectiveProtocol.chunks,
                ChunkQuestion(key: source.memory.key, have: UInt64(have)),
                to: .address(source.memory.owner), deadline: deadline)
            guard answer.available > UInt64(have), answer.available <= UInt64(total)
            else { return nil }
            if answer.available == UInt64(total) { return chunkCount }
            let known = Int(answer.available) / chunkSize
            return bytes(known) > have ? known : nil
        } catch {
            return nil
        }
    }

    private func arrived(_ chunk: Int) {
        isThere[chunk] = true
        pause = ChunkRelay.pauseMin
        guard chunk == available else { return }
        while available < chunkCount, isThere[available] { available += 1 }
        tellChildren()
        if isWhole { wake() }
    }

    private func interrupt(_ fetch: Fetch) {
        fetch.isOver = true
        fetch.question?.cancel()
    }

    /// Something of a fetch has ended.
    private func settle(_ fetch: Fetch) {
        guard self.fetch === fetch else { return }
        guard fetch.isOver || isWhole else {
            proceed(fetch)
            return
        }
        guard fetch.reads == 0, fetch.question == nil else { return }
        self.fetch = nil
        if hasStopped {
            stopped()
        } else if let next = nextSource, !isWhole {
            nextSource = nil
            source = next
            begin(isFirst: true)
        } else if !isWhole {
            retry = context.xstream.schedule(at: context.xstream.now + pause) { [weak self] in
                self?.begin(isFirst: false)
            }
            pause = min(pause * 2, ChunkRelay.pauseMax)
        }
    }

    // MARK: - The end

    /// The collective is over for us. Runs `body` when nothing is fetched any more.
    func stop(_ body: @escaping () -> Void) {
        guard source != nil else {
            body()
            return
        }
        hasStopped = true
        onStop = body
        retry?.cancel()
        wake()
        if let fetch { interrupt(fetch) } else { stopped() }
    }

    private func stopped() {
        let body = onStop
        onStop = nil
        close()
        body?()
    }

    /// Children get nothing more. The memory goes with the last call that exposes it.
    func close() {
        guard !isClosed else { return }
        isClosed = true
        context.relays[handle.descriptor.key] = nil
        if source != nil { context.pulledBytes -= total }
        for question in questions { question.reply.fail(.cancelled) }
        questions = []
    }
}
