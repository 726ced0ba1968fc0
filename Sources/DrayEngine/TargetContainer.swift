internal import CaRT
internal import DrayChecksums
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime

/// What a target knows of a container: one look finds all that a request is checked against.
final class TargetContainer {
    let record: ContainerRecord
    /// The one it is in.
    let pool: PoolRecord
    private let secret: PoolSecret
    /// The tag of each capability that there is. Made when the first request comes.
    @safe @exclusivity(unchecked) private var tags: (readOnly: UInt128, readWrite: UInt128)?

    init(_ record: ContainerRecord, in pool: PoolRecord, _ secret: PoolSecret) {
        self.record = record
        self.pool = pool
        self.secret = secret
    }

    /// Throws when a request was made for another map of the pool.
    func check(mapVersion: UInt32) throws(RPCError) {
        guard mapVersion == pool.map.version else {
            throw .service(.staleMap, "the pool has changed")
        }
    }

    /// Throws unless a capability is one of this container, for what the request needs.
    func check(_ capability: Capability, for access: ContainerAccess) throws(RPCError) {
        let tags = tags ?? makeTags()
        let expected =
            switch capability.access {
            case .readOnly: tags.readOnly
            case .readWrite: tags.readWrite
            }
        // All bits at once: how long it takes tells nobody how many of them are right.
        guard capability.tag ^ expected == 0 else {
            throw .service(
                .notPermitted,
                "the request does not show that the container was opened; open it again")
        }
        guard access == .readOnly || capability.access == .readWrite else {
            throw .service(
                .notPermitted,
                "the container was opened for reading only; open it for writing to change it")
        }
    }

    private func makeTags() -> (readOnly: UInt128, readWrite: UInt128) {
        let made = (
            readOnly: secret.capability(for: record.id, .readOnly).tag,
            readWrite: secret.capability(for: record.id, .readWrite).tag
        )
        tags = made
        return made
    }
}

extension PoolSecret {
    /// What an engine gives to who opens a container.
    func capability(for container: UniqueID, _ access: ContainerAccess) -> Capability {
        let code = AuthenticationCode.hmacSHA256(
            of: container.encoded() + [access.rawValue], key: key)
        return Capability(access, tag: code.prefix(16).reduce(0) { $0 << 8 | UInt128($1) })
    }
}
