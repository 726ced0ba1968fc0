import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

@Suite struct SelfTestTests {
    private func options(
        _ request: SelfTest.Load, _ reply: SelfTest.Load
    ) -> SelfTest.Options {
        var options = SelfTest.Options()
        options.request = request
        options.reply = reply
        options.inFlight = 4
        options.repetitions = 12
        options.warmUp = 2
        return options
    }

    private func code(_ error: RPCError?) -> UInt32? {
        if case .application(let code, _) = error { code } else { nil }
    }

    /// Every combination of empty, inline and bulk, with odd sizes and odd places, every byte
    /// compared at both ends.
    @Test(arguments: FabricKind.allCases)
    func allNineCombinationsComeThroughIntact(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            SelfTest.register(on: server)
            for size in [1, 777, 90_001] {
                let loads: [SelfTest.Load] = [.empty, .inline(size), .bulk(size)]
                for request in loads {
                    for reply in loads {
                        for (alignment, verify) in [(0, true), (3, true), (4095, false)] {
                            var options = options(request, reply)
                            options.alignment = alignment
                            options.verify = verify
                            let result = try await SelfTest.run(
                                on: client, to: [.address(server.address)], options: options)
                            #expect(result.repetitions == 12)
                            #expect(result.requestBytes == UInt64(12 * request.size))
                            #expect(result.replyBytes == UInt64(12 * reply.size))
                            #expect(result.endpoints.map(\.calls) == [12])
                        }
                    }
                }
            }
            #expect(client.usage.isIdle && server.usage.isIdle)
        }
    }

    /// Several contexts call several others, all at once.
    @Test(arguments: FabricKind.allCases)
    func manyMeasureMany(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let clients = try (0..<3).map { _ in try rig.makeContext() }
            let servers = try (0..<4).map { _ in try rig.makeContext() }
            for server in servers { SelfTest.register(on: server) }
            var options = options(.inline(100), .bulk(5000))
            options.repetitions = 42
            let destinations = servers.map { Destination.address($0.address) }
            var results: [SelfTest.Result] = []
            let fixed = options
            await concurrently(rig.xstream, 3) { index in
                do throws(SelfTest.Failure) {
                    results.append(
                        try await SelfTest.run(
                            on: clients[index], to: destinations, options: fixed))
                } catch {
                    Issue.record("\(error)")
                }
            }
            #expect(results.count == 3)
            for result in results {
                // 42 calls after 2 that warmed up, to four servers in turn.
                #expect(result.endpoints.map(\.calls) == [10, 10, 11, 11])
                #expect(result.endpoints.allSatisfy { $0.mean > .zero })
            }
            #expect(servers.map(\.counters.requestsReceived) == [33, 33, 33, 33])
            var all = SelfTest.Result()
            for result in results { all.merge(result) }
            #expect(all.repetitions == 126 && all.endpoints.count == 12)
            #expect(all.elapsed == results.map(\.elapsed).max())
        }
    }

    /// Members of a group with the self-test on all.
    private func group(_ rig: Rig, _ count: UInt32) throws -> [Context] {
        let contexts = try (0..<count).map { rank in try rig.makeContext { $0.rank = rank } }
        let members = contexts.enumerated().map {
            Group.Member(rank: UInt32($0.offset), addresses: [$0.element.address])
        }
        for context in contexts {
            try context.group.apply(.replace(members), version: 1)
            SelfTest.register(on: context)
        }
        return contexts
    }

    /// A member measures others, and itself, for a client that is in no group.
    @Test(arguments: FabricKind.allCases)
    func membersMeasureEachOther(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let members = try group(rig, 3)
            let client = try rig.makeContext()
            var options = options(.bulk(3000), .inline(50))
            options.verify = true
            let result = try await SelfTest.measure(
                from: .address(members[1].address),
                to: (0..<3).map { SelfTest.Member(rank: $0, tag: 0) }, options: options,
                on: client, deadline: .standard)
            #expect(result.repetitions == 12)
            #expect(result.endpoints.map(\.calls) == [4, 4, 4])
            #expect(members.map(\.counters.requestsSent) == [0, 14, 0])
            #expect(client.counters.requestsSent == 1)
        }
    }

    /// A member does not call who is not in its group, and says whose call failed.
    @Test func mastersNameWhatFailed() async throws {
        try await withRig(.simulated) { rig in
            let members = try group(rig, 2)
            let client = try rig.makeContext()
            let error = await failure { () async throws(RPCError) in
                try await SelfTest.measure(
                    from: .address(members[0].address), to: [SelfTest.Member(rank: 7, tag: 0)],
                    options: options(.empty, .empty), on: client, deadline: .standard)
            }
            #expect(code(error) == SelfTest.ErrorCode.callFailed)
            #expect("\(error ?? .closed)".contains("rank 7 tag 0"))
        }
    }

    /// A measurement that was given up ends at the master too, long before its calls are made.
    @Test(arguments: [FabricKind.tcp, .simulated])
    func aMeasurementEndsWithItsDeadline(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let members = try group(rig, 2)
            let client = try rig.makeContext()
            var options = options(.empty, .empty)
            options.repetitions = SelfTest.repetitionsMax
            let fixed = options
            let error = await failure { () async throws(RPCError) in
                try await SelfTest.measure(
                    from: .address(members[0].address), to: [SelfTest.Member(rank: 1, tag: 0)],
                    options: fixed, on: client, deadline: .after(.milliseconds(100)))
            }
            #expect(error == .timedOut || code(error) == SelfTest.ErrorCode.callFailed)
            try await rig.wait("the master is idle") { members[0].usage.isIdle }
            let sent = members[0].counters.requestsSent
            await rig.xstream.sleep(for: .milliseconds(50))
            #expect(members[0].counters.requestsSent == sent)
        }
    }

    @Test func onlySomeAreMeasuredForAtATime() async throws {
        try await withRig(.simulated) { rig in
            let members = try group(rig, 2)
            let client = try rig.makeContext()
            var options = options(.empty, .empty)
            options.repetitions = 2000
            let fixed = options
            var refused = 0
            var done = 0
            await concurrently(rig.xstream, SelfTestService.measurementsMax + 3) { _ in
                do throws(RPCError) {
                    _ = try await SelfTest.measure(
                        from: .address(members[0].address),
                        to: [SelfTest.Member(rank: 1, tag: 0)], options: fixed, on: client,
                        deadline: .standard)
                    done += 1
                } catch {
                    #expect(error == .overloaded)
                    refused += 1
                }
            }
            #expect(done == SelfTestService.measurementsMax)
            #expect(refused == 3)
        }
    }

    // MARK: - Bad parameters

    static let bad: [@Sendable (inout SelfTest.Options) -> Void] = [
        { $0.request = .inline(SelfTest.inlineSizeMax + 1) },
        { $0.reply = .bulk(SelfTest.bulkSizeMax + 1) }, { $0.reply = .inline(-1) },
        { $0.inFlight = 0 }, { $0.inFlight = SelfTest.inFlightMax + 1 },
        {
            $0.request = .bulk(SelfTest.bulkSizeMax)
            $0.inFlight = SelfTest.inFlightMax
        },
        { $0.repetitions = 0 }, { $0.repetitions = SelfTest.repetitionsMax + 1 },
        { $0.warmUp = -1 }, { $0.warmUp = SelfTest.warmUpMax + 1 }, { $0.alignment = -1 },
        { $0.alignment = 4096 }, { $0.timeout = .zero }, { $0.timeout = .seconds(3601) },
    ]

    /// Options out of their limits are refused by the caller, and by a master that gets them from
    /// a caller that does not look.
    @Test(arguments: bad.indices)
    func optionsOutOfLimitsAreRefused(index: Int) async throws {
        try await withRig(.simulated) { rig in
            let members = try group(rig, 2)
            let client = try rig.makeContext()
            var options = options(.empty, .empty)
            Self.bad[index](&options)
            #expect(options.problem != nil)
            do throws(SelfTest.Failure) {
                _ = try await SelfTest.run(
                    on: client, to: [.address(members[0].address)], options: options)
                Issue.record("measured")
            } catch {
                #expect(code(error.error) == SelfTest.ErrorCode.badOptions)
            }
            let fixed = options
            let error = await failure { () async throws(RPCError) in
                try await client.call(
                    SelfTest.measureProcedure,
                    SelfTest.MeasureRequest(
                        options: fixed, members: [SelfTest.Member(rank: 1, tag: 0)]),
                    to: .address(members[0].address))
            }
            // Negative numbers do not survive the wire as such.
            #expect(
                code(error) == SelfTest.ErrorCode.badOptions || error == .badMessage
                    || error == nil && [2, 8, 10].contains(index), "\(String(describing: error))")
            let none = await failure { () async throws(RPCError) in
                try await SelfTest.measure(
                    from: .address(members[0].address), to: [],
                    options: SelfTest.Options(), on: client, deadline: .standard)
            }
            #expect(code(none) == SelfTest.ErrorCode.badOptions)
        }
    }

    /// A server answers calls that no client of ours would make with errors.
    @Test func serversRefuseWhatIsTooMuch() async throws {
        try await withRig(.simulated) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            SelfTest.register(on: server)
            var huge = BulkDescriptor()
            huge.owner = client.address
            huge.length = UInt64(SelfTest.bulkSizeMax) + 1
            let requests = [
                SelfTest.TransferRequest(replySize: UInt32(SelfTest.inlineSizeMax) + 1),
                SelfTest.TransferRequest(replySize: .max), SelfTest.TransferRequest(get: huge),
                SelfTest.TransferRequest(put: huge), SelfTest.TransferRequest(alignment: 4096),
                SelfTest.TransferRequest(replySize: .max, alignment: .max, seed: 1),
            ]
            for request in requests {
                let error = await failure { () async throws(RPCError) in
                    try await client.call(SelfTest.transfer, request, to: .address(server.address))
                }
                #expect(
                    error == .messageTooLong || code(error) == SelfTest.ErrorCode.badOptions,
                    "\(String(describing: error))")
            }
            let echoes = [
                SelfTest.EchoRequest(replySize: UInt32(SelfTest.inlineSizeMax) + 1),
                SelfTest.EchoRequest(replySize: 1, alignment: .max),
            ]
            for request in echoes {
                let error = await failure { () async throws(RPCError) in
                    try await client.call(SelfTest.echo, request, to: .address(server.address))
                }
                #expect(
                    error == .messageTooLong || code(error) == SelfTest.ErrorCode.badOptions,
                    "\(String(describing: error))")
            }
            #expect(server.usage.isIdle)
        }
    }

    /// More memory than a service has: calls wait for each other, and all are served.
    @Test func callsWaitForMemory() async throws {
        try await withRig(.simulated) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            SelfTest.register(on: server)
            var options = options(.bulk(SelfTest.bulkSizeMax), .empty)
            options.inFlight = 9
            options.repetitions = 9
            options.warmUp = 0
            let result = try await SelfTest.run(
                on: client, to: [.address(server.address)], options: options)
            #expect(result.repetitions == 9)
        }
    }

    // MARK: - Content

    /// A server that changes one byte is found out.
    @Test(arguments: [SelfTest.Load.inline(1000), .bulk(1000)])
    func wrongRepliesAreFoundOut(load: SelfTest.Load) async throws {
        try await withRig(.simulated) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            server.register(SelfTest.transfer) { echo, request throws(RPCError) in
                let buffer = try request.context.makeBuffer(count: 1000)
                SelfTestBytes.fill(
                    buffer.bytes, seed: SelfTestBytes.replySeed(echo.seed ?? 0))
                buffer.bytes[517] ^= 4
                if let put = echo.put {
                    try await request.context.bulkPut(put, from: buffer, range: 0..<1000)
                } else {
                    request.setReplyPayload(
                        UnsafeRawBufferPointer(buffer.bytes), keeping: buffer)
                }
                return SelfTest.TransferReply()
            }
            server.registerSynchronous(SelfTest.echo) { echo, request throws(RPCError) in
                let buffer = try request.context.makeBuffer(count: 1000)
                request.setReplyPayload(UnsafeRawBufferPointer(buffer.bytes), keeping: buffer)
                return EmptyMessage()
            }
            var options = options(.empty, load)
            options.verify = true
            do throws(SelfTest.Failure) {
                _ = try await SelfTest.run(
                    on: client, to: [.address(server.address)], options: options)
                Issue.record("not found out")
            } catch {
                #expect(code(error.error) == SelfTest.ErrorCode.badContent)
                #expect("\(error)".contains("byte 517 of the 1000 of a reply"))
                #expect(error.destination == .address(server.address))
            }
            // Nobody looks where nobody was asked to.
            options.verify = false
            let result = try await SelfTest.run(
                on: client, to: [.address(server.address)], options: options)
            #expect(result.repetitions == 12)
        }
    }

    /// A request whose bytes are not those of its seed is refused, also where checksums are right.
    @Test(arguments: [false, true])
    func wrongRequestsAreFoundOut(bulk: Bool) async throws {
        try await withRig(.simulated) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            SelfTest.register(on: server)
            let buffer = try client.makeBuffer(count: 3001)
            SelfTestBytes.fill(buffer.bytes, seed: SelfTestBytes.requestSeed(5))
            buffer.bytes[3000] ^= 0x80
            let handle = try client.expose(buffer, access: .remoteRead)
            let error = await failure { () async throws(RPCError) in
                try await client.call(
                    SelfTest.transfer,
                    SelfTest.TransferRequest(seed: 5, get: bulk ? handle.descriptor : nil),
                    to: .address(server.address),
                    payload: bulk ? nil : UnsafeRawBufferPointer(buffer.bytes))
            }
            client.withdraw(handle)
            #expect(code(error) == SelfTest.ErrorCode.badContent)
            #expect("\(error ?? .closed)".contains("byte 3000 of the 3001 of a request"))
        }
    }

    /// What another user of the pool left in memory is not sent to whoever measures.
    @Test func repliesLeakNothing() async throws {
        try await withRig(.simulated) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            SelfTest.register(on: server)
            for _ in 0..<4 {
                let secret = try server.makeBuffer(count: 9000)
                for index in secret.bytes.indices { secret.bytes[index] = 0x5e }
            }
            var options = options(.empty, .bulk(9000))
            options.repetitions = 3
            let target = try client.makeBuffer(count: 9000)
            let handle = try client.expose(target, access: .remoteWrite)
            _ = try await client.call(
                SelfTest.transfer, SelfTest.TransferRequest(put: handle.descriptor),
                to: .address(server.address))
            client.withdraw(handle)
            #expect(SelfTestBytes.difference(in: .init(target.bytes), seed: 0) == nil)
        }
    }

    @Test func bytesTellSeedsAndPlacesApart() {
        for count in [0, 1, 7, 8, 9, 100] {
            let buffer = IOBuffer(count: 128)
            let bytes = UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[3..<3 + count])
            SelfTestBytes.fill(bytes, seed: 11)
            #expect(SelfTestBytes.difference(in: .init(bytes), seed: 11) == nil)
            for place in 0..<count {
                bytes[place] ^= 0x10
                #expect(SelfTestBytes.difference(in: .init(bytes), seed: 11) == place)
                bytes[place] ^= 0x10
            }
            if count >= 7 {
                #expect(SelfTestBytes.difference(in: .init(bytes), seed: 12) != nil)
            }
        }
    }
}
