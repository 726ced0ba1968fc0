internal import DrayRuntime

/// Orders what is done to one key. Updates run together unless one has a condition, and those of
/// transactions unless a later one might show that an earlier one is missing (`DTXWishes`); what a
/// transaction has read stays as it is until the transaction is decided. Plain readers hold
/// nothing, but let the updates that came before them finish: an update has its epoch before it
/// can be seen, and must not appear in the past of somebody who looked.
///
/// Two levels, objects and distribution keys, as in multi-granularity locking (Gray 1976): who
/// locks a distribution key has an intention lock on its object. Whoever needs several takes them
/// in ascending order, so nobody on this xstream waits in a circle. Fair: first come, first served.
final class KeyLocks {
    /// What a lock is wanted for.
    enum Mode: UInt8 {
        /// To write, together with other writers; on an object, to write below it.
        case write = 1
        /// To keep others from writing.
        case read = 2
        /// On an object: to read below it.
        case readBelow = 3
        /// To be alone.
        case alone = 4

        /// The weakest mode that allows both.
        func joined(_ other: Mode) -> Mode {
            switch (self, other) {
            case (let mode, other) where mode == other: mode
            case (.readBelow, let mode), (let mode, .readBelow): mode
            default: .alone
            }
        }
    }

    /// A key, by its hash, and what it is wanted for.
    struct Request: Hashable {
        var key: UInt64
        var mode: Mode
        /// Of what was adopted while somebody waited for the key: its number, in order. 0: it was
        /// there before those who wait.
        var number: UInt64 = 0
    }

    /// What a waiter waits for.
    private enum Wish {
        case hold(Mode)
        /// Not to hold it, once nobody holds it alone, but for those with a larger number.
        case afterThoseAlone(UInt64)
        /// Not to hold it, once nobody writes, but for those with a larger number.
        case afterWriters(UInt64)
    }

    private struct Stripe {
        var writers: Int32 = 0
        var readers: Int32 = 0
        var readersBelow: Int32 = 0
        /// More than one only of what others have ordered: `adopt`.
        var alone: Int32 = 0
        var waiters: [Waiter] = []
        /// Those of the holders that have a number, in order.
        var late: [(number: UInt64, mode: Mode)] = []

        var isFree: Bool {
            alone == 0 && writers == 0 && readers == 0 && readersBelow == 0
                && waiters.isEmpty
        }

        func grants(_ wish: Wish) -> Bool {
            switch wish {
            case .hold(let mode): alone == 0 && allows(mode)
            case .afterThoseAlone(let number): alone == count(.alone, after: number)
            case .afterWriters(let number):
                alone == count(.alone, after: number) && writers == count(.write, after: number)
            }
        }

        /// Unless somebody holds it alone.
        private func allows(_ mode: Mode) -> Bool {
            switch mode {
            case .write: readers == 0
            case .read: writers == 0
            case .readBelow: true
            case .alone: writers == 0 && readers == 0 && readersBelow == 0
            }
        }

        /// How many holders have a larger number.
        private func count(_ mode: Mode, after number: UInt64) -> Int32 {
            late.isEmpty ? 0 : Int32(late.count { $0.mode == mode && $0.number > number })
        }

        mutating func count(_ mode: Mode, by change: Int32) {
            switch mode {
            case .write: writers += change
            case .read: readers += change
            case .readBelow: readersBelow += change
            case .alone: alone += change
            }
        }
    }

    @safe private final class Waiter {
        let wish: Wish
        var continuation: UnsafeContinuation<Bool, Never>?
        var timer: Timer?

        init(_ wish: Wish) {
            self.wish = wish
        }

        func resume(_ isGranted: Bool) {
            timer?.cancel()
            timer = nil
            // SAFETY: taken out before it is resumed, so that it is resumed once.
            let continuation = unsafe continuation
            unsafe self.continuation = nil
            unsafe continuation?.resume(returning: isGranted)
        }
    }

    /// A key of the table.
    private struct Hash: Hashable {
        let key: UInt64

        func _rawHashValue(seed: Int) -> Int { FastHash.hash(key, 0, seed: seed) }
    }

    private let xstream: XStream
    /// What is held or waited for. Never iterated: its order differs from process to process.
    @safe @exclusivity(unchecked) private var stripes: [Hash: Stripe] = [:]

    /// Called with the key whenever somebody has to wait for it.
    @safe @exclusivity(unchecked) var onWait: ((UInt64) -> Void)?

    /// The last number that was given.
    private var number: UInt64 = 0

    /// How often somebody has ended who was adopted after one that has not: readers that were let
    /// through and have not looked yet wait once more.
    private var overtakings = 0

    /// How many locks are held, each holder counted.
    @safe @exclusivity(unchecked) private(set) var heldCount = 0

    init(xstream: XStream) {
        self.xstream = xstream
    }

    /// The object of `key`.
    static func object(_ key: IndexKey.Bytes) -> UInt64 {
        StableKeyHash.hash(key, first: IndexKey.objectLength, seed: 1)
    }

    /// The prefix of `key` that ends with a distribution key.
    static func dkey(_ key: IndexKey.Bytes, length: Int) -> UInt64 {
        StableKeyHash.hash(key, first: length, seed: 2)
    }

    /// Bytes of a part of an array, and of a piece of one.
    static let partBytes: UInt64 = 64 << 10
    static let pieceBytes: UInt64 = 4 << 10

    /// A part of the array under the attribute key with which the first bytes of `key` end.
    static func part(_ number: UInt64, of key: IndexKey.Bytes, length: Int) -> UInt64 {
        StableKeyHash.hash(key, first: length, seed: 3 &+ 2 &* number)
    }

    /// A piece of it. Pieces have numbers of their own, from the start of the array on.
    static func piece(_ number: UInt64, of key: IndexKey.Bytes, length: Int) -> UInt64 {
        StableKeyHash.hash(key, first: length, seed: 4 &+ 2 &* number)
    }

    /// Puts requests in ascending order, each key once.
    static func order(_ requests: inout [Request]) {
        guard requests.count > 1 else { return }
        requests.sort { $0.key < $1.key }
        var last = 0
        for index in 1..<requests.count {
            if requests[index].key == requests[last].key {
                requests[last].mode = requests[last].mode.joined(requests[index].mode)
            } else {
                last += 1
                requests[last] = requests[index]
            }
        }
        requests.removeLast(requests.count - 1 - last)
    }

    // MARK: - Take and give

    /// Takes all of `requests`, which are ordered. Returns false, and takes none, when that has
    /// not come about by `deadline`.
    func acquire(_ requests: [Request], until deadline: Instant?) async -> Bool {
        for (index, request) in requests.enumerated() {
            guard await wait(for: .hold(request.mode), at: request.key, until: deadline) else {
                release(requests[0..<index])
                return false
            }
        }
        return true
    }

    /// Takes all of `requests`, which are ordered, if that is possible without waiting.
    func tryAcquire(_ requests: [Request]) -> Bool {
        for request in requests {
            guard let stripe = stripes[Hash(key: request.key)] else { continue }
            guard stripe.waiters.isEmpty, stripe.grants(.hold(request.mode)) else { return false }
        }
        for request in requests { grant(request.mode, at: request.key) }
        return true
    }

    /// Takes all of `requests` whoever holds them: what a transaction held before a restart, or
    /// what another target has ordered. Returns what is to be given back.
    ///
    /// That comes whether readers wait or not; they wait for what was there before them only, since
    /// what another target orders may never leave a gap. But when one of those that came after
    /// them ends, they wait for the ones before it too: else they might see a change, and not one
    /// that was acknowledged before it began.
    @discardableResult
    func adopt(_ requests: [Request]) -> [Request] {
        var requests = requests
        for index in requests.indices {
            let (key, mode) = (requests[index].key, requests[index].mode)
            requests[index].number = 0
            if let stripe = stripes[Hash(key: key)], !stripe.waiters.isEmpty {
                number += 1
                requests[index].number = number
                stripes[Hash(key: key)]?.late.append((number, mode))
            }
            grant(mode, at: key)
        }
        return requests
    }

    /// Whether there are no updates that `waitForUpdates` would wait for.
    func isSettled(_ path: NamePath) -> Bool {
        grants(.afterThoseAlone(number), at: KeyLocks.object(path.bytes))
            && grants(
                .afterWriters(number), at: KeyLocks.dkey(path.bytes, length: path.dkeyEnd))
    }

    /// Whether who has this wish need not wait.
    private func grants(_ wish: Wish, at key: UInt64) -> Bool {
        guard let stripe = stripes[Hash(key: key)] else { return true }
        return stripe.waiters.isEmpty && stripe.grants(wish)
    }

    /// Waits for the updates that hold the distribution key of `path`, or want it, now.
    func waitForUpdates(of path: NamePath, until deadline: Instant?) async -> Bool {
        let object = KeyLocks.object(path.bytes)
        let dkey = KeyLocks.dkey(path.bytes, length: path.dkeyEnd)
        var seen: Int
        repeat {
            seen = overtakings
            guard await wait(for: .afterThoseAlone(number), at: object, until: deadline),
                await wait(for: .afterWriters(number), at: dkey, until: deadline)
            else { return false }
            // Who has come to the whole object meanwhile may be before what has come to the dkey.
        } while overtakings != seen || stripes[Hash(key: object)].map { $0.alone > 0 } ?? false
        return true
    }

    /// Waits for the updates that hold any part of the object of `key`, or want it, now.
    func waitForUpdates(ofObject key: IndexKey.Bytes, until deadline: Instant?) async -> Bool {
        var seen: Int
        repeat {
            seen = overtakings
            guard await wait(for: .afterWriters(number), at: KeyLocks.object(key), until: deadline)
            else { return false }
        } while overtakings != seen
        return true
    }

    @inline(__always)
    private func wait(for wish: Wish, at key: UInt64, until deadline: Instant?) async -> Bool {
        guard grants(wish, at: key) else { return await queue(wish, at: key, until: deadline) }
        if case .hold(let mode) = wish { grant(mode, at: key) }
        return true
    }

    private func queue(_ wish: Wish, at key: UInt64, until deadline: Instant?) async -> Bool {
        if let deadline, deadline <= xstream.now { return false }
        onWait?(key)
        let waiter = Waiter(wish)
        if let deadline {
            waiter.timer = xstream.schedule(at: deadline) { [self] in
                stripes[Hash(key: key)]?.waiters.removeAll { $0 === waiter }
                waiter.timer = nil
                waiter.resume(false)
                // Those behind it may have waited for it alone.
                admit(key)
            }
        }
        return unsafe await withUnsafeContinuation { continuation in
            unsafe waiter.continuation = continuation
            stripes[Hash(key: key), default: Stripe()].waiters.append(waiter)
        }
    }

    private func grant(_ mode: Mode, at key: UInt64) {
        stripes[Hash(key: key), default: Stripe()].count(mode, by: 1)
        heldCount += 1
    }

    /// Gives all of `requests` back.
    func release(_ requests: some Sequence<Request>) {
        for request in requests {
            guard var stripe = stripes[Hash(key: request.key)] else {
                preconditionFailure("a lock that is not held is given back")
            }
            stripe.count(request.mode, by: -1)
            if request.number > 0, !stripe.late.isEmpty {
                let count = stripe.late.count
                stripe.late.removeAll { $0.number <= request.number }
                if stripe.late.count < count - 1 { overtakings += 1 }
            }
            precondition(stripe.writers >= 0 && stripe.alone >= 0)
            precondition(stripe.readers >= 0 && stripe.readersBelow >= 0)
            heldCount -= 1
            stripes[Hash(key: request.key)] = stripe.isFree ? nil : stripe
            if !stripe.waiters.isEmpty { admit(request.key) }
        }
    }

    /// Hands the key to those at the front who can have it.
    private func admit(_ key: UInt64) {
        guard var stripe = stripes[Hash(key: key)] else { return }
        var admitted: [Waiter] = []
        while let waiter = stripe.waiters.first, stripe.grants(waiter.wish) {
            stripe.waiters.removeFirst()
            if case .hold(let mode) = waiter.wish {
                stripe.count(mode, by: 1)
                heldCount += 1
            }
            admitted.append(waiter)
        }
        stripes[Hash(key: key)] = stripe.isFree ? nil : stripe
        for waiter in admitted { waiter.resume(true) }
    }
}

/// Hashes keys to 64 bits, alike in every process: locks are taken in the order of the hashes.
enum StableKeyHash {
    static func hash(_ key: IndexKey.Bytes, first length: Int, seed: UInt64) -> UInt64 {
        precondition(length <= key.count)
        return unsafe key.withUnsafeBytes { bytes in
            unsafe hash(UnsafeRawBufferPointer(rebasing: bytes[0..<length]), seed: seed)
        }
    }

    static func hash(_ bytes: UnsafeRawBufferPointer, seed: UInt64) -> UInt64 {
        var hash = seed &* 0x9e37_79b9_7f4a_7c15 ^ UInt64(bytes.count)
        var index = 0
        while index + 8 <= bytes.count {
            let word = unsafe UInt64(
                littleEndian: bytes.loadUnaligned(fromByteOffset: index, as: UInt64.self))
            hash = mix(hash ^ word)
            index += 8
        }
        var rest: UInt64 = 0
        while index < bytes.count {
            rest = unsafe rest << 8 | UInt64(bytes[index])
            index += 1
        }
        return mix(hash ^ rest)
    }

    /// The finaliser of MurmurHash3.
    private static func mix(_ value: UInt64) -> UInt64 {
        var x = value &+ 0x9e37_79b9_7f4a_7c15
        x = (x ^ (x >> 33)) &* 0xff51_afd7_ed55_8ccd
        x = (x ^ (x >> 33)) &* 0xc4ce_b9fe_1a85_ec53
        return x ^ (x >> 33)
    }
}
