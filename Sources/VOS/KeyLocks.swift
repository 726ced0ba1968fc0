internal import DrayRuntime

/// Orders the updates of one key: those with conditions run alone, the others together. Readers
/// hold nothing, but let the updates that came before them finish: an update has its epoch before
/// it can be seen, and must not appear in the past of somebody who looked.
///
/// The locks are striped by a checksum of the key, so two keys may share one; that costs waiting,
/// never correctness. Whoever needs several takes them in ascending order, so nobody waits in a
/// circle. Fair: first come, first served.
final class KeyLocks {
    /// A stripe, and whether it is wanted alone.
    struct Request {
        var stripe: Int
        var isExclusive: Bool
    }

    private static let objectStripes = 1024
    private static let dkeyStripes = 4096

    /// What a waiter waits for.
    private enum Wish {
        /// To hold the stripe together with others.
        case together
        /// To hold the stripe alone.
        case alone
        /// Not to hold it, once nobody holds it alone.
        case afterThoseAlone
        /// Not to hold it, once nobody holds it.
        case afterAll

        func isGranted(beside holders: Int32) -> Bool {
            switch self {
            case .together, .afterThoseAlone: holders >= 0
            case .alone, .afterAll: holders == 0
            }
        }
    }

    @safe private final class Waiter {
        let wish: Wish
        let continuation: UnsafeContinuation<Void, Never>

        init(_ wish: Wish, continuation: UnsafeContinuation<Void, Never>) {
            self.wish = wish
            unsafe self.continuation = continuation
        }
    }

    private struct Stripe {
        /// How many hold it together; -1: one alone.
        var holders: Int32 = 0
        var waiters: [Waiter] = []
    }

    private var stripes = ContiguousArray(
        repeating: Stripe(), count: objectStripes + dkeyStripes)

    /// The stripe of the object of `key`.
    static func objectStripe(_ key: IndexKey.Bytes) -> Int {
        Int(key.checksum(first: IndexKey.objectLength)) % objectStripes
    }

    /// The stripe of a prefix of `key` that ends with a distribution key.
    static func dkeyStripe(_ key: IndexKey.Bytes, length: Int) -> Int {
        objectStripes + Int(key.checksum(first: length)) % dkeyStripes
    }

    /// In ascending order and without repetition; wanted alone, if it is anywhere.
    static func ordered(_ requests: [Request]) -> [Request] {
        var result: [Request] = []
        result.reserveCapacity(requests.count)
        for request in requests.sorted(by: { $0.stripe < $1.stripe }) {
            if let last = result.last, last.stripe == request.stripe {
                result[result.count - 1].isExclusive = last.isExclusive || request.isExclusive
            } else {
                result.append(request)
            }
        }
        return result
    }

    /// Takes all of `requests`, which are ordered.
    func acquire(_ requests: [Request]) async {
        for request in requests {
            await wait(for: request.isExclusive ? .alone : .together, at: request.stripe)
        }
    }

    /// Waits for the updates that hold the distribution key of `path`, or want it, now.
    func waitForUpdates(of path: NamePath) async {
        await wait(for: .afterThoseAlone, at: KeyLocks.objectStripe(path.bytes))
        await wait(for: .afterAll, at: KeyLocks.dkeyStripe(path.bytes, length: path.dkeyEnd))
    }

    /// Waits for the updates that hold any part of the object of `key`, or want it, now.
    func waitForUpdates(ofObject key: IndexKey.Bytes) async {
        await wait(for: .afterAll, at: KeyLocks.objectStripe(key))
    }

    @inline(__always)
    private func wait(for wish: Wish, at index: Int) async {
        if stripes[index].waiters.isEmpty, wish.isGranted(beside: stripes[index].holders) {
            grant(wish, at: index)
            return
        }
        unsafe await withUnsafeContinuation { continuation in
            stripes[index].waiters.append(unsafe Waiter(wish, continuation: continuation))
        }
    }

    private func grant(_ wish: Wish, at index: Int) {
        switch wish {
        case .together: stripes[index].holders += 1
        case .alone: stripes[index].holders = -1
        case .afterThoseAlone, .afterAll: return
        }
        heldCount += 1
    }

    /// Gives all of `requests` back.
    func release(_ requests: [Request]) {
        for request in requests {
            let index = request.stripe
            precondition(
                request.isExclusive ? stripes[index].holders == -1 : stripes[index].holders > 0)
            stripes[index].holders = request.isExclusive ? 0 : stripes[index].holders - 1
            heldCount -= 1
            guard !stripes[index].waiters.isEmpty else { continue }
            admit(index)
        }
    }

    /// Hands the stripe to those at the front who can have it.
    private func admit(_ index: Int) {
        var count = 0
        for waiter in stripes[index].waiters {
            guard waiter.wish.isGranted(beside: stripes[index].holders) else { break }
            grant(waiter.wish, at: index)
            count += 1
        }
        guard count > 0 else { return }
        let admitted = stripes[index].waiters[0..<count]
        stripes[index].waiters.removeFirst(count)
        for waiter in admitted { unsafe waiter.continuation.resume() }
    }

    /// How many stripes are held, each holder counted. For tests.
    private(set) var heldCount = 0
}
