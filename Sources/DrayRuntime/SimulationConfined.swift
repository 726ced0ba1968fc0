/// A value that belongs to a simulation: it may be carried anywhere and is reached only on the
/// simulation's thread. For what the simulated processes share, such as a network or disks that
/// survive a crash.
public struct SimulationConfined<Value>: @unchecked Sendable {
    // SAFETY of `@unchecked Sendable`: `value` traps on every thread but the simulation's.
    private let simulation: Simulation
    private let confined: Value

    public init(_ value: Value, to simulation: Simulation) {
        simulation.checkThread()
        self.simulation = simulation
        confined = value
    }

    /// The value. Traps on a foreign thread.
    public var value: Value {
        simulation.checkThread()
        return confined
    }
}
