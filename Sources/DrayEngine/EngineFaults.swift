internal import CaRT
internal import DrayProtocol
internal import DrayRuntime

extension FaultTable {
    /// Passes a fault point of the engine: goes on, waits, or fails. For when there are rules at
    /// all (`isArmed`).
    func pass(_ point: FaultPoint, on xstream: XStream) async throws(RPCError) {
        switch strike(point) {
        case nil: break
        case .fail(let fault): throw RPCError(injected: fault)
        case .wait(let delay): await xstream.sleep(for: delay)
        }
    }
}

extension RPCError {
    /// What an injected fault of a point of the engine ends with.
    fileprivate init(injected fault: FaultError) {
        switch fault {
        case .busy: self = .service(.busy, "the same request is being served (injected)")
        case .staleMap: self = .service(.staleMap, "the pool has changed (injected)")
        case .aborted: self = .service(.aborted, "the transaction was aborted (injected)")
        case .noSpace: self = .service(.noSpace, "the target is full (injected)")
        case .inputOutput: self = .service(.device, "Input/output error (injected)")
        case .lost, .tryAgain, .unreachable, .overloaded, .timedOut, .noReply, .staleGroup,
            .groupVersion, .badKey, .noMemory:
            preconditionFailure("no request fails with the fault '\(fault.rawValue)'")
        }
    }
}
