/// Carries a value of one xstream across a `Sendable` boundary, back to that same xstream.
struct Confined<Value>: @unchecked Sendable {
    // SAFETY: only the runtime makes these, and unwraps them on the xstream they belong to, or
    // under the lock that guards them.
    let value: Value

    init(_ value: Value) { self.value = value }
}

/// Carries the body of a task to the xstream it belongs to. Not a `Confined`, because a closure in
/// a generic box costs a thunk: one more asynchronous call each time it is run.
struct TaskBody: @unchecked Sendable {
    // SAFETY: only the runtime makes these, and runs them on the xstream they belong to.
    let run: () async -> Void
}

/// The body of a worker's task, as it was spawned.
enum WorkerBody: @unchecked Sendable {
    // SAFETY: only the runtime makes these, and runs them on the xstream they belong to.
    case plain(() async -> Void)
    /// It is told which task it runs in.
    case told((SpawnedTask) async -> Void)
}
