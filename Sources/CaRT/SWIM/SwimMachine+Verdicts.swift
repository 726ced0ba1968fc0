/// What is known of the members, and how it changes.
extension SwimMachine {
    /// Somebody says something about a member.
    mutating func heard(_ update: SwimMember) {
        guard update.incarnation < SwimMember.incarnationMax else { return }
        guard update.rank != rank else {
            heardOfUs(update)
            return
        }
        guard let known = member(update.rank) else { return }
        guard update.overrides(known) else {
            // Who believes the worst of an earlier incarnation, and those who heard it from him,
            // shall hear better.
            if known.incarnation > update.incarnation, update.state != .alive { gossip.add(known) }
            return
        }
        guard update.verdict == .silent, known.state != .dead, known.incarnation != 0 else {
            apply(update)
            return
        }
        // Who was cut off takes the others for dead. Without proof, we believe it only of a member
        // that had time to contradict.
        if known.state == .suspect,
            let suspicion = suspicions.first(where: { $0.rank == update.rank }),
            now - min(now, suspicion.since) >= times.suspicionTimeout / 2
        {
            apply(update)
        } else {
            var doubtful = update
            doubtful.verdict = .suspect
            if doubtful.overrides(known) { apply(doubtful) }
        }
    }

    /// Somebody says something about us. When it is bad, or of an earlier life, we contradict.
    private mutating func heardOfUs(_ update: SwimMember) {
        // Also when we have contradicted meanwhile: some did without us.
        if update.state == .dead, update.incarnation >= deathToReport,
            update.incarnation <= incarnation
        {
            deathToReport = update.incarnation + 1
            actions.append(.excluded(.declaredDead))
        }
        guard update.incarnation >= incarnation,
            update.verdict != .alive || update.incarnation > incarnation
        else { return }
        if update.incarnation == incarnation {
            raiseDoubt()
        } else {
            deathToReport = update.incarnation + 1
        }
        incarnation = min(update.incarnation + 1, SwimMember.incarnationMax - 1)
        // Every message says it; these, soon.
        if update.verdict != .alive { hasNews = true }
    }

    /// Takes over what is newer than what is known of a member.
    mutating func apply(_ update: SwimMember) {
        guard let index = index(of: update.rank), update.overrides(members[index]) else { return }
        let old = members[index]
        members[index] = update
        // That somebody is alive of whom nothing else was thought is no news.
        if update.state != .alive || old.state != .alive || old.incarnation != 0 {
            gossip.add(update)
        }
        if update.state != old.state || (update.state == .suspect && old.state == .suspect) {
            suspicions.removeAll { $0.rank == update.rank }
            setUnwell(update)
        }
        switch update.verdict {
        case .alive: if old.state == .dead { hasNews = true }
        case .suspect:
            suspicions.append(
                Suspicion(rank: update.rank, since: now, deadline: now + times.suspicionTimeout))
        case .silent, .gone:
            if probe?.target == update.rank { probe = nil }
            if old.state != .dead { hasNews = true }
        }
        if update.state != old.state { actions.append(.changed(update)) }
    }

    private mutating func setUnwell(_ member: SwimMember) {
        let position = unwell.firstIndex { $0 >= member.rank } ?? unwell.count
        let isThere = position < unwell.count && unwell[position] == member.rank
        if member.state == .alive {
            if isThere { unwell.remove(at: position) }
        } else if !isThere {
            unwell.insert(member.rank, at: position)
        }
    }

    /// Suspects whose time is over are dead. But when nobody else has given a sign of life either,
    /// nor any port of those we tried, it may be we who are cut off: then they have as much time
    /// again.
    mutating func endSuspicions() {
        guard suspicions.contains(where: { $0.deadline <= now }) else { return }
        let isCutOff = now - min(now, lastContact) > times.suspicionTimeout / 2
        for suspicion in suspicions where suspicion.deadline <= now {
            if isCutOff, !suspicion.isExtended {
                guard let index = suspicions.firstIndex(where: { $0.rank == suspicion.rank })
                else { continue }
                suspicions[index].deadline = now + times.suspicionTimeout
                suspicions[index].isExtended = true
            } else if let member = member(suspicion.rank) {
                apply(
                    SwimMember(
                        rank: member.rank, incarnation: member.incarnation, verdict: .silent))
            }
        }
    }
}
