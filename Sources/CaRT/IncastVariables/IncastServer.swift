internal import DrayRuntime

/// The variables of one class, whatever its types.
protocol IncastServer: AnyObject {
    func serve(
        _ request: IncastProtocol.FetchRequest, _ operation: IncastOperation
    ) async throws(RPCError) -> IncastProtocol.FetchReply

    func serve(
        _ request: IncastProtocol.UpdateRequest, _ operation: IncastOperation
    ) async throws(RPCError) -> IncastProtocol.UpdateReply

    func serve(
        _ request: IncastProtocol.RefreshRequest, _ operation: IncastOperation
    ) async throws(RPCError) -> IncastProtocol.RefreshReply

    func groupChanged(_ event: Group.Event, wasAbsent: Bool)

    /// Ends whatever waits.
    func interrupt(_ error: RPCError)

    /// Whether nothing is under way.
    var isIdle: Bool { get }
}

/// The namespaces of a context. Does not keep them.
struct IncastTable {
    private struct Entry {
        weak var namespace: IncastNamespace?
    }

    private var entries: [UInt32: Entry] = [:]

    mutating func add(_ namespace: IncastNamespace) {
        precondition(
            find(namespace.number) == nil, "a context has one namespace of a number")
        entries[namespace.number] = Entry(namespace: namespace)
    }

    mutating func remove(_ namespace: IncastNamespace) {
        entries[namespace.number] = nil
    }

    func find(_ number: UInt32) -> IncastNamespace? { entries[number]?.namespace }
}

extension Context {
    /// Answers the requests of the namespaces of other members.
    func registerIncast() {
        registerDeferred(IncastProtocol.fetch) { message, reply in
            Context.serve(.fetch, message.address, reply) {
                (server, operation) throws(RPCError) in
                try await server.serve(message, operation)
            }
        }
        registerDeferred(IncastProtocol.update) { message, reply in
            Context.serve(.update, message.address, reply) {
                (server, operation) throws(RPCError) in
                try await server.serve(message, operation)
            }
        }
        registerDeferred(IncastProtocol.refresh) { message, reply in
            Context.serve(.refresh, message.address, reply) {
                (server, operation) throws(RPCError) in
                try await server.serve(message, operation)
            }
        }
    }

    private static func serve<Reply: Message>(
        _ kind: IncastJob.Kind, _ address: IncastProtocol.Address, _ reply: DeferredReply<Reply>,
        _ body: @escaping (any IncastServer, IncastOperation) async throws(RPCError) -> Reply
    ) {
        let request = reply.request
        guard let namespace = request.context.incast.find(address.namespace),
            let server = namespace.server(address.number)
        else { return reply.fail(.unknownProcedure) }
        let operation = IncastOperation(
            limit: namespace.limit(of: .at(request.deadline)), trace: request.trace,
            source: request.sourceRank, isDirect: false)
        // A reply that is dropped with the job answers; it must not be kept by the request.
        request.onCancel { [weak operation] in operation?.giveUp() }
        namespace.admit(kind, number: address.number, request: request) {
            do throws(RPCError) {
                reply.reply(try await body(server, operation))
            } catch {
                reply.fail(error)
            }
        }
    }
}
