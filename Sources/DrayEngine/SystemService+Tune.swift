internal import CaRT
internal import DrayProtocol
internal import DrayRuntime

extension SystemService {
    /// Changes log masks and injected faults: all of it, or nothing.
    func tune(_ request: TuneRequest) throws(RPCError) -> TuneReply {
        var rules: [FaultRule]?
        if let texts = request.faults {
            guard configuration.allowsFaults || texts.isEmpty else {
                throw .service(
                    .invalidArgument,
                    "faults are off; start the engine with 'faults: on' (or DRAY_FAULTS=on)")
            }
            do throws(FaultRuleError) {
                var parsed: [FaultRule] = []
                for text in texts { parsed.append(try FaultRule(parsing: text)) }
                rules = parsed
            } catch {
                throw .service(.invalidArgument, "\(error)")
            }
        }
        if let mask = request.logMask {
            do throws(LogMaskError) {
                try world.log.set(mask: mask)
            } catch {
                throw .service(.invalidArgument, "\(error)")
            }
        }
        if let rules { world.faults.set(rules) }
        var reply = TuneReply()
        reply.logMask = world.log.mask
        reply.faults = world.faults.counts.map { count in
            var fault = TuneReply.Fault()
            fault.rule = count.rule.text
            fault.passed = count.passed
            fault.struck = count.struck
            return fault
        }
        return reply
    }
}
