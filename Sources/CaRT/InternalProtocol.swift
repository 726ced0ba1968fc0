internal import BasicContainers
public import DrayFabric
internal import DrayRuntime

/// CaRT's own procedures: where a rank is, and which versions of a protocol there are.
enum InternalProtocol {
    static let id = ProtocolID(reserved: 0xff, version: 2)
    static let lookUp = Procedure<RankQuestion, AddressAnswer>(id, index: 1, name: "cart.lookUp")
    static let versions = Procedure<ProtocolQuestion, VersionsAnswer>(
        id, index: 2, name: "cart.versions")
    static let group = Procedure<EmptyMessage, GroupSnapshot>(id, index: 3, name: "cart.group")

    /// A member has at most so many contexts.
    static let tagsMax = 1024

    struct RankQuestion: Message {
        var rank: UInt32 = 0

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&rank)
        }
    }

    struct AddressAnswer: Message {
        /// Which life of the member is there.
        var incarnation: UInt64 = 0
        var addresses: [FabricAddress] = []

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&incarnation)
            try coder.code(&addresses, max: InternalProtocol.tagsMax)
        }
    }

    struct ProtocolQuestion: Message {
        var base: UInt8 = 0

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&base)
        }
    }

    struct VersionsAnswer: Message {
        var versions: [UInt8] = []

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&versions, max: 256)
        }
    }
}

extension Context {
    /// Answers look-ups, version queries, and what belongs to collectives and incast variables.
    func registerInternals() {
        registerCollectives()
        registerBarriers()
        registerIncast()
        registerSynchronous(InternalProtocol.lookUp) { question, request throws(RPCError) in
            guard let member = request.context.group.member(question.rank) else {
                throw .staleGroup
            }
            request.context.counts.lookUpsAnswered += 1
            return InternalProtocol.AddressAnswer(
                incarnation: member.incarnation,
                addresses: Array(member.addresses.prefix(InternalProtocol.tagsMax)))
        }
        registerSynchronous(InternalProtocol.group) { _, request throws(RPCError) in
            GroupSnapshot(request.context.group)
        }
        registerSynchronous(InternalProtocol.versions) { question, request throws(RPCError) in
            InternalProtocol.VersionsAnswer(
                versions: request.context.procedures.versions(of: question.base))
        }
    }

    /// Asks a peer where the tags of `rank` are, by the peer's group map.
    ///
    /// - Throws: `.staleGroup` when the peer does not know the rank.
    public func lookUp(
        rank: UInt32, at destination: Destination, deadline: Deadline = .standard
    ) async throws(RPCError) -> [FabricAddress] {
        try await answerToLookUp(of: rank, at: destination, deadline).addresses
    }

    func answerToLookUp(
        of rank: UInt32, at destination: Destination, _ deadline: Deadline
    ) async throws(RPCError) -> InternalProtocol.AddressAnswer {
        try await call(
            InternalProtocol.lookUp, InternalProtocol.RankQuestion(rank: rank), to: destination,
            deadline: deadline)
    }

    /// The highest version of protocol `base` in `versions` that the peer answers, if any.
    ///
    /// The peer is asked once, and again when it has started anew.
    public func negotiate(
        base: UInt8, versions: ClosedRange<UInt8>, with destination: Destination,
        deadline: Deadline = .standard
    ) async throws(RPCError) -> UInt8? {
        let peer = try peerNumber(of: destination)
        let key = ProtocolKey(peer: peer, base: base)
        if let known = knownVersions[key], tracker.peers[Int(peer)].instance == known.instance {
            return known.versions.filter { versions.contains($0) }.max()
        }
        let answer = try await call(
            InternalProtocol.versions, InternalProtocol.ProtocolQuestion(base: base),
            to: destination, deadline: deadline)
        knownVersions[key] = KnownVersions(
            instance: tracker.peers[Int(peer)].instance, versions: answer.versions)
        return answer.versions.filter { versions.contains($0) }.max()
    }
}

/// A protocol of a peer.
struct ProtocolKey: Hashable {
    var peer: Int32
    var base: UInt8
}

/// The versions that an instance of a peer said it answers.
struct KnownVersions {
    var instance: UInt64
    var versions: [UInt8]
}
