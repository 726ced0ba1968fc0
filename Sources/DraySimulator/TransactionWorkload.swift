internal import Dray
internal import DrayRuntime
internal import Synchronization

/// Accounts in several objects, between which all clients move money in transactions, and pairs
/// of values that are changed by compound requests. Everything is recorded; whether an order of
/// the transactions explains it is checked when the run is over.
final class TransactionWorkload {
    /// The well-known numbers of the objects that hold the accounts.
    static let objects: [UInt32] = [200, 201, 202]
    static let accountCount = 9
    /// What every account holds at first, without being stored.
    static let initialBalance: Int64 = 100
    /// Two dkeys of one object that are always written together.
    static let pairObject: UInt32 = 203
    static let pairKeys = [100, 101]
    /// The shared keys that are read in snapshots: those that are changed most.
    static let snapshotKeyCount = 2

    private let client: Int
    private let shared: SharedValues
    private let container: Container
    private let xstream: XStream
    private var entropy: Entropy
    private let judge: ErrorJudge
    /// How long after it began a transaction of unknown outcome may still happen.
    private let lateness: Duration

    private(set) var operations = 0
    private(set) var commits = 0
    /// Snapshots of which everything was read.
    private(set) var snapshots = 0

    init(
        client: Int, shared: SharedValues, container: Container, xstream: XStream,
        entropy: Entropy, judge: ErrorJudge, lateness: Duration
    ) {
        self.lateness = lateness
        self.client = client
        self.shared = shared
        self.container = container
        self.xstream = xstream
        self.entropy = entropy
        self.judge = judge
    }

    /// One random transaction.
    func runOne() async {
        switch entropy.below(32) {
        case 0...12: await transfer()
        case 13...15: await transferAtOnce()
        case 16...19: await audit()
        case 20...23: await peek()
        case 24...27: await writePair()
        case 28, 29: await readPair()
        default: await readSnapshot()
        }
    }

    /// Reads everything. Returns whether that could be done.
    func readAll() async -> Bool {
        let isAudited = await audit()
        let isRead = await readPair()
        return isAudited && isRead
    }

    // MARK: - Kinds of transactions

    private func pickAccount() -> Int {
        // A few are used much more than others.
        let count = UInt64(TransactionWorkload.accountCount)
        return Int(min(entropy.below(count), entropy.below(count)))
    }

    /// Moves money from one account to another. Returns whether that has committed.
    @discardableResult
    func transfer() async -> Bool {
        let from = pickAccount()
        let to =
            (from + 1 + Int(entropy.below(UInt64(TransactionWorkload.accountCount - 1))))
            % TransactionWorkload.accountCount
        let amount = Int64(entropy.below(20))
        let pause = entropy.chance(1, in: 4) ? entropy.below(5_000) : 0
        return await run { (transaction, token) in
            let first = try await self.read(from, transaction, token)
            if pause > 0 { await self.xstream.sleep(for: .microseconds(Int64(pause))) }
            let second = try await self.read(to, transaction, token)
            try await self.write(from, first - amount, transaction, token)
            try await self.write(to, second + amount, transaction, token)
        }
    }

    /// Several transfers at the same time. Their requests travel together, and engines prepare them
    /// in batches, of which some may be refused.
    private func transferAtOnce() async {
        let count = 3 + Int(entropy.below(6))
        let gather = Gather<Void>(count: count)
        for index in 0..<count {
            xstream.spawn { [self] in
                await transfer()
                gather.finish(index, with: ())
            }
        }
        _ = await gather.results()
    }

    /// Reads every account: together they hold what they held at first.
    @discardableResult
    private func audit() async -> Bool {
        // Some look at a part much later than at the rest.
        let isSlow = entropy.chance(1, in: 4)
        let gap = isSlow ? Int(entropy.below(UInt64(TransactionWorkload.accountCount))) : -1
        let pause = entropy.below(5_000)
        var sum: Int64 = 0
        let isCommitted = await run { (transaction, token) in
            sum = 0
            for account in 0..<TransactionWorkload.accountCount {
                if account == gap {
                    await self.xstream.sleep(for: .microseconds(Int64(pause)))
                }
                sum += try await self.read(account, transaction, token)
            }
        }
        let expected =
            Int64(TransactionWorkload.accountCount) * TransactionWorkload.initialBalance
        if isCommitted, sum != expected {
            judge.violation("all accounts together hold \(sum), which should be \(expected)")
        }
        return isCommitted
    }

    /// Makes a snapshot and reads everything in it, twice: it shows one moment between its request
    /// and its answer, as a transaction that only reads does, and stays as it is; destroys it.
    /// Returns whether all that could be done.
    @discardableResult
    func readSnapshot() async -> Bool {
        operations += 1
        let token = begin()
        let reads = beginReadsOfKeys()
        var isCommitted = false
        do throws(DrayError) {
            let snapshot = try await container.createSnapshot()
            let then = container.at(snapshot)
            let first = try await readAll(in: then)
            for (key, value) in first { record(.read(key, content(value, key)?.number), token) }
            commit(token)
            isCommitted = true
            snapshots += 1
            try await finish(reads, in: then)
            let accounts = first.prefix(TransactionWorkload.accountCount)
            let sum = accounts.reduce(0 as Int64) {
                $0 + (content($1.value, $1.key)?.balance ?? TransactionWorkload.initialBalance)
            }
            let expected =
                Int64(TransactionWorkload.accountCount) * TransactionWorkload.initialBalance
            if sum != expected {
                judge.violation("in a snapshot, all accounts together hold \(sum)")
            }
            await xstream.sleep(for: .milliseconds(Int64(entropy.below(500))))
            let again = try await readAll(in: then)
            for (before, now) in zip(first, again) where before.value != now.value {
                judge.violation("a snapshot shows another value of \(before.key) than before")
            }
            try await container.destroySnapshot(snapshot)
            return true
        } catch {
            judge.judgeRead(error, "a snapshot")
            if !isCommitted { shared.transactions.withLock { $0.abort(token) } }
            return false
        }
    }

    /// A snapshot is a read of the keys that all clients change one by one, too: at a moment
    /// between its request and the end of the read.
    private func beginReadsOfKeys() -> [(
        key: Int, token: History<Int, RegisterModel.Action>.Token
    )] {
        let now = xstream.now
        return (0..<TransactionWorkload.snapshotKeyCount).map { key in
            let token = shared.keys.withLock {
                $0.begin(client: client, key: key, change: nil, at: now)
            }
            return (key, token)
        }
    }

    private func finish(
        _ reads: [(key: Int, token: History<Int, RegisterModel.Action>.Token)], in then: Container
    ) async throws(DrayError) {
        let map = KeyValue(container: then)
        for (key, token) in reads {
            let bytes = try await map.get(SharedValues.key(key))
            let value = bytes.flatMap { SharedValues.value(of: $0) }
            if bytes != nil, value == nil {
                judge.violation("in a snapshot, shared key \(key): a value that nobody wrote")
            }
            shared.keys.withLock { $0.finish(token, as: .get(value)) }
        }
    }

    /// Every account, and then the pair, as a snapshot shows them.
    private func readAll(
        in then: Container
    ) async throws(DrayError) -> [(key: Int, value: [UInt8]?)] {
        var values: [(key: Int, value: [UInt8]?)] = []
        for account in 0..<TransactionWorkload.accountCount {
            let object = then.object(object(account).id)
            let value = try await object.get(dkey: dkey(account), akey: [1])
            values.append((account, value))
        }
        for key in TransactionWorkload.pairKeys {
            let value = try await then.object(pair.id).get(dkey: dkey(key), akey: [1])
            values.append((key, value))
        }
        return values
    }

    /// Reads some accounts and writes another one with what it had.
    private func peek() async {
        let accounts = [pickAccount(), pickAccount()]
        let written = pickAccount()
        await run { (transaction, token) in
            for account in accounts where account != written {
                _ = try await self.read(account, transaction, token)
            }
            let balance = try await self.read(written, transaction, token)
            try await self.write(written, balance, transaction, token)
        }
    }

    /// Writes both values of the pair in one request. Returns whether that has committed.
    @discardableResult
    func writePair() async -> Bool {
        operations += 1
        let token = begin()
        let number = shared.nextValue()
        let numbers = TransactionWorkload.pairKeys.map {
            (key: $0, value: number + UInt64($0) << 32)
        }
        for (key, value) in numbers { record(.write(key, value), token) }
        do throws(DrayError) {
            try await pair.update(
                numbers.map { .put(dkey: dkey($0.key), akey: [1], value: bytes($0.value, 0)) })
            commit(token)
            return true
        } catch {
            end(token, error, isWhole: true)
            return false
        }
    }

    @discardableResult
    private func readPair() async -> Bool {
        await run { (transaction, token) in
            for key in TransactionWorkload.pairKeys {
                let value = try await transaction.get(self.pair, dkey: self.dkey(key), akey: [1])
                self.record(.read(key, self.content(value, key)?.number), token)
            }
        }
    }

    // MARK: - Steps

    private func begin() -> TransactionHistory.Token {
        let now = xstream.now
        return shared.transactions.withLock {
            $0.begin(client: client, at: now, until: now + lateness)
        }
    }

    private func record(_ step: RecordedTransaction.Step, _ token: TransactionHistory.Token) {
        shared.transactions.withLock { $0.add(step, to: token) }
    }

    private var pair: DrayObject {
        container.object(container.wellKnownObjectID(TransactionWorkload.pairObject))
    }

    private func object(_ account: Int) -> DrayObject {
        let objects = TransactionWorkload.objects
        return container.object(container.wellKnownObjectID(objects[account % objects.count]))
    }

    private func dkey(_ key: Int) -> [UInt8] { [UInt8(key)] }

    /// A number that no other write has, and a balance.
    private func bytes(_ number: UInt64, _ balance: Int64) -> [UInt8] {
        let balance = UInt64(bitPattern: balance)
        return (0..<8).map { UInt8(truncatingIfNeeded: number >> UInt64(8 * $0)) }
            + (0..<8).map { UInt8(truncatingIfNeeded: balance >> UInt64(8 * $0)) }
    }

    private func content(_ bytes: [UInt8]?, _ key: Int) -> (number: UInt64, balance: Int64)? {
        guard let bytes else { return nil }
        guard bytes.count == 16 else {
            judge.violation("account \(key): a value of \(bytes.count) bytes")
            return nil
        }
        var number: UInt64 = 0
        var balance: UInt64 = 0
        for place in 0..<8 {
            number |= UInt64(bytes[place]) << UInt64(8 * place)
            balance |= UInt64(bytes[8 + place]) << UInt64(8 * place)
        }
        return (number, Int64(bitPattern: balance))
    }

    private func read(
        _ account: Int, _ transaction: Transaction, _ token: TransactionHistory.Token
    ) async throws(DrayError) -> Int64 {
        let bytes = try await transaction.get(object(account), dkey: dkey(account), akey: [1])
        let content = content(bytes, account)
        record(.read(account, content?.number), token)
        return content?.balance ?? TransactionWorkload.initialBalance
    }

    private func write(
        _ account: Int, _ balance: Int64, _ transaction: Transaction,
        _ token: TransactionHistory.Token
    ) async throws(DrayError) {
        let number = shared.nextValue()
        record(.write(account, number), token)
        try await transaction.put(
            object(account), dkey: dkey(account), akey: [1], value: bytes(number, balance))
    }

    // MARK: - Outcomes

    /// Runs a transaction and records its end. Returns whether it has committed.
    @discardableResult
    private func run(
        _ body: (Transaction, TransactionHistory.Token) async throws -> Void
    ) async -> Bool {
        operations += 1
        let token = begin()
        // Whether it has done all that it does, so that it may have been committed.
        var isWhole = false
        do {
            try await container.transaction { transaction in
                isWhole = false
                self.shared.transactions.withLock { $0.restart(token) }
                try await body(transaction, token)
                isWhole = true
            }
            commit(token)
            return true
        } catch let error as DrayError {
            end(token, error, isWhole: isWhole)
        } catch {
            judge.violation("a transaction ends with \(error)", .error)
        }
        return false
    }

    private func commit(_ token: TransactionHistory.Token) {
        shared.transactions.withLock { $0.commit(token) }
        commits += 1
    }

    /// A transaction has failed. Of one that was not whole yet nothing may be seen.
    private func end(
        _ token: TransactionHistory.Token, _ error: DrayError, isWhole: Bool
    ) {
        if judge.mayBeDamaged {
            judge.judgeRead(error, "a transaction")
        } else {
            _ = judge.outcome(of: error, "a transaction")
        }
        guard !isWhole || !error.mayHaveHappened else { return }
        shared.transactions.withLock { $0.abort(token) }
    }
}
