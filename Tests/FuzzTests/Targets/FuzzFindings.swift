/// Inputs that a target once did not survive, each with what it was.
enum FuzzFindings {
    static func inputs(of target: FuzzTarget) -> [[UInt8]] {
        switch target {
        case .header, .control, .bulk, .group, .groupText, .swim, .collectives, .incast, .objects,
            .transactions, .management, .metrics, .address, .context:
            []
        }
    }
}
