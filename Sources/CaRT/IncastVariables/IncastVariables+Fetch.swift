internal import DrayRuntime

extension IncastVariables {
    /// A fetch at this rank: begun here, or on its way.
    func fetch(
        _ key: Key, _ demand: IncastKey<Value>.Demand, _ operation: IncastOperation,
        _ place: IncastPlace
    ) async throws(RPCError) -> Fetched {
        await kind.willFetch(key, at: place)
        try await kind.beginAccess(key, .reading, at: place)
        defer { kind.endAccess(key, .reading, at: place) }
        try namespace.check(place)
        if place.isOwner {
            let value = try await kind.load(key, at: place)
            // The group may have given the key to another member meanwhile.
            try namespace.check(place)
            return Fetched(value: value)
        }
        let step = try await kind.fetch(key, copy: keys[key]?.machine.copy, at: place)
        try namespace.check(place)
        var usesCopy = true
        switch step {
        case .copy: break
        case .forward: usesCopy = false
        case .answer(let value):
            if case .atLeast(let version) = demand,
                value.version >= max(version, keys[key]?.machine.known ?? 0),
                value.version < .max
            {
                on(.given(value.version), key, place)
                return Fetched(value: value)
            }
            usesCopy = false
        }
        return try await wait(for: key, demand, usesCopy: usesCopy, operation, place)
    }

    /// Waits for the copy or a flight.
    private func wait(
        for key: Key, _ demand: IncastKey<Value>.Demand, usesCopy: Bool,
        _ operation: IncastOperation, _ place: IncastPlace
    ) async throws(RPCError) -> Fetched {
        let number = namespace.makeNumber()
        let wait = IncastWait<Fetched>()
        fetchWaiters[number] = FetchWaiter(wait: wait, operation: operation)
        on(.fetch(waiter: number, demand, usesCopy: usesCopy), key, place)
        if wait.isFinished {
            namespace.count { $0.copiesUsed += 1 }
        } else if flights[number] == nil {
            namespace.count { $0.fetchesMerged += 1 }
        }
        let result = await operation.result(of: wait, on: xstream)
        // Unless the machine has answered.
        if fetchWaiters.removeValue(forKey: number) != nil, keys[key] != nil {
            on(.left(waiter: number), key, place)
        }
        return try result.get()
    }

    // MARK: - Flights

    /// Sends a fetch towards the owner for all that wait.
    func depart(
        _ flight: UInt64, _ demand: IncastKey<Value>.Demand, _ key: Key, _ place: IncastPlace
    ) {
        let passengers = (keys[key]?.machine.passengers ?? []).compactMap {
            fetchWaiters[$0]?.operation
        }
        guard let first = passengers.first else {
            preconditionFailure("a flight leaves with nobody on it")
        }
        // It goes on for as long as anybody waits.
        let last = passengers.max { $0.limit.end < $1.limit.end } ?? first
        let operation = IncastOperation(
            limit: last.limit, trace: first.trace, source: nil,
            isDirect: passengers.contains(where: \.isDirect))
        flights[flight] = operation
        namespace.count { $0.fetchesSent += 1 }
        var place = place
        place.source = nil
        place.trace = first.trace
        xstream.spawn { [self, place] in
            await fly(flight, demand, key, operation, place)
            flights[flight] = nil
        }
    }

    private func fly(
        _ flight: UInt64, _ demand: IncastKey<Value>.Demand, _ key: Key,
        _ operation: IncastOperation, _ place: IncastPlace
    ) async {
        let minimum: UInt64 =
            switch demand {
            case .atLeast(let version): version
            case .latest: .max
            }
        do throws(RPCError) {
            let target = try next(place, operation)
            let request = IncastProtocol.FetchRequest(
                address: try address(key, place), minimum: minimum)
            let result = await namespace.ask(
                IncastProtocol.fetch, request, to: target, place: place, limit: operation.limit,
                for: operation)
            try await namespace.respond(number: kind.number, source: target) {
                await self.landed(flight, result, key, operation, place)
            }
        } catch {
            fail(flight, error, key, place)
        }
    }

    /// The answer to a flight is here.
    private func landed(
        _ flight: UInt64, _ result: Result<IncastProtocol.FetchReply, RPCError>, _ key: Key,
        _ operation: IncastOperation, _ place: IncastPlace
    ) async {
        do throws(RPCError) {
            let reply = try result.get()
            let value = IncastVersioned<Value>(try received(reply.value), version: reply.version)
            try namespace.check(place)
            var keeps = false
            do throws(RPCError) {
                try await take(.value(value), key, operation.limit, place)
                keeps = keys[key]?.machine.copy?.version == value.version
            } catch {
                // The class will not have it, or something newer is on its way: the value is only
                // given out.
            }
            guard namespace.group.version == place.groupVersion, keys[key] != nil else { return }
            on(.landed(flight: flight, value, keeps: keeps), key, place)
        } catch {
            if !namespace.isOver, namespace.group.version == place.groupVersion {
                await report(error, key, place)
            }
            fail(flight, error, key, place)
        }
    }

    private func fail(_ flight: UInt64, _ error: RPCError, _ key: Key, _ place: IncastPlace) {
        // A change of the group has ended the flight already, for the machine.
        guard namespace.group.version == place.groupVersion, keys[key] != nil else { return }
        on(.failed(flight: flight, error), key, place)
    }

    /// Tells the class of a fetch that failed.
    private func report(_ failure: RPCError, _ key: Key, _ place: IncastPlace) async {
        await kind.willRefresh(key, at: place)
        do throws(RPCError) {
            try await kind.refresh(key, .failed(failure), at: place)
        } catch {
            // There is nothing that it could refuse.
            return
        }
    }

    // MARK: - For others

    func serve(
        _ request: IncastProtocol.FetchRequest, _ operation: IncastOperation
    ) async throws(RPCError) -> IncastProtocol.FetchReply {
        namespace.count { $0.fetchesReceived += 1 }
        let (key, place) = try place(of: request.address, operation)
        let demand: IncastKey<Value>.Demand =
            request.minimum == .max ? .latest : .atLeast(request.minimum)
        // Whoever asked knows what it needs, and refuses what is older.
        let value = try await fetch(key, demand, operation, place).value
        guard value.version < .max else { throw .badMessage }
        return IncastProtocol.FetchReply(version: value.version, value: sent(value.value))
    }
}
