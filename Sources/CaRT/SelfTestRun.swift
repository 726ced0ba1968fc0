internal import DrayFabric
internal import DrayRuntime

/// The client side of one self-test: as many loops of calls as are in flight.
final class SelfTestRun {
    private let context: Context
    private let destinations: [Destination]
    private let options: SelfTest.Options
    /// When everything is over: wall clock, nanoseconds since 1970.
    private let deadline: UInt64
    private var result = SelfTest.Result()
    private var remaining = 0
    private var running = 0
    /// The number of the next call: decides its destination and its bytes.
    private var next: UInt64 = 0
    private var failure: SelfTest.Failure?
    /// Resumed by the last loop that ends.
    private var finished: SuspendedTask?

    init(
        context: Context, destinations: [Destination], options: SelfTest.Options, deadline: UInt64
    ) {
        self.context = context
        self.destinations = destinations
        self.options = options
        self.deadline = deadline
    }

    /// Measures.
    func measure() async throws(SelfTest.Failure) -> SelfTest.Result {
        if let problem = options.problem ?? SelfTest.problem(ofCount: destinations.count) {
            throw SelfTest.Failure(
                error: .application(code: SelfTest.ErrorCode.badOptions, message: problem))
        }
        if options.warmUp > 0 { try await go(options.warmUp) }
        result = SelfTest.Result()
        result.endpoints = Array(repeating: SelfTest.EndpointResult(), count: destinations.count)
        let start = context.xstream.now
        try await go(options.repetitions)
        result.elapsed = context.xstream.now.since(start)
        result.requestBytes = UInt64(options.request.size) * result.latencies.count
        result.replyBytes = UInt64(options.reply.size) * result.latencies.count
        return result
    }

    /// Makes no further calls.
    func stop() {
        failure = failure ?? SelfTest.Failure(error: .cancelled)
    }

    /// Makes `count` calls.
    private func go(_ count: Int) async throws(SelfTest.Failure) {
        if let failure { throw failure }
        remaining = count
        running = min(options.inFlight, count)
        let loops = running
        await SuspendedTask.suspend { waiter in
            finished = waiter
            for _ in 0..<loops {
                context.xstream.spawn { [self] in
                    await loop()
                    running -= 1
                    if running == 0 { finished?.resume() }
                }
            }
        }
        if let failure { throw failure }
    }

    private func loop() async {
        var destination: Destination?
        do throws(RPCError) {
            let worker = try SelfTestWorker(context, options)
            defer { worker.end() }
            var start = context.xstream.now.nanoseconds
            while remaining > 0, failure == nil {
                remaining -= 1
                let number = next
                next += 1
                let index = Int(number % UInt64(destinations.count))
                destination = destinations[index]
                try await worker.call(destinations[index], number: number, deadline: callDeadline)
                // The end of one call is the begin of the next.
                let end = context.xstream.now.nanoseconds
                record(end - start, of: index)
                start = end
            }
        } catch {
            failure = failure ?? SelfTest.Failure(destination: destination, error: error)
        }
    }

    private var callDeadline: Deadline {
        deadline == .max
            ? .after(options.timeout)
            : .at(
                min(
                    deadline,
                    context.world.clock.wallNanoseconds &+ options.timeout.nanosecondsClamped))
    }

    private func record(_ nanoseconds: UInt64, of index: Int) {
        result.latencies.record(nanoseconds: nanoseconds)
        // Calls that warm up have no place.
        guard index < result.endpoints.count else { return }
        result.endpoints[index].calls += 1
        result.endpoints[index].nanoseconds &+= nanoseconds
        result.endpoints[index].maximum = max(result.endpoints[index].maximum, nanoseconds)
    }
}

/// The buffers of one loop of a self-test.
@safe private final class SelfTestWorker {
    private let context: Context
    private let options: SelfTest.Options
    private var request = SelfTest.TransferRequest()
    private let transfers: Bool
    /// What goes with requests, beside them or by bulk transfer.
    private let source: RegisteredBuffer
    private let sourceRange: Range<Int>
    /// Where bulk replies arrive.
    private var target: RegisteredBuffer?
    private let targetRange: Range<Int>
    private let hasPayload: Bool
    private var exposed: [BulkHandle] = []
    private let received = Received()
    /// Made once: a closure for each call would cost three allocations.
    private let receive: (UnsafeRawBufferPointer) -> Void

    /// The raw bytes beside the reply to the call under way.
    private final class Received {
        var count = 0
        /// What its bytes were made from; nil when nobody looks at them.
        var seed: UInt64?
        var difference: RPCError?

        func take(_ bytes: UnsafeRawBufferPointer) {
            count = bytes.count
            guard let seed else { return }
            do throws(RPCError) {
                try unsafe SelfTestBytes.check(bytes, seed: seed, "reply")
            } catch {
                difference = error
            }
        }
    }

    init(_ context: Context, _ options: SelfTest.Options) throws(RPCError) {
        self.context = context
        self.options = options
        unsafe receive = { [received] bytes in unsafe received.take(bytes) }
        let start = options.alignment
        sourceRange = start..<start + options.request.size
        targetRange = start..<start + options.reply.size
        source = try context.makeBuffer(count: sourceRange.upperBound)
        unsafe SelfTestBytes.fill(
            UnsafeMutableRawBufferPointer(rebasing: source.bytes[sourceRange]), seed: 0)
        if case .inline(let size) = options.request {
            hasPayload = size > 0
        } else {
            hasPayload = false
        }
        if case .bulk = options.request {
            transfers = true
        } else if case .bulk = options.reply {
            transfers = true
        } else {
            transfers = options.verify
        }
        request.alignment = UInt16(options.alignment)
        do throws(RPCError) {
            if case .bulk(let size) = options.request, size > 0 {
                exposed.append(
                    try context.expose(source, range: sourceRange, access: .remoteRead))
                request.get = exposed[0].descriptor
            }
            switch options.reply {
            case .bulk(let size) where size > 0:
                let buffer = try context.makeBuffer(count: targetRange.upperBound)
                let handle = try context.expose(
                    buffer, range: targetRange, access: .remoteWrite)
                exposed.append(handle)
                target = buffer
                request.put = handle.descriptor
            case .empty, .bulk, .inline:
                request.replySize = UInt32(options.reply.size)
            }
        } catch {
            end()
            throw error
        }
    }

    func call(
        _ destination: Destination, number: UInt64, deadline: Deadline
    ) async throws(RPCError) {
        let bytes = unsafe UnsafeMutableRawBufferPointer(rebasing: source.bytes[sourceRange])
        if options.verify {
            request.seed = number
            unsafe SelfTestBytes.fill(bytes, seed: SelfTestBytes.requestSeed(number))
        }
        let payload = hasPayload ? UnsafeRawBufferPointer(bytes) : nil
        received.count = 0
        received.seed = options.verify ? SelfTestBytes.replySeed(number) : nil
        guard transfers else {
            let echo = SelfTest.EchoRequest(
                replySize: request.replySize, alignment: request.alignment)
            _ = try unsafe await context.call(
                SelfTest.echo, echo, to: destination, payload: payload,
                deadline: deadline, onReplyPayload: receive)
            guard received.count == Int(request.replySize) else { throw .badMessage }
            return
        }
        let answer = try unsafe await context.call(
            SelfTest.transfer, request, to: destination, payload: payload, exposing: exposed,
            deadline: deadline, onReplyPayload: receive)
        if let difference = received.difference { throw difference }
        guard received.count == Int(request.replySize) else { throw .badMessage }
        if request.get != nil,
            unsafe answer.checksum != SelfTestBytes.sample(UnsafeRawBufferPointer(bytes))
        {
            throw .application(
                code: SelfTest.ErrorCode.badContent, message: "the server saw other bytes")
        }
        if options.verify, let target {
            let bytes = unsafe UnsafeRawBufferPointer(rebasing: target.bytes[targetRange])
            try unsafe SelfTestBytes.check(
                bytes, seed: SelfTestBytes.replySeed(number), "reply")
        }
    }

    func end() {
        for handle in exposed { context.withdraw(handle) }
        exposed = []
    }
}
