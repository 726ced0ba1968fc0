/// Handlers by opcode: base, then version, then index.
struct ProcedureTable {
    /// Answers a request whose message is held by the request context.
    ///
    /// A struct, as the language wraps a bare closure anew whenever it is taken out of an array or
    /// a `Result`, at an allocation each time.
    ///
    /// It gets the context that received the request, which the request knows, too: to look there
    /// counts references.
    struct Handler {
        let answer: (RequestContext, Context) -> Void
    }

    private struct Version {
        var version: UInt8
        /// By index.
        var handlers: [Handler?] = []
    }

    /// By base.
    private var bases: [[Version]] = Array(repeating: [], count: 256)

    /// A procedure's index is below this.
    static let indexMax = 4096

    /// Adds a handler. Each opcode has one.
    mutating func add(_ opcode: UInt32, _ answer: @escaping (RequestContext, Context) -> Void) {
        let base = Int(opcode >> 24)
        let version = UInt8(truncatingIfNeeded: opcode >> 16)
        let index = Int(opcode & 0xffff)
        precondition(index < ProcedureTable.indexMax, "a procedure's index is too large")
        var position = bases[base].firstIndex { $0.version == version } ?? bases[base].count
        if position == bases[base].count {
            position = bases[base].firstIndex { $0.version > version } ?? position
            bases[base].insert(Version(version: version), at: position)
        }
        while bases[base][position].handlers.count <= index {
            bases[base][position].handlers.append(nil)
        }
        precondition(
            bases[base][position].handlers[index] == nil, "a procedure is registered once")
        bases[base][position].handlers[index] = Handler(answer: answer)
    }

    /// The handler of an opcode, or why there is none.
    func find(_ opcode: UInt32) -> Result<Handler, RPCError> {
        let base = Int(opcode >> 24)
        let version = UInt8(truncatingIfNeeded: opcode >> 16)
        let index = Int(opcode & 0xffff)
        guard !bases[base].isEmpty else { return .failure(.unknownProcedure) }
        for position in bases[base].indices where bases[base][position].version == version {
            guard index < bases[base][position].handlers.count,
                let handler = bases[base][position].handlers[index]
            else { return .failure(.unknownProcedure) }
            return .success(handler)
        }
        return .failure(.protocolVersion)
    }

    /// The versions of a protocol, ascending.
    func versions(of base: UInt8) -> [UInt8] {
        bases[Int(base)].map(\.version)
    }
}
