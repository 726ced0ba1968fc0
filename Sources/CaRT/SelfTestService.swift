internal import DequeModule
internal import DrayFabric
internal import DrayRuntime

extension SelfTest {
    /// Registers the server's procedures.
    public static func register(on context: Context) {
        let service = SelfTestService()
        context.registerSynchronous(echo) { echo, request throws(RPCError) in
            try service.answer(echo, request)
        }
        context.register(transfer) { echo, request throws(RPCError) in
            try await service.transfer(echo, request)
        }
        context.register(measureProcedure) { measure, request throws(RPCError) in
            try await service.measure(measure, request)
        }
    }
}

/// The server's side of the self-test on one context. Whatever callers ask for, the memory it
/// takes is bounded: callers wait for each other.
final class SelfTestService {
    /// Memory of transfers under way; one transfer may always be.
    static let memoryMax = 256 << 20
    /// Measurements for others at a time.
    static let measurementsMax = 4
    /// How long the common bytes are kept after their last use.
    static let keptFor = Duration.seconds(1)

    /// What is sent where nobody looks at the content: the same bytes for everybody, as pooled
    /// memory may hold what others have stored.
    private var common: RegisteredBuffer?
    private var commonUsed = Instant(nanoseconds: 0)
    private var usedBytes = 0
    private var waiting = Deque<(bytes: Int, task: SuspendedTask)>()
    private var measurements = 0

    // MARK: - Calls

    /// Answers a request without bulk transfers.
    func answer(
        _ echo: SelfTest.EchoRequest, _ request: RequestContext
    ) throws(RPCError) -> EmptyMessage {
        let echo = SelfTest.TransferRequest(replySize: echo.replySize, alignment: echo.alignment)
        try check(echo)
        let size = Int(echo.replySize)
        if size > 0 {
            let buffer = try commonBytes(size, echo, request.context)
            reply(with: buffer, echo, request)
        }
        return EmptyMessage()
    }

    private func check(_ echo: SelfTest.TransferRequest) throws(RPCError) {
        guard Int(echo.replySize) <= SelfTest.inlineSizeMax,
            (echo.get?.length ?? 0) <= UInt64(SelfTest.bulkSizeMax),
            (echo.put?.length ?? 0) <= UInt64(SelfTest.bulkSizeMax)
        else { throw .messageTooLong }
        guard SelfTest.alignments.contains(Int(echo.alignment)) else {
            throw .application(
                code: SelfTest.ErrorCode.badOptions,
                message: "no buffer begins \(echo.alignment) bytes behind a page")
        }
    }

    private func reply(
        with buffer: RegisteredBuffer, _ echo: SelfTest.TransferRequest, _ request: RequestContext
    ) {
        let range = Int(echo.alignment)..<Int(echo.alignment) + Int(echo.replySize)
        unsafe request.setReplyPayload(
            UnsafeRawBufferPointer(rebasing: buffer.bytes[range]), keeping: buffer)
    }

    /// Answers a request with bulk transfers, or one whose bytes are compared.
    func transfer(
        _ echo: SelfTest.TransferRequest, _ request: RequestContext
    ) async throws(RPCError) -> SelfTest.TransferReply {
        try check(echo)
        if let seed = echo.seed, unsafe request.payload.count > 0 {
            try unsafe SelfTestBytes.check(
                request.payload, seed: SelfTestBytes.requestSeed(seed), "request")
        }
        request.releasePayload()
        let own = echo.seed == nil ? 0 : Int(echo.put?.length ?? 0) + Int(echo.replySize)
        let bytes = Int(echo.get?.length ?? 0) + own
        await take(bytes)
        defer { give(bytes) }
        // It may have waited for long.
        if request.isCancelled { throw .cancelled }
        var reply = SelfTest.TransferReply()
        if let source = echo.get { reply.checksum = try await pull(source, echo, request) }
        if let target = echo.put {
            let size = Int(target.length)
            let buffer = try bytesToSend(size, echo, request.context)
            try await request.context.bulkPut(
                target, from: buffer, range: Int(echo.alignment)..<Int(echo.alignment) + size,
                deadline: .at(request.deadline), for: request)
        }
        if echo.replySize > 0 {
            let buffer = try bytesToSend(Int(echo.replySize), echo, request.context)
            self.reply(with: buffer, echo, request)
        }
        return reply
    }

    /// Reads the caller's memory; returns the checksum of a sample.
    private func pull(
        _ source: BulkDescriptor, _ echo: SelfTest.TransferRequest, _ request: RequestContext
    ) async throws(RPCError) -> UInt32 {
        let range = Int(echo.alignment)..<Int(echo.alignment) + Int(source.length)
        let buffer = try request.context.makeBuffer(count: range.upperBound)
        try await request.context.bulkGet(
            source, into: buffer, range: range, deadline: .at(request.deadline), for: request)
        let bytes = unsafe UnsafeRawBufferPointer(rebasing: buffer.bytes[range])
        if let seed = echo.seed {
            try unsafe SelfTestBytes.check(
                bytes, seed: SelfTestBytes.requestSeed(seed), "request")
        }
        return unsafe SelfTestBytes.sample(bytes)
    }

    // MARK: - Memory

    private func bytesToSend(
        _ size: Int, _ echo: SelfTest.TransferRequest, _ context: Context
    ) throws(RPCError) -> RegisteredBuffer {
        guard let seed = echo.seed else { return try commonBytes(size, echo, context) }
        let range = Int(echo.alignment)..<Int(echo.alignment) + size
        let buffer = try context.makeBuffer(count: range.upperBound)
        unsafe SelfTestBytes.fill(
            UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[range]),
            seed: SelfTestBytes.replySeed(seed))
        return buffer
    }

    /// The common bytes, at least `size` of them behind the alignment.
    private func commonBytes(
        _ size: Int, _ echo: SelfTest.TransferRequest, _ context: Context
    ) throws(RPCError) -> RegisteredBuffer {
        let count = size + SelfTest.alignments.upperBound
        commonUsed = context.xstream.roundTime
        if let common, common.count >= count { return common }
        let buffer = try context.makeBuffer(count: count)
        unsafe SelfTestBytes.fill(buffer.bytes, seed: 0)
        if common == nil { expireLater(context.xstream) }
        common = buffer
        return buffer
    }

    /// Lets the common bytes go when nobody has used them for a while.
    private func expireLater(_ xstream: XStream) {
        xstream.schedule(at: xstream.now + SelfTestService.keptFor) { [weak self, xstream] in
            guard let self else { return }
            if xstream.now.since(commonUsed) >= SelfTestService.keptFor {
                common = nil
            } else {
                expireLater(xstream)
            }
        }
    }

    /// Waits, in order of arrival, until there is room.
    private func take(_ bytes: Int) async {
        if waiting.isEmpty, hasRoom(bytes) {
            usedBytes += bytes
            return
        }
        // Whoever makes room takes it for us.
        await SuspendedTask.suspend { waiting.append((bytes, $0)) }
    }

    private func hasRoom(_ bytes: Int) -> Bool {
        usedBytes == 0 || usedBytes + bytes <= SelfTestService.memoryMax
    }

    private func give(_ bytes: Int) {
        usedBytes -= bytes
        while let first = waiting.first, hasRoom(first.bytes) {
            waiting.removeFirst()
            usedBytes += first.bytes
            first.task.resume()
        }
    }

    // MARK: - Measurements for others

    /// Measures from here. Only members of our group: a stranger cannot have us call others.
    func measure(
        _ measure: SelfTest.MeasureRequest, _ request: RequestContext
    ) async throws(RPCError) -> SelfTest.Result {
        guard measurements < SelfTestService.measurementsMax else { throw .overloaded }
        measurements += 1
        defer { measurements -= 1 }
        let run = SelfTestRun(
            context: request.context,
            destinations: measure.members.map { .rank($0.rank, tag: $0.tag) },
            options: measure.options, deadline: request.deadline)
        request.onCancel { run.stop() }
        do throws(SelfTest.Failure) {
            return try await run.measure()
        } catch {
            if case .application(let code, _) = error.error,
                code == SelfTest.ErrorCode.badOptions || code == SelfTest.ErrorCode.badContent
            {
                throw error.error
            }
            throw .application(code: SelfTest.ErrorCode.callFailed, message: "\(error)")
        }
    }
}
