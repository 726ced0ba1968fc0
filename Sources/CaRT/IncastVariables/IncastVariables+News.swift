internal import DrayRuntime

extension IncastVariables {
    // MARK: - At a rank

    /// Takes news of a variable in: one after another, and only what is new.
    ///
    /// - Throws: what the class throws; then no copy is kept.
    func take(
        _ news: IncastNews<Value>, _ key: Key, _ limit: IncastLimit, _ place: IncastPlace
    ) async throws(RPCError) {
        let version: UInt64
        switch news {
        case .value(let value): version = value.version
        case .stale(let below): version = below
        case .failed: preconditionFailure("a failure is no version")
        }
        // Whatever becomes of the news: from now on nothing older is given out.
        on(.notice(version), key, place)
        guard isNews(news, version, key) else { return }
        try await withTurn(.news, key, until: limit) { () throws(RPCError) in
            try namespace.check(place)
            guard isNews(news, version, key) else { return }
            await kind.willRefresh(key, at: place)
            try await kind.beginAccess(key, .writing, at: place)
            defer { kind.endAccess(key, .writing, at: place) }
            try await kind.refresh(key, news, at: place)
            try namespace.check(place)
            if case .value(let value) = news { on(.value(value), key, place) }
            keys[key]?.told = version
        }
    }

    private func isNews(_ news: IncastNews<Value>, _ version: UInt64, _ key: Key) -> Bool {
        guard let state = keys[key], version >= state.machine.known else { return false }
        return switch news {
        case .value: state.machine.copy?.version != version
        case .stale: version > state.told
        case .failed: false
        }
    }

    // MARK: - Turns

    /// Runs `body` when it is its turn.
    func withTurn<Result>(
        _ row: TurnRow, _ key: Key, until limit: IncastLimit,
        _ body: () async throws(RPCError) -> Result
    ) async throws(RPCError) -> Result {
        let turn = enter(row, key)
        try await wait(for: turn, until: limit)
        defer { leave(turn) }
        return try await body()
    }

    /// Takes a place in a row.
    func enter(_ row: TurnRow, _ key: Key) -> Turn {
        let turn = Turn(number: namespace.makeNumber(), place: TurnPlace(row: row, key: key))
        if !turns.enter(turn.number, turn.place) { turnWaits[turn.number] = IncastWait() }
        return turn
    }

    /// Waits until it is our turn; when that fails, the place is given up.
    func wait(for turn: Turn, until limit: IncastLimit) async throws(RPCError) {
        guard let wait = turnWaits[turn.number] else { return }
        let result = await wait.result(until: limit.end, on: xstream)
        turnWaits[turn.number] = nil
        guard case .failure(let error) = result else { return }
        // It may have become our turn just now.
        if !turns.giveUp(turn.number, turn.place) { leave(turn) }
        throw error
    }

    func leave(_ turn: Turn) {
        guard let next = turns.leave(turn.place) else { return }
        turnWaits[next]?.finish(.success(()))
    }
}
