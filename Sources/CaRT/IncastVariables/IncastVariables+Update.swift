internal import DrayRuntime

/// An update or invalidation on its way to the owner.
struct IncastChange<Value> {
    var id: IncastUpdateID
    /// Nil for an invalidation.
    var value: Value?
    var sync: IncastSync
    var isBidirectional: Bool
    /// When no attempt is made any more.
    var expires: IncastLimit
}

/// What a change came to.
struct IncastChanged<Value> {
    var version: UInt64
    /// What the owner has, when that was asked for.
    var value: Value?
    var reach = IncastProtocol.Reach()
    /// It did not get to the owner.
    var isAbsorbed = false
}

extension IncastVariables {
    func change(
        _ key: Key, _ value: Value?, _ sync: IncastSync, isBidirectional: Bool,
        _ shortcut: IncastShortcut, requiresAll: Bool, _ deadline: Deadline, _ trace: UInt64
    ) async throws(IncastError) -> IncastOutcome {
        namespace.count {
            $0.updates += 1
            if value == nil { $0.invalidations += 1 }
        }
        let limit = namespace.limit(of: deadline)
        let change = IncastChange(
            id: IncastUpdateID(instance: context.instance, number: nextUpdate), value: value,
            sync: sync, isBidirectional: isBidirectional, expires: limit)
        nextUpdate += 1
        let turn = kind.isOrdered ? enter(.calls, key) : nil
        if let turn {
            do throws(RPCError) {
                try await wait(for: turn, until: limit)
            } catch {
                throw error == .timedOut
                    ? .timedOut(last: error) : error == .cancelled ? .cancelled : .call(error)
            }
        }
        defer { if let turn { leave(turn) } }
        let changed = try await attempts(key, shortcut, .at(limit.wall), trace) {
            [self] (operation, place) throws(RPCError) in
            let changed = try await self.change(key, change, operation, place)
            // The caller has seen the version: nothing older is given out to it afterwards.
            if !place.isOwner { on(.given(changed.version), key, place) }
            return changed
        }
        var outcome = IncastOutcome(version: changed.version)
        outcome.reached = changed.reach.reached
        outcome.missed = changed.reach.missed
        if requiresAll, !outcome.missed.isEmpty { throw .incomplete(outcome) }
        return outcome
    }

    /// A change at this rank: begun here, or on its way.
    func change(
        _ key: Key, _ change: IncastChange<Value>, _ operation: IncastOperation,
        _ place: IncastPlace
    ) async throws(RPCError) -> IncastChanged<Value> {
        await kind.willUpdate(key, at: place)
        try await kind.beginAccess(key, .writing, at: place)
        defer { kind.endAccess(key, .writing, at: place) }
        try namespace.check(place)
        if place.isOwner { return try await changeAsOwner(key, change, operation, place) }
        var change = change
        if let value = change.value {
            switch try await kind.update(key, value, update: change.id, at: place) {
            case .forward(let value): change.value = value
            case .absorbed(let version):
                guard version < .max else { throw .badMessage }
                return IncastChanged(version: version, isAbsorbed: true)
            }
            try namespace.check(place)
        }
        return try await forward(key, change, operation, place)
    }

    private func forward(
        _ key: Key, _ change: IncastChange<Value>, _ operation: IncastOperation,
        _ place: IncastPlace
    ) async throws(RPCError) -> IncastChanged<Value> {
        let target = try next(place, operation)
        let request = IncastProtocol.UpdateRequest(
            address: try address(key, place), instance: change.id.instance,
            update: change.id.number, expires: change.expires.wall, sync: change.sync,
            isBidirectional: change.isBidirectional, value: change.value.map { sent($0) })
        let result = await namespace.ask(
            IncastProtocol.update, request, to: target, place: place, limit: operation.limit,
            for: operation)
        var ended: Result<IncastChanged<Value>, RPCError> = .failure(.noReply)
        try await namespace.respond(number: kind.number, source: target) { [self] in
            do throws(RPCError) {
                ended = .success(try await answered(try result.get(), key, operation, place))
            } catch {
                ended = .failure(error)
            }
        }
        return try ended.get()
    }

    /// The answer is on its way down: this rank learns of the version, or gets the value.
    private func answered(
        _ reply: IncastProtocol.UpdateReply, _ key: Key, _ operation: IncastOperation,
        _ place: IncastPlace
    ) async throws(RPCError) -> IncastChanged<Value> {
        var changed = IncastChanged<Value>(version: reply.version, reach: reply.reach)
        if let bytes = reply.value { changed.value = try received(bytes) }
        try namespace.check(place)
        do throws(RPCError) {
            let news: IncastNews<Value> =
                changed.value.map { .value(IncastVersioned($0, version: reply.version)) }
                ?? .stale(below: reply.version)
            try await take(news, key, operation.limit, place)
        } catch {
            // The change is done; that this rank keeps no copy of it does no harm.
            try namespace.check(place)
        }
        return changed
    }

    // MARK: - At the owner

    private func changeAsOwner(
        _ key: Key, _ change: IncastChange<Value>, _ operation: IncastOperation,
        _ place: IncastPlace
    ) async throws(RPCError) -> IncastChanged<Value> {
        guard change.expires.end > xstream.now else { throw .timedOut }
        let number = namespace.makeNumber()
        let margin = HybridLogicalClock.uncertaintyMax + .seconds(1)
        defer { armExpiry() }
        let stored: IncastVersioned<Value>
        let spread: Turn?
        switch updates.begin(
            change.id, waiter: number,
            forgetAt: (change.expires.end + margin).nanoseconds, now: xstream.now.nanoseconds)
        {
        case .store:
            (stored, spread) = try await store(key, change, place)
        case .wait:
            namespace.count { $0.updatesRepeated += 1 }
            let wait = IncastWait<UInt64>()
            updateWaits[number] = wait
            let result = await operation.result(of: wait, on: xstream)
            updateWaits[number] = nil
            (stored, spread) = try await repeated(key, try result.get(), change, place)
        case .answer(let version):
            namespace.count { $0.updatesRepeated += 1 }
            (stored, spread) = try await repeated(key, version, change, place)
        case .full: throw .overloaded
        }
        var changed = IncastChanged<Value>(version: stored.version)
        if change.isBidirectional { changed.value = stored.value }
        do throws(RPCError) {
            // Stored it is. If the group has changed, the caller asks its owner of now, which may
            // be another one, or us again: then it is spread over the new tree.
            try namespace.check(place)
        } catch {
            if let spread { abandon(spread) }
            throw error
        }
        switch change.sync {
        case .none: break
        case .eager(let event):
            changed.reach = try await spreadEagerly(
                event, stored, key, operation.limit, spread, place)
        case .lazy(let event): spreadLazily(event, stored, key, spread, place)
        }
        return changed
    }

    /// Stores a change, and tells all that wait for it. An ordered class's news get their turn.
    private func store(
        _ key: Key, _ change: IncastChange<Value>, _ place: IncastPlace
    ) async throws(RPCError) -> (IncastVersioned<Value>, Turn?) {
        do throws(RPCError) {
            let turn = kind.isOrdered ? enter(.stores, key) : nil
            if let turn { try await wait(for: turn, until: change.expires) }
            defer { if let turn { leave(turn) } }
            try namespace.check(place)
            let stored = try await kind.store(
                change.value, for: key, version: context.clock.now(), update: change.id,
                at: place)
            precondition(stored.version < .max, "a version is too large")
            namespace.count { $0.updatesStored += 1 }
            for waiter in updates.ended(change.id, stored.version) {
                updateWaits[waiter]?.finish(.success(stored.version))
            }
            let isSpread = kind.isOrdered && change.sync != .none
            return (stored, isSpread ? enter(.spreads, key) : nil)
        } catch {
            for waiter in updates.ended(change.id, nil) {
                updateWaits[waiter]?.finish(.failure(error))
            }
            throw error
        }
    }

    /// A change that was stored before: what goes out now is what we have now.
    private func repeated(
        _ key: Key, _ version: UInt64, _ change: IncastChange<Value>, _ place: IncastPlace
    ) async throws(RPCError) -> (IncastVersioned<Value>, Turn?) {
        let isSpread = kind.isOrdered && change.sync != .none
        let turn = isSpread ? enter(.spreads, key) : nil
        do throws(RPCError) {
            let value = try await kind.load(key, at: place)
            return (value, turn)
        } catch {
            if let turn { abandon(turn) }
            throw error
        }
    }

    /// Forgets remembered updates in time.
    private func armExpiry() {
        guard expiry?.isPending != true, let next = updates.nextExpiry else { return }
        expiry = xstream.schedule(at: Instant(nanoseconds: next)) { [weak self] in
            guard let self else { return }
            expiry = nil
            updates.expire(now: xstream.now.nanoseconds)
            armExpiry()
        }
    }

    // MARK: - For others

    func serve(
        _ request: IncastProtocol.UpdateRequest, _ operation: IncastOperation
    ) async throws(RPCError) -> IncastProtocol.UpdateReply {
        namespace.count { $0.updatesReceived += 1 }
        let (key, place) = try place(of: request.address, operation)
        let change = IncastChange<Value>(
            id: IncastUpdateID(instance: request.instance, number: request.update),
            value: try request.value.map { (bytes) throws(RPCError) in try received(bytes) },
            sync: request.sync, isBidirectional: request.isBidirectional,
            expires: namespace.limit(of: .at(request.expires)))
        let changed = try await self.change(key, change, operation, place)
        return IncastProtocol.UpdateReply(
            version: changed.version, value: changed.value.map { sent($0) }, reach: changed.reach)
    }
}
