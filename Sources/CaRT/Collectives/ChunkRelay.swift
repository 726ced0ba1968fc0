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
    /// Bytes, from the first on, that are there.
    private var available: Int
    private var source: CollectiveBulk?
    /// The parent that fetching goes on from.
    private var nextSource: CollectiveBulk?
    /// When the parent gives up.
    private let deadline: Deadline
    private var questions: [(have: Int, reply: DeferredReply<ChunkAnswer>)] = []
    private var fetching: Task<Void, Never>?
    private var retry: Timer?
    private var pause = ChunkRelay.pauseMin
    private var hasStarted = false
    private var hasStopped = false
    private var isClosed = false
    private var waiter: SuspendedTask?
    private var onStop: (() -> Void)?

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
        available = total
        deadline = .standard
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
        chunkSize = Int(source.chunkSize)
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
            memory: handle.descriptor, chunkSize: UInt32(chunkSize), isWhole: available == total)
    }

    private var isWhole: Bool { available == total }

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
            if question.have < available {
                question.reply.reply(ChunkAnswer(available: UInt64(available)))
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
        fetch(isFirst: true)
    }

    /// Another parent has the data, too.
    func change(to new: CollectiveBulk) {
        guard !hasStopped, !isWhole, Int(new.memory.length) == total, source != nil else { return }
        if let fetching {
            nextSource = new
            fetching.cancel()
        } else {
            source = new
            retry?.cancel()
            if hasStarted { fetch(isFirst: true) }
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

    private func fetch(isFirst: Bool) {
        guard let source, let buffer else { return }
        fetching = context.xstream.spawnCancellable { [self] in
            var failed = false
            do throws(RPCError) {
                try await fetchAll(from: source, into: buffer, trusts: isFirst && source.isWhole)
            } catch {
                failed = true
            }
            fetchEnded(failed)
        }
    }

    /// - Parameter trusts: the parent need not be asked, as it had everything from the beginning.
    private func fetchAll(
        from source: CollectiveBulk, into buffer: RegisteredBuffer, trusts: Bool
    ) async throws(RPCError) {
        var known = trusts ? total : available
        while !isWhole {
            guard !Task.isCancelled else { throw .cancelled }
            if known <= available {
                let answer = try await context.call(
                    CollectiveProtocol.chunks,
                    ChunkQuestion(key: source.memory.key, have: UInt64(available)),
                    to: .address(source.memory.owner), deadline: deadline)
                guard answer.available > UInt64(available), answer.available <= UInt64(total)
                else { throw .badMessage }
                known = Int(answer.available)
                continue
            }
            try await fetchSome(from: source, into: buffer, known: known)
            pause = ChunkRelay.pauseMin
        }
    }

    /// Fetches some chunks at a time.
    private func fetchSome(
        from source: CollectiveBulk, into buffer: RegisteredBuffer, known: Int
    ) async throws(RPCError) {
        var ranges: [Range<Int>] = []
        var start = available
        while start < known, ranges.count < ChunkRelay.windowMax {
            let end = min(start + chunkSize, known)
            ranges.append(start..<end)
            start = end
        }
        let results = Gather<RPCError?>(count: ranges.count)
        for (index, range) in ranges.enumerated() {
            context.xstream.spawn { [self] in
                do throws(RPCError) {
                    try await context.bulkGet(
                        source.memory, offset: range.lowerBound, into: buffer, range: range,
                        deadline: deadline)
                    results.finish(index, with: nil)
                } catch {
                    results.finish(index, with: error)
                }
            }
        }
        for (range, error) in zip(ranges, await results.results()) {
            if let error { throw error }
            available = range.upperBound
            tellChildren()
        }
    }

    private func fetchEnded(_ failed: Bool) {
        fetching = nil
        if hasStopped {
            stopped()
        } else if isWhole {
            wake()
        } else if let next = nextSource {
            nextSource = nil
            source = next
            fetch(isFirst: true)
        } else {
            retry = context.xstream.schedule(at: context.xstream.now + pause) { [weak self] in
                self?.fetch(isFirst: false)
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
        if let fetching { fetching.cancel() } else { stopped() }
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
