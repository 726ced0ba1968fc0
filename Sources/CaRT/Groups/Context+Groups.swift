internal import BasicContainers
internal import DrayFabric
internal import DrayRuntime

extension Context {
    /// The group as the peer at `destination` knows it.
    ///
    /// Apply it to `group`, or, in a process that calls several groups, to one made for it:
    /// `try view.attach(snapshot)`.
    ///
    /// - Throws: `.call` when the peer does not answer with a group.
    public func groupSnapshot(
        at destination: Destination, deadline: Deadline = .standard
    ) async throws(AttachError) -> GroupSnapshot {
        do throws(RPCError) {
            return try await call(
                InternalProtocol.group, EmptyMessage(), to: destination, deadline: deadline)
        } catch {
            throw .call(error)
        }
    }

    // MARK: - Where a member's contexts are

    /// Whether the member is known, but not where its context listens.
    func needsLookUp(_ destination: Destination) -> Bool {
        guard case .rank(let rank, let tag) = destination, tag > 0,
            let member = group.member(rank)
        else { return false }
        return Int(tag) >= member.addresses.count
    }

    /// How many contexts of the member itself a look-up asks, and how many other members.
    private static let askedMax = 4

    /// Asks the member's first context where the others are. When it does not answer, another one
    /// that is known is asked, and then other members.
    ///
    /// - Returns: the time at which `deadline` is over, for what comes after.
    /// - Throws: `.wrongTag` when the first context says that there is no such one; else why the
    ///   first one that was asked did not say: `.staleGroup` when it knows no more than we do, or
    ///   another life of the member.
    func lookUpMember(
        _ destination: Destination, _ deadline: Deadline
    ) async throws(RPCError) -> Deadline {
        guard case .rank(let rank, let tag) = destination else { return deadline }
        counts.lookUps += 1
        let limit = times(of: deadline, now: xstream.now.nanoseconds).1
        do throws(RPCError) {
            if faults.isArmed { try await pass(.groupLookUp) }
            try await learnAddress(of: rank, tag: tag, limit: limit)
            return .at(limit)
        } catch {
            counts.lookUpsFailed += 1
            if error == .timedOut { counts.lookUpsTimedOut += 1 }
            throw error
        }
    }

    /// Has the group learn addresses of a member, that of `tag` among them. Whoever does not answer
    /// leaves half of the time to the next; without a limit, half of the time that a call has.
    private func learnAddress(
        of rank: UInt32, tag: UInt32, limit: UInt64
    ) async throws(RPCError) {
        let known = min(group.member(rank)?.addresses.count ?? 0, Context.askedMax)
        let others = group.ranks(after: rank, max: Context.askedMax).filter { $0 != self.rank }
        let asked =
            (0..<UInt32(known)).map { Destination.rank(rank, tag: $0) }
            + others.map { Destination.rank($0, tag: 0) }
        var failure: RPCError?
        for (index, destination) in asked.enumerated() {
            let now = xstream.now.nanoseconds &+ wallOffset
            guard now < limit else { break }
            let half = now + min(limit - now, timeout.nanosecondsClamped) / 2
            let answer: InternalProtocol.AddressAnswer
            do throws(RPCError) {
                answer = try await answerToLookUp(
                    of: rank, at: destination, .at(index + 1 == asked.count ? limit : half))
            } catch {
                guard error != .cancelled, !isClosing else { throw error }
                failure = failure ?? error
                continue
            }
            if group.learn(answer.addresses, rank: rank, incarnation: answer.incarnation) {
                if group.address(rank: rank, tag: tag) != nil { return }
                // All others may know as little as we do.
                if index == 0 { throw .wrongTag }
            }
            failure = failure ?? .staleGroup
        }
        throw failure ?? .timedOut
    }

    // MARK: - Members that are gone

    /// Ends everything under way to a member that is taken for gone, with `.unreachable`: calls
    /// without a time-out and those that wait for credits, too. Barriers that wait for it fail. A
    /// failure detector calls this; so does a group that loses the member.
    ///
    /// The member may have been silent only, and go on: memory that those calls exposed is
    /// quarantined until it is certain that the member uses it no more. Later calls to the rank go
    /// out as usual, over a new connection.
    public func evict(rank: UInt32) {
        for peer in peers(of: rank) { peerIsGone(peer) }
        if rank != self.rank { barriers.lose([rank], .unreachable) }
    }

    private func peerIsGone(_ peer: Int32) {
        connectionLost(peer, isGone: true)
        abandonBulks(with: [peer], .unreachable, isGone: true)
    }

    /// Cancels every call under way to a member; they end with `.cancelled`, and the member hears
    /// of those that it has.
    public func abort(rank: UInt32) {
        abort(Set(peers(of: rank)))
    }

    /// Cancels every call under way. Those end with `.cancelled`, and their peers hear of it.
    public func abortAll() {
        abort(Set(links.indices.map { Int32($0) }))
    }

    private func abort(_ peers: Set<Int32>) {
        var actions: [CallAction] = []
        tracker.abort(peers, now: xstream.now.nanoseconds, into: &actions)
        perform(actions)
        abandonBulks(with: peers, .cancelled, isGone: false)
    }

    /// The contexts of a member that we have called, ascending.
    private func peers(of rank: UInt32) -> [Int32] {
        var peers = Set(peersByRank.filter { $0.key >> 32 == UInt64(rank) }.map(\.value))
        for address in group.member(rank)?.addresses ?? [] {
            if let peer = peersByAddress[address] { peers.insert(peer) }
        }
        peers.remove(selfPeer)
        return peers.sorted()
    }

    /// Looks after what is under way when the group changes. (The optimiser of Swift 6.3.1 crashes
    /// when this closure stands in the initialiser, which may throw after it.)
    func watchGroup() {
        observation = group.observe { [unowned self] event in groupChanged(event) }
    }

    /// What is under way to members that have left, or live anew, will not be answered.
    func groupChanged(_ event: Group.Event) {
        guard !isClosed else { return }
        let lost = Set(event.removed + event.changed)
        var peers: Set<Int32> = []
        for (key, peer) in peersByRank where lost.contains(UInt32(key >> 32)) {
            let rank = UInt32(key >> 32)
            // More addresses of the same life change nothing.
            if let member = group.member(rank), member.addresses.contains(links[Int(peer)].address),
                !event.restarted.contains(rank)
            {
                continue
            }
            peers.insert(peer)
        }
        peers.remove(selfPeer)
        for peer in peers.sorted() { peerIsGone(peer) }
        barriers.lose(event.removed, .unreachable)
        barriers.lose(event.restarted, .peerRestarted)
    }
}

extension Group {
    /// Takes over what was learnt elsewhere of the same group.
    ///
    /// - Returns: whether it was newer than what was known.
    /// - Throws: `.otherGroup`, or why the members cannot be.
    @discardableResult
    public func attach(_ snapshot: GroupSnapshot) throws(AttachError) -> Bool {
        guard snapshot.name == name else { throw .otherGroup(name: snapshot.name) }
        guard snapshot.version > version else { return false }
        do throws(GroupError) {
            try apply(.replace(snapshot.members), version: snapshot.version)
        } catch {
            throw .group(error)
        }
        return true
    }

    /// Whom to call for `tag` of `rank`, from a context whose own group is another one.
    ///
    /// - Throws: `.staleGroup` when the address is not known.
    public func destination(rank: UInt32, tag: UInt32) throws(RPCError) -> Destination {
        guard let address = address(rank: rank, tag: tag) else { throw .staleGroup }
        return .member(rank: rank, tag: tag, at: address)
    }
}
