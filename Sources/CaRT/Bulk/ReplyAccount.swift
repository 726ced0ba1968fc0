internal import DrayFabric

/// The memory of large replies that their callers have not fetched: those that wait, and those in
/// quarantine. All of them together are limited, and those to each address, so that a caller that
/// fetches nothing has only its own replies refused.
final class ReplyAccount {
    private let bytesMax: Int
    /// Looked up, never iterated.
    private var byCaller: [FabricAddress: Int] = [:]
    /// All that is charged.
    private(set) var bytes = 0

    /// So many callers, at least, share all that may be kept.
    static let callersMin = 4

    init(bytesMax: Int) {
        self.bytesMax = bytesMax
    }

    /// Charges a caller for a reply; nil when it, or all callers together, have as much as they
    /// may. The last reply may go beyond that, so one of any size is possible.
    func charge(_ count: Int, to caller: FabricAddress) -> ReplyCharge? {
        let own = byCaller[caller, default: 0]
        guard bytes < bytesMax, own < bytesMax / ReplyAccount.callersMin else { return nil }
        bytes += count
        byCaller[caller] = own + count
        return ReplyCharge(account: self, caller: caller, count: count)
    }

    fileprivate func giveBack(_ count: Int, from caller: FabricAddress) {
        let left = byCaller[caller, default: 0] - count
        precondition(left >= 0, "what is given back was charged")
        bytes -= count
        byCaller[caller] = left > 0 ? left : nil
    }
}

/// What a caller is charged for the memory of one reply, until the last reference goes.
final class ReplyCharge {
    private let account: ReplyAccount
    private let caller: FabricAddress
    private let count: Int

    fileprivate init(account: ReplyAccount, caller: FabricAddress, count: Int) {
        self.account = account
        self.caller = caller
        self.count = count
    }

    deinit {
        account.giveBack(count, from: caller)
    }
}
