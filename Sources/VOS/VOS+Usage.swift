extension VOS {
    /// Whether nothing is under way: no update, no read, no lock, no work in the background. For
    /// tests and simulations.
    package var isQuiet: Bool {
        operations == 0 && locks.heldCount == 0 && epochsInFlight.isEmpty && inProgress.isEmpty
            && !isAggregating && !isCheckpointing && !isMerging
    }
}
