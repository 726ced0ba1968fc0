internal import DrayRuntime

/// Orders the updates of one key: those with conditions run alone, the others together.
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

    @safe private final class Waiter {
        let isExclusive: Bool
        let continuation: UnsafeContinuation<Void, Never>

        init(isExclusive: Bool, continuation: UnsafeContinuation<Void, Never>) {
            self.isExclusive = isExclusive
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

    static func objectStripe(_ prefix: IndexKey.Bytes) -> Int {
        Int(prefix.checksum(first: prefix.count)) % objectStripes
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
        for request in requests where !take(request) {
            unsafe await withUnsafeContinuation { continuation in
                stripes[request.stripe].waiters.append(
                    unsafe Waiter(isExclusive: request.isExclusive, continuation: continuation))
            }
        }
    }

    private func take(_ request: Request) -> Bool {
        let holders = stripes[request.stripe].holders
        guard stripes[request.stripe].waiters.isEmpty,
            request.isExclusive ? holders == 0 : holders >= 0
        else { return false }
        stripes[request.stripe].holders = request.isExclusive ? -1 : holders + 1
        heldCount += 1
        return true
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
            let holders = stripes[index].holders
            guard waiter.isExclusive ? holders == 0 : holders >= 0 else { break }
            stripes[index].holders = waiter.isExclusive ? -1 : holders + 1
            count += 1
        }
        guard count > 0 else { return }
        heldCount += count
        let admitted = stripes[index].waiters[0..<count]
        stripes[index].waiters.removeFirst(count)
        for waiter in admitted { unsafe waiter.continuation.resume() }
    }

    /// How many stripes are held, each holder counted. For tests.
    private(set) var heldCount = 0
}
