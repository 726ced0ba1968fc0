internal import CaRT
package import DrayFabric
internal import DrayRuntime

/// Somebody whom a workload calls.
package struct TransportTarget: Hashable, Sendable {
    /// Nil when it is reached by its address only.
    package var rank: UInt32?
    package var tag: UInt32
    package var address: FabricAddress

    package init(rank: UInt32?, tag: UInt32, address: FabricAddress) {
        self.rank = rank
        self.tag = tag
        self.address = address
    }
}

/// One call that a workload is about to make, drawn at random.
struct TransportPlan {
    enum Kind: UInt64, CaseIterable {
        case echo, synchronous, payload, deferred, dropped, slow, fail, get, put, forward, note
        case unknown, wrongVersion, wrongTag

        /// How often it is drawn, beside the others.
        var weight: UInt64 {
            switch self {
            case .echo: 24
            case .synchronous: 14
            case .payload, .deferred, .get, .put, .note: 10
            case .forward: 6
            case .dropped, .slow, .fail: 5
            case .unknown, .wrongVersion, .wrongTag: 1
            }
        }

        static let weights = allCases.reduce(0) { $0 + $1.weight }

        init(_ entropy: inout Entropy) {
            var left = entropy.below(Kind.weights)
            for kind in Kind.allCases {
                if left < kind.weight {
                    self = kind
                    return
                }
                left -= kind.weight
            }
            preconditionFailure("the weights changed")
        }
    }

    var kind: Kind
    var target: TransportTarget
    var destination: Destination
    /// Nil: none.
    var timeout: Duration?
    /// When the task is cancelled, if it is.
    var cancelAfter: Duration?
    var requestSize: Int
    var replySize: Int
    /// Of the handler, in microseconds.
    var delay: UInt32
    /// Sizes of the pieces of the caller's memory.
    var segments: [Int] = []
    var next: FabricAddress
    var options = CallOptions()

    /// Larger messages may have to be fetched from their sender's memory.
    static let inlineMax = 700
    private static let timeouts: [Duration?] = [
        .milliseconds(15), .milliseconds(150), .milliseconds(600), .seconds(2), .seconds(2), nil,
    ]

    /// Whether the callee may use memory of the caller.
    var exposes: Bool { !segments.isEmpty || requestSize > TransportPlan.inlineMax }

    init(targets: [TransportTarget], sizeMax: Int, _ entropy: inout Entropy) {
        func draw(_ count: Int) -> Int { Int(entropy.below(UInt64(count))) }
        kind = Kind(&entropy)
        target = targets[draw(targets.count)]
        next = targets[draw(targets.count)].address
        destination = .address(target.address)
        if let rank = target.rank {
            switch draw(3) {
            case 0: destination = .rank(rank, tag: target.tag)
            case 1: destination = .member(rank: rank, tag: target.tag, at: target.address)
            default: break
            }
        }
        timeout = TransportPlan.timeouts[draw(TransportPlan.timeouts.count)]
        cancelAfter =
            entropy.chance(1, in: 10) ? .microseconds(Int64(entropy.below(40_000))) : nil
        let isLarge = (entropy.chance(1, in: 6), entropy.chance(1, in: 6))
        requestSize = draw(isLarge.0 ? sizeMax : 300)
        replySize = draw(isLarge.1 ? sizeMax : 300)
        delay = entropy.chance(1, in: 4) ? UInt32(entropy.below(60_000)) : 0
        options.priority = RequestPriority.allCases[draw(RequestPriority.allCases.count)]
        options.isFirst = entropy.chance(1, in: 8)
        complete(sizeMax: sizeMax, &entropy)
    }

    private mutating func complete(sizeMax: Int, _ entropy: inout Entropy) {
        switch kind {
        case .get, .put:
            segments = (0...entropy.below(4)).map { _ in 1 + Int(entropy.below(UInt64(sizeMax))) }
        case .note:
            requestSize = Int(entropy.below(300))
        case .deferred, .slow:
            delay = UInt32(entropy.below(entropy.chance(1, in: 10) ? 800_000 : 60_000))
        case .wrongVersion:
            options.groupVersion = .max
        case .wrongTag:
            destination = .member(rank: target.rank ?? 0, tag: 9_999, at: target.address)
        case .echo, .synchronous, .payload, .dropped, .fail, .forward, .unknown:
            break
        }
    }

    func request(_ number: UInt64) -> TransportRequest {
        var request = TransportRequest()
        request.number = number
        request.replySize = UInt32(replySize)
        request.delay = delay
        request.isDropped = kind == .dropped
        request.bytes = NumberedBytes(number, .request).make(requestSize)
        request.next = kind == .forward ? next : nil
        return request
    }
}
