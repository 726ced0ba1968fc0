package import CaRT

extension Cluster {
    /// What the client's context holds now. For tests and simulations.
    package var usage: ContextUsage {
        get async { await onCore { core in core.context.usage } }
    }
}
