internal import DrayFabric
internal import DrayRuntime

extension Context {
    /// Passes a fault point: goes on, waits, or fails. For when there are rules at all
    /// (`faults.isArmed`): calling an asynchronous function costs more than to look.
    func pass(_ point: FaultPoint) async throws(RPCError) {
        switch faults.strike(point) {
        case nil: break
        case .fail(let fault): throw RPCError(fault)
        case .wait(let delay): await xstream.sleep(for: delay)
        }
    }
}

extension RPCError {
    /// What an injected fault of a point of CaRT ends with.
    init(_ fault: FaultError) {
        switch fault {
        case .unreachable: self = .unreachable
        case .overloaded: self = .overloaded
        case .timedOut: self = .timedOut
        case .noReply: self = .noReply
        case .staleGroup: self = .staleGroup
        case .groupVersion: self = .groupVersion
        case .badKey: self = .fabric(.badKey)
        case .lost, .tryAgain, .noMemory, .busy, .staleMap, .aborted, .noSpace, .inputOutput:
            preconditionFailure("no call fails with the fault '\(fault.rawValue)'")
        }
    }
}
