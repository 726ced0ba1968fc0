internal import DrayProtocol
internal import DrayRuntime
internal import VOS

extension StoreScrub {
    /// Does what is asked of the scrubber of a store, and says how it is then. `target` is nil for
    /// the engine's own store.
    static func serve(_ request: ScrubRequest, _ vos: VOS, target: UInt32?) -> StoreScrub {
        switch request.action {
        case .query: break
        case .start: vos.startScrub(rate: request.rate > 0 ? request.rate : nil)
        case .stop: vos.stopScrub()
        }
        let status = vos.scrubStatus
        var scrub = StoreScrub()
        scrub.target = target
        scrub.current = status.current.map(ScrubProgress.init)
        scrub.last = status.last.map(ScrubProgress.init)
        scrub.passes = status.passes
        scrub.bytes = status.bytes
        scrub.errors = status.errors
        scrub.findings = status.findings.prefix(StoreScrub.findingsMax).map(ScrubFinding.init)
        return scrub
    }
}

extension ScrubProgress {
    fileprivate init(_ pass: ScrubPass) {
        self.init()
        started = pass.started
        ended = pass.ended
        isComplete = pass.isComplete
        bytes = pass.bytes
        bytesTotal = pass.bytesTotal
        tables = pass.tables
        values = pass.values
        errors = pass.errors
    }
}

extension ScrubFinding {
    fileprivate init(_ finding: StoreFinding) {
        self.init()
        part = finding.part.rawValue
        what = ScrubFinding.limited(finding.what)
        value = finding.entry.map(ScrubbedValue.init)
        table = finding.table
        block = finding.block
        device = ScrubFinding.limited(finding.device ?? "")
        offset = finding.offset
    }

    /// Text that can be sent.
    private static func limited(_ text: String) -> String {
        guard text.utf8.count > textMax else { return text }
        return String(decoding: text.utf8.prefix(textMax / 4), as: UTF8.self)
    }
}

extension ScrubbedValue {
    fileprivate init(_ name: StoreEntry.Name) {
        self.init()
        pool = name.pool
        container = name.container
        object = name.object
        dkey = Array((name.dkey ?? []).prefix(ScrubbedValue.keyMax))
        akey = Array((name.akey ?? []).prefix(ScrubbedValue.keyMax))
        offset = name.offset
        length = UInt64(name.byteCount)
        epoch = name.epoch
    }
}

extension SystemService {
    /// Does what is asked of the scrubbers of all stores.
    func scrub(_ request: ScrubRequest) async -> ScrubReply {
        var reply = ScrubReply()
        reply.stores.append(StoreScrub.serve(request, vos, target: nil))
        for target in targets {
            reply.stores.append(
                await target.xstream.run {
                    let service = target.value
                    return StoreScrub.serve(request, service.vos, target: UInt32(service.index))
                })
        }
        return reply
    }
}
