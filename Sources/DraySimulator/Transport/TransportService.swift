package import CaRT
internal import DrayFabric
internal import DrayRuntime

/// The handlers of a transport under test.
package struct TransportService {
    private let ledger: TransportLedger

    package init(ledger: TransportLedger) { self.ledger = ledger }

    /// Answers on `context`.
    package func register(on context: Context) {
        context.register(TransportProtocol.echo) { message, request throws(RPCError) in
            ledger.begin(message)
            return reply(to: message)
        }
        context.registerSynchronous(TransportProtocol.synchronous) {
            message, request throws(RPCError) in
            ledger.begin(message)
            return reply(to: message)
        }
        context.register(TransportProtocol.fail) { message, request throws(RPCError) in
            ledger.begin(message)
            throw TransportProtocol.failure(message.number)
        }
        context.register(TransportProtocol.note) { message, request throws(RPCError) in
            ledger.begin(message)
            ledger.counts.notesReceived += 1
            if !request.isOneWay { ledger.violation("a note asks for a reply") }
            return reply(to: message)
        }
        context.register(TransportProtocol.slow) { message, request throws(RPCError) in
            ledger.begin(message)
            try await request.sleep(for: .microseconds(Int64(message.delay)))
            return reply(to: message)
        }
        registerPayload(context)
        registerDeferred(context)
        registerTransfers(context)
        registerForward(context)
    }

    private func reply(to request: TransportRequest) -> TransportReply {
        TransportReply(
            number: request.number,
            bytes: NumberedBytes(request.number, .reply).make(Int(request.replySize)))
    }

    private func registerPayload(_ context: Context) {
        context.register(TransportProtocol.payload) { message, request throws(RPCError) in
            ledger.begin(message)
            let count = unsafe request.payload.count
            if !(unsafe NumberedBytes(message.number, .requestPayload).match(request.payload)) {
                ledger.violation("a request's payload is another's")
            }
            if message.delay > 0 {
                // Holds the receive meanwhile.
                await request.context.xstream.sleep(for: .microseconds(Int64(message.delay)))
                if !(unsafe NumberedBytes(message.number, .requestPayload).match(request.payload)) {
                    ledger.violation("a request's payload has changed while it was held")
                }
            }
            request.releasePayload()
            let buffer = IOBuffer(count: max(1, count))
            unsafe NumberedBytes(message.number, .replyPayload).fill(buffer.bytes)
            unsafe request.setReplyPayload(
                UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<count]), keeping: buffer)
            return reply(to: message)
        }
    }

    private func registerDeferred(_ context: Context) {
        context.registerDeferred(TransportProtocol.deferred) { message, answer in
            ledger.begin(message)
            let xstream = answer.request.context.xstream
            let time = xstream.now + .microseconds(Int64(message.delay))
            xstream.schedule(at: time) {
                if message.isDropped { return withExtendedLifetime(answer) {} }
                answer.reply(reply(to: message))
                // Only the first answer counts.
                answer.fail(.noReply)
            }
        }
    }

    private func registerTransfers(_ context: Context) {
        context.register(TransportProtocol.get) { message, request throws(RPCError) in
            ledger.begin(message)
            do throws(RPCError) {
                guard let memory = message.memory else { throw .badMessage }
                let parts = try parts(of: memory, on: request.context)
                try await request.context.bulkGet(
                    memory, into: parts, deadline: .at(request.deadline), for: request)
                var start = 0
                for part in parts {
                    let bytes = unsafe UnsafeRawBufferPointer(part.buffer.bytes)
                    if !(unsafe NumberedBytes(message.number, .memory).match(bytes, from: start)) {
                        ledger.violation("memory that was read is not the caller's")
                    }
                    start += part.range.count
                }
            } catch {
                throw TransportProtocol.unable(message.number, error)
            }
            return reply(to: message)
        }
        context.register(TransportProtocol.put) { message, request throws(RPCError) in
            ledger.begin(message)
            do throws(RPCError) {
                guard let memory = message.memory else { throw .badMessage }
                let parts = try parts(of: memory, on: request.context)
                var start = 0
                for part in parts {
                    unsafe NumberedBytes(message.number, .memory).fill(
                        part.buffer.bytes, from: start)
                    start += part.range.count
                }
                try await request.context.bulkPut(
                    memory, from: parts, deadline: .at(request.deadline), for: request)
            } catch {
                throw TransportProtocol.unable(message.number, error)
            }
            return reply(to: message)
        }
    }

    /// Local memory for all of `memory`: two parts, whatever its segments are.
    private func parts(
        of memory: BulkVector, on context: Context
    ) throws(RPCError) -> [BulkPart] {
        let count = Int(memory.length)
        let first = count / 3
        var parts: [BulkPart] = []
        for size in [first, count - first] where size > 0 {
            parts.append(BulkPart(try context.makeBuffer(count: size)))
        }
        return parts
    }

    private func registerForward(_ context: Context) {
        context.register(TransportProtocol.forward) { message, request throws(RPCError) in
            ledger.begin(message)
            do throws(RPCError) {
                guard let next = message.next else { throw .badMessage }
                var onward = TransportRequest()
                onward.number = ~message.number
                onward.bytes = NumberedBytes(onward.number, .request).make(8)
                onward.replySize = 16
                let answer = try await request.context.call(
                    TransportProtocol.echo, onward, to: .address(next),
                    deadline: .at(request.deadline), trace: request.trace)
                if answer.number != onward.number
                    || !NumberedBytes(onward.number, .reply).match(answer.bytes)
                {
                    ledger.violation("a handler got the reply of another request")
                }
            } catch {
                throw TransportProtocol.unable(message.number, error)
            }
            return reply(to: message)
        }
    }
}
