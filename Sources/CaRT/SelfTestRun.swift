internal import DrayFabric
internal import DrayRuntime

/// The client side of one self-test: as many loops of calls as are in flight.
final class SelfTestRun {
    private let context: Context
    private let destination: Destination
    private let options: SelfTest.Options
    /// Nanoseconds of each call.
    var latencies: [UInt64] = []
    private var remaining = 0
    private var running = 0
    private var error: RPCError?
    /// Resumed by the last loop that ends.
    private var finished: SuspendedTask?

    init(context: Context, destination: Destination, options: SelfTest.Options) {
        self.context = context
        self.destination = destination
        self.options = options
        latencies.reserveCapacity(options.repetitions)
    }

    /// Makes `count` calls.
    func go(_ count: Int) async throws(RPCError) {
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
        if let error { throw error }
    }

    private func loop() async {
        do throws(RPCError) {
            let worker = try Worker(context, options)
            while remaining > 0, error == nil {
                remaining -= 1
                let start = context.xstream.now.nanoseconds
                try await worker.call(destination)
                latencies.append(context.xstream.now.nanoseconds - start)
            }
            worker.end()
        } catch {
            self.error = self.error ?? error
        }
    }

    /// The buffers of one loop.
    private final class Worker {
        private let context: Context
        private let options: SelfTest.Options
        private let echo: SelfTest.Echo
        private let source: RegisteredBuffer
        private let payloadSize: Int
        private var exposed: [BulkHandle] = []

        init(_ context: Context, _ options: SelfTest.Options) throws(RPCError) {
            self.context = context
            self.options = options
            source = try context.makeBuffer(count: options.request.size)
            let bytes = unsafe source.bytes
            for index in bytes.indices { unsafe bytes[index] = UInt8(truncatingIfNeeded: index) }
            var echo = SelfTest.Echo()
            var exposed: [BulkHandle] = []
            if case .bulk(let size) = options.request, size > 0 {
                exposed.append(try context.expose(source, access: .remoteRead))
                echo.get = exposed[0].descriptor
                payloadSize = 0
            } else {
                payloadSize = options.request.size
            }
            switch options.reply {
            case .bulk(let size) where size > 0:
                let target = try context.makeBuffer(count: size)
                let handle = try context.expose(target, access: .remoteWrite)
                exposed.append(handle)
                echo.put = handle.descriptor
            case .empty, .bulk, .inline:
                echo.replySize = UInt32(options.reply.size)
            }
            self.echo = echo
            self.exposed = exposed
        }

        func call(_ destination: Destination) async throws(RPCError) {
            let payload = unsafe payloadSize > 0 ? UnsafeRawBufferPointer(source.bytes) : nil
            var received = 0
            let answer = try await context.call(
                SelfTest.echo, echo, to: destination, payload: payload, exposing: exposed,
                deadline: .after(options.timeout)
            ) { bytes in received = bytes.count }
            guard received == Int(echo.replySize) else { throw .badMessage }
            if echo.get != nil {
                try unsafe SelfTest.check(answer, UnsafeRawBufferPointer(source.bytes))
            }
        }

        func end() {
            for handle in exposed { context.withdraw(handle) }
        }
    }

    /// The figures of everything measured since `latencies` was emptied.
    func result(elapsed: Duration) -> SelfTest.Result {
        let sorted = latencies.sorted()
        func percentile(_ fraction: Double) -> Duration {
            let index = min(sorted.count - 1, Int(Double(sorted.count) * fraction))
            return .nanoseconds(Int64(clamping: sorted[index]))
        }
        let seconds = Double(elapsed.nanosecondsClamped) / 1e9
        let rate = Double(sorted.count) / max(seconds, 1e-9)
        return SelfTest.Result(
            repetitions: sorted.count, elapsed: elapsed, rate: rate, minimum: percentile(0),
            median: percentile(0.5), percentile99: percentile(0.99),
            percentile999: percentile(0.999), maximum: percentile(1),
            requestBandwidth: rate * Double(options.request.size),
            replyBandwidth: rate * Double(options.reply.size))
    }
}
