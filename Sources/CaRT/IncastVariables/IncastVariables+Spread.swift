internal import DrayRuntime

extension IncastVariables {
    // MARK: - From the owner

    /// Spreads news before the update returns.
    ///
    /// - Throws: `.groupVersion` when members with another version of the group missed them: then
    ///   the whole is tried again.
    func spreadEagerly(
        _ event: IncastSync.Event, _ stored: IncastVersioned<Value>, _ key: Key,
        _ limit: IncastLimit, _ turn: Turn?, _ place: IncastPlace
    ) async throws(RPCError) -> IncastProtocol.Reach {
        if let turn { try await wait(for: turn, until: limit) }
        defer { if let turn { leave(turn) } }
        try namespace.check(place)
        // What is missed must be known a little before the caller's time is over.
        let reach = try await spread(
            event == .update ? stored.value : nil, version: stored.version, key,
            limit.eighths(7, from: xstream.now), place)
        try namespace.check(place)
        guard !reach.isStale else { throw .groupVersion }
        return reach
    }

    /// Spreads news after the update has returned; again when the group changes meanwhile, for as
    /// long as a call may take.
    func spreadLazily(
        _ event: IncastSync.Event, _ stored: IncastVersioned<Value>, _ key: Key, _ turn: Turn?,
        _ place: IncastPlace
    ) {
        lazyCount += 1
        let limit = namespace.limit(of: .standard)
        xstream.spawn { [self] in
            defer { lazyCount -= 1 }
            if let turn {
                do throws(RPCError) {
                    try await wait(for: turn, until: limit)
                } catch {
                    // Too many before it: those that come after it are newer.
                    return
                }
            }
            await spreadUntilDone(event, stored, key, limit, place)
            if let turn { leave(turn) }
        }
    }

    private func spreadUntilDone(
        _ event: IncastSync.Event, _ stored: IncastVersioned<Value>, _ key: Key,
        _ limit: IncastLimit, _ place: IncastPlace
    ) async {
        var (place, stored) = (place, stored)
        var attempt = 0
        while xstream.now < limit.end {
            let last = place.groupVersion
            do throws(IncastError) {
                place = try self.place(of: key, trace: place.trace)
            } catch {
                return
            }
            // Another owner has its own news.
            guard place.isOwner else { return }
            do throws(RPCError) {
                if place.groupVersion != last {
                    // News are as new as the group that they are for.
                    stored = try await kind.load(key, at: place)
                    try namespace.check(place)
                }
                let reach = try await spread(
                    event == .update ? stored.value : nil, version: stored.version, key, limit,
                    place)
                if !reach.isStale, namespace.group.version == place.groupVersion { return }
            } catch {
                // The class will not have them spread.
                guard error.isTransient else { return }
            }
            await namespace.pause(attempt: attempt, place: place, limit: limit)
            attempt += 1
        }
    }

    /// Gives up a turn that was not waited for.
    func abandon(_ turn: Turn) {
        turnWaits[turn.number] = nil
        if !turns.giveUp(turn.number, turn.place) { leave(turn) }
    }

    // MARK: - Down the tree

    /// Sends news to all ranks below us.
    private func spread(
        _ value: Value?, version: UInt64, _ key: Key, _ limit: IncastLimit, _ place: IncastPlace
    ) async throws(RPCError) -> IncastProtocol.Reach {
        let branch = try namespace.branch(place)
        let children = branch.children(of: branch.position)
        guard !children.isEmpty else { return IncastProtocol.Reach() }
        let request = IncastProtocol.RefreshRequest(
            address: try address(key, place), version: version, value: value?.encoded())
        try await kind.willSpread(key, version: version, at: place)
        try namespace.check(place)
        return await send(request, to: children, branch, limit, place)
    }

    /// Sends news to members and waits for what became of them and those below.
    private func send(
        _ request: IncastProtocol.RefreshRequest, to children: [Int], _ branch: IncastBranch,
        _ limit: IncastLimit, _ place: IncastPlace
    ) async -> IncastProtocol.Reach {
        var reach = IncastProtocol.Reach()
        var left = children.count
        let wait = IncastWait<Void>()
        for child in children {
            xstream.spawn { [self] in
                reach.add(await send(request, to: child, branch, limit, place))
                left -= 1
                if left == 0 { wait.finish(.success(())) }
            }
        }
        // Each ends by the limit.
        if !children.isEmpty { _ = await wait.result(until: .never, on: xstream) }
        return reach
    }

    private func send(
        _ request: IncastProtocol.RefreshRequest, to child: Int, _ branch: IncastBranch,
        _ limit: IncastLimit, _ place: IncastPlace
    ) async -> IncastProtocol.Reach {
        guard namespace.group.version == place.groupVersion else {
            return all(below: child, branch, isStale: true)
        }
        let rank = branch.rank(child)
        namespace.count {
            $0.refreshesSent += 1
            $0.valueBytesSent += request.value?.count ?? 0
        }
        let result = await namespace.ask(
            IncastProtocol.refresh, request, to: rank, place: place, limit: limit, for: nil)
        var failure = RPCError.noReply
        do throws(RPCError) {
            var reach: IncastProtocol.Reach?
            try await namespace.respond(number: kind.number, source: rank) {
                reach = try? result.get().reach
            }
            if let reach {
                // A child accounts for those below it, and for no others.
                guard reach.reached >= 0, namespace.group.version == place.groupVersion,
                    reach.reached + reach.missed.count == branch.size(of: child)
                else { throw .badMessage }
                return reach
            }
            if case .failure(let error) = result { failure = error }
        } catch {
            failure = error
        }
        return await miss(child, failure, request, branch, limit, place)
    }

    /// A child did not answer: those below it are sent the news by us, if there is time.
    private func miss(
        _ child: Int, _ error: RPCError, _ request: IncastProtocol.RefreshRequest,
        _ branch: IncastBranch, _ limit: IncastLimit, _ place: IncastPlace
    ) async -> IncastProtocol.Reach {
        guard namespace.group.version == place.groupVersion else {
            return all(below: child, branch, isStale: true)
        }
        let isStale = error == .groupVersion || error == .staleGroup || error == .wrongRank
        guard error != .timedOut, error != .cancelled, xstream.now < limit.end else {
            return all(below: child, branch, isStale: isStale)
        }
        var reach = IncastProtocol.Reach(isStale: isStale)
        reach.missed.add(branch.rank(child))
        let adopted = branch.children(of: child)
        reach.add(await send(request, to: adopted, branch, limit, place))
        return reach
    }

    /// A child and all below it were missed.
    private func all(
        below child: Int, _ branch: IncastBranch, isStale: Bool = false
    ) -> IncastProtocol.Reach {
        var reach = IncastProtocol.Reach(isStale: isStale)
        for rank in branch.ranks(below: child) { reach.missed.add(rank) }
        return reach
    }

    // MARK: - For others

    func serve(
        _ request: IncastProtocol.RefreshRequest, _ operation: IncastOperation
    ) async throws(RPCError) -> IncastProtocol.RefreshReply {
        namespace.count { $0.refreshesReceived += 1 }
        let (key, place) = try place(of: request.address, operation)
        guard !place.isOwner else { throw .wrongRank }
        let value: Value? = try request.value.map { (bytes) throws(RPCError) in
            try received(bytes)
        }
        // Both at a time: ours, and those below, which are the longer way.
        var reach = IncastProtocol.Reach()
        let wait = IncastWait<Void>()
        xstream.spawn { [self] in
            reach = await passOn(value, request, key, operation, place)
            wait.finish(.success(()))
        }
        var failure: RPCError?
        do throws(RPCError) {
            let news: IncastNews<Value> =
                value.map { .value(IncastVersioned($0, version: request.version)) }
                ?? .stale(below: request.version)
            try await take(news, key, operation.limit, place)
        } catch {
            failure = error
        }
        _ = await wait.result(until: .never, on: xstream)
        try namespace.check(place)
        if failure == nil { reach.reached += 1 } else { reach.missed.add(place.rank) }
        return IncastProtocol.RefreshReply(reach: reach)
    }

    private func passOn(
        _ value: Value?, _ request: IncastProtocol.RefreshRequest, _ key: Key,
        _ operation: IncastOperation, _ place: IncastPlace
    ) async -> IncastProtocol.Reach {
        do throws(RPCError) {
            // Our answer must be there before the time of whoever sent the news is over.
            return try await spread(
                value, version: request.version, key,
                operation.limit.eighths(7, from: xstream.now), place)
        } catch {
            // If the group has changed, whoever sent the news hears of that.
            var reach = IncastProtocol.Reach()
            guard namespace.group.version == place.groupVersion,
                let branch = try? namespace.branch(place)
            else { return reach }
            for child in branch.children(of: branch.position) {
                reach.add(all(below: child, branch))
            }
            return reach
        }
    }
}
