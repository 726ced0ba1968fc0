internal import CaRT
internal import DrayProtocol

/// Opening containers.
extension SystemService {
    /// Opens containers, for whatever is asked: everybody may. No engine remembers it, since any of
    /// them makes the same capability.
    func open(_ request: ContainerOpenRequest) async throws(RPCError) -> ContainerOpenReply {
        let metadata = await readNewest().metadata
        guard let secret = metadata.secret(of: request.pool) else {
            throw .service(.notFound, "the pool does not exist (any more)")
        }
        var reply = ContainerOpenReply()
        for record in metadata.containers where record.pool == request.pool {
            guard request.label == nil || request.label == record.label else { continue }
            reply.containers.append(
                OpenedContainer(record, secret.capability(for: record.id, request.access)))
        }
        return reply
    }
}
