package import CaRT
internal import DrayFabric
package import DrayRuntime

/// Calls of all kinds from one context, each checked: it ends in time, with the reply to its own
/// request or an error that may be. Knows no simulation. Confined to the context's xstream.
package final class TransportWorkload {
    package struct Setting {
        package var context: Context
        /// The upper half of its requests' numbers: nobody else has it, before or after.
        package var source: UInt32
        package var targets: [TransportTarget]
        package var ledger: TransportLedger
        package var entropy: Entropy
        /// The largest message and piece of memory.
        package var sizeMax = 40_000
        /// How much later than its deadline a call may end, where everything is in time.
        package var grace: Duration
        /// How long a lane waits between calls, at most.
        package var pauseMax: Duration = .milliseconds(4)

        package init(
            context: Context, source: UInt32, targets: [TransportTarget], ledger: TransportLedger,
            entropy: Entropy, grace: Duration
        ) {
            self.context = context
            self.source = source
            self.targets = targets
            self.ledger = ledger
            self.entropy = entropy
            self.grace = grace
        }
    }

    package let context: Context
    private let setting: Setting
    private let ledger: TransportLedger
    private let xstream: XStream
    private var entropy: Entropy
    private var sequence: UInt32 = 0
    private var lanes = 0
    private var isOver = false
    /// Calls that have not ended, in order.
    private var open: [UInt64: (kind: TransportPlan.Kind, begin: Instant)] = [:]
    private var lastBeat: Instant
    /// When the process last went on after it was stopped.
    private var lastResumption: Instant
    /// Everything in flight was cancelled or declared gone at this time, by the test.
    private var lastAbort: Instant?

    /// Replies that one target has given, for rates.
    package private(set) var repliesByTarget: [Int]

    /// How long memory stays exposed for a peer that does not say a word.
    private static let exposureGrace: Duration = .seconds(5)
    private static let beat: Duration = .milliseconds(5)

    package init(_ setting: Setting) {
        self.setting = setting
        context = setting.context
        ledger = setting.ledger
        xstream = setting.context.xstream
        entropy = setting.entropy
        lastBeat = xstream.now
        lastResumption = xstream.now
        repliesByTarget = Array(repeating: 0, count: setting.targets.count)
    }

    /// Calls that have not ended.
    package var openCount: Int { open.count }

    /// Whether all has ended, after `stop`.
    package var isDone: Bool { lanes == 0 && open.isEmpty }

    /// The oldest calls that have not ended, in words.
    package var openCalls: String {
        let now = xstream.now
        let oldest = open.sorted { $0.value.begin < $1.value.begin }.prefix(3)
        return oldest.map {
            "\(ledger.name($0.key)) (\($0.value.kind), for \(now.since($0.value.begin)))"
        }.joined(separator: ", ")
    }

    /// Begins to work in so many lanes.
    package func start(lanes count: Int) {
        lanes = count
        for _ in 0..<count {
            xstream.spawn { [self] in
                while !isOver {
                    await step()
                    let pause = setting.pauseMax.nanosecondsClamped
                    await xstream.sleep(for: .nanoseconds(Int64(entropy.below(pause + 1))))
                }
                lanes -= 1
            }
        }
        xstream.spawn { [self] in
            while !isDone {
                await xstream.sleep(for: TransportWorkload.beat)
                beat()
            }
        }
    }

    /// Ends the lanes once their calls have ended.
    package func stop() { isOver = true }

    /// Aborts all calls.
    package func abortAll() {
        lastAbort = xstream.now
        context.abortAll()
    }

    /// The process of a rank is gone for good.
    package func evict(rank: UInt32) { context.evict(rank: rank) }

    /// Notices that the process was stopped, or the machine was busy.
    private func beat() {
        let now = xstream.now
        let usual = TransportWorkload.beat + setting.grace / 2
        if now.since(lastBeat) > usual { lastResumption = now }
        lastBeat = now
    }

    // MARK: - One call

    private func step() async {
        let plan = TransportPlan(
            targets: setting.targets, sizeMax: setting.sizeMax, &entropy)
        guard let delay = plan.cancelAfter else { return await perform(plan) }
        await SuspendedTask.suspend { waiter in
            let task = xstream.spawnCancellable { [self] in
                await perform(plan)
                waiter.resume()
            }
            xstream.schedule(at: xstream.now + delay) { task.cancel() }
        }
    }

    private func nextNumber() -> UInt64 {
        sequence += 1
        return UInt64(setting.source) << 32 | UInt64(sequence)
    }

    private func perform(_ plan: TransportPlan) async {
        let number = nextNumber()
        let begin = xstream.now
        open[number] = (plan.kind, begin)
        ledger.counts.calls += 1
        do throws(RPCError) {
            try await run(plan, number)
            ledger.replied(number)
            if plan.kind == .note { ledger.counts.notesSent += 1 }
            if let index = setting.targets.firstIndex(of: plan.target) {
                repliesByTarget[index] += 1
            }
        } catch {
            ledger.counts.errors += 1
            if error == .cancelled { ledger.counts.cancelled += 1 }
            judge(error, plan, number, begin: begin)
        }
        open[number] = nil
        checkTime(plan, number, begin: begin)
    }

    /// Every call ends in time, unless the process could not know the time.
    private func checkTime(_ plan: TransportPlan, _ number: UInt64, begin: Instant) {
        beat()
        let now = xstream.now
        let patience = [plan.timeout, plan.cancelAfter].compactMap(\.self).min()
        guard let patience else { return }
        var limit = begin + patience
        limit = max(limit, lastResumption) + setting.grace
        if plan.exposes { limit = limit + TransportWorkload.exposureGrace }
        if now > limit {
            ledger.violation(
                "\(plan.kind) \(ledger.name(number)) with \(patience) took \(now.since(begin))")
        }
    }

    /// Whether a call may end with this error.
    private func judge(
        _ error: RPCError, _ plan: TransportPlan, _ number: UInt64, begin: Instant
    ) {
        let isGood: Bool
        switch error {
        case .timedOut: isGood = plan.timeout != nil
        case .unreachable, .peerRestarted: isGood = true
        case .closed: isGood = true
        case .cancelled: isGood = plan.cancelAfter != nil || (lastAbort ?? begin) > begin
        case .overloaded:
            isGood = true
            ledger.refuse(number, error)
        case .noReply: isGood = plan.kind == .dropped
        case .unknownProcedure:
            isGood = plan.kind == .unknown
            ledger.refuse(number, error)
        case .groupVersion:
            isGood = plan.kind == .wrongVersion
            ledger.refuse(number, error)
        case .wrongTag:
            isGood = plan.kind == .wrongTag
            ledger.refuse(number, error)
        case .application:
            isGood =
                error == TransportProtocol.failure(number) && plan.kind == .fail
                || isUnable(error, number)
                    && (plan.kind == .get || plan.kind == .put || plan.kind == .forward)
        case .wrongRank: isGood = plan.kind == .wrongTag && plan.target.rank == nil
        case .protocolVersion, .badMessage, .staleGroup, .clockSkew, .messageTooLong,
            .fabric:
            isGood = false
        }
        if !isGood {
            ledger.violation("\(plan.kind) \(ledger.name(number)) ended with '\(error)'")
        }
    }

    private func isUnable(_ error: RPCError, _ number: UInt64) -> Bool {
        guard case .application(let code, _) = error else { return false }
        return code == UInt32(truncatingIfNeeded: number)
            && error != TransportProtocol.failure(number)
    }

    private func run(_ plan: TransportPlan, _ number: UInt64) async throws(RPCError) {
        switch plan.kind {
        case .echo, .wrongVersion, .wrongTag:
            try await call(TransportProtocol.echo, plan, number)
        case .synchronous: try await call(TransportProtocol.synchronous, plan, number)
        case .deferred, .dropped: try await call(TransportProtocol.deferred, plan, number)
        case .slow: try await call(TransportProtocol.slow, plan, number)
        case .fail: try await call(TransportProtocol.fail, plan, number)
        case .forward: try await call(TransportProtocol.forward, plan, number)
        case .unknown: try await call(TransportProtocol.unknown, plan, number)
        case .payload: try await callWithPayload(plan, number)
        case .get, .put: try await callWithMemory(plan, number)
        case .note:
            try await context.send(
                TransportProtocol.note, plan.request(number), to: plan.destination,
                deadline: deadline(plan), options: plan.options)
        }
    }

    private func deadline(_ plan: TransportPlan) -> Deadline {
        plan.timeout.map { .after($0) } ?? .unlimited
    }

    private func call(
        _ procedure: Procedure<TransportRequest, TransportReply>, _ plan: TransportPlan,
        _ number: UInt64
    ) async throws(RPCError) {
        let answer = try await context.call(
            procedure, plan.request(number), to: plan.destination, deadline: deadline(plan),
            options: plan.options)
        check(answer, plan, number)
    }

    /// Whether the reply is the one to this request.
    private func check(_ answer: TransportReply, _ plan: TransportPlan, _ number: UInt64) {
        if max(plan.requestSize, plan.replySize) > TransportPlan.inlineMax {
            ledger.counts.spills += 1
        }
        let isRight =
            answer.number == number && answer.bytes.count == plan.replySize
            && NumberedBytes(number, .reply).match(answer.bytes)
        if !isRight {
            ledger.violation(
                "\(plan.kind) \(ledger.name(number)) got the reply to \(ledger.name(answer.number))"
            )
        }
        switch plan.kind {
        case .dropped, .fail, .unknown, .wrongTag, .wrongVersion:
            ledger.violation("\(plan.kind) \(ledger.name(number)) got a reply")
        case .echo, .synchronous, .payload, .deferred, .slow, .get, .put, .forward, .note:
            break
        }
    }

    private func callWithPayload(_ plan: TransportPlan, _ number: UInt64) async throws(RPCError) {
        let count = plan.requestSize
        let buffer = IOBuffer(count: max(1, count))
        unsafe NumberedBytes(number, .requestPayload).fill(buffer.bytes)
        let bytes = unsafe UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<count])
        var request = plan.request(number)
        request.bytes = NumberedBytes(number, .request).make(min(count, 16))
        var isRight = count == 0
        let answer = try await context.call(
            TransportProtocol.payload, request, to: plan.destination, payload: bytes,
            deadline: deadline(plan), options: plan.options
        ) { payload in
            isRight =
                unsafe payload.count == count
                && NumberedBytes(number, .replyPayload).match(payload)
        }
        withExtendedLifetime(buffer) {}
        check(answer, plan, number)
        if !isRight { ledger.violation("payload \(ledger.name(number)) came back wrong") }
    }

    /// The memory that a call exposes: one handle for each segment.
    private struct Memory {
        var buffers: [RegisteredBuffer] = []
        var handles: [BulkHandle] = []
    }

    private func expose(_ plan: TransportPlan, _ number: UInt64) throws(RPCError) -> Memory {
        var memory = Memory()
        var start = 0
        for size in plan.segments {
            let buffer = try context.makeBuffer(count: size)
            if plan.kind == .get {
                unsafe NumberedBytes(number, .memory).fill(buffer.bytes, from: start)
            } else {
                unsafe buffer.bytes.initializeMemory(as: UInt8.self, repeating: 0)
            }
            start += size
            memory.buffers.append(buffer)
            memory.handles.append(
                try context.expose(
                    buffer, access: plan.kind == .get ? .remoteRead : .remoteWrite))
        }
        return memory
    }

    private func callWithMemory(_ plan: TransportPlan, _ number: UInt64) async throws(RPCError) {
        let memory = try expose(plan, number)
        // The memory is ours again when the call has returned, whatever it returned.
        defer { for handle in memory.handles { context.withdraw(handle) } }
        var request = plan.request(number)
        request.memory = BulkVector(memory.handles)
        let answer = try await context.call(
            plan.kind == .get ? TransportProtocol.get : TransportProtocol.put, request,
            to: plan.destination, exposing: memory.handles, deadline: deadline(plan),
            options: plan.options)
        check(answer, plan, number)
        ledger.counts.transfers += 1
        guard plan.kind == .put else { return }
        var start = 0
        for buffer in memory.buffers {
            let bytes = unsafe UnsafeRawBufferPointer(buffer.bytes)
            if !(unsafe NumberedBytes(number, .memory).match(bytes, from: start)) {
                ledger.violation("put \(ledger.name(number)): the memory has other bytes")
            }
            start += buffer.count
        }
    }

    // MARK: - Rest

    /// Calls `target` until it answers. What went wrong last if it does not by `limit`.
    package func reach(_ target: TransportTarget, by limit: Instant) async -> String? {
        var last = "no time"
        while xstream.now < limit {
            let number = nextNumber()
            var request = TransportRequest()
            request.number = number
            do throws(RPCError) {
                _ = try await context.call(
                    TransportProtocol.echo, request, to: .address(target.address),
                    deadline: .after(.seconds(2)))
                return nil
            } catch {
                last = "\(error)"
                await xstream.sleep(for: .milliseconds(20))
            }
        }
        return last
    }
}
