/// The task that runs a body of `XStream.spawnWithTask`, for whoever may want to cancel it.
///
/// Confined to its xstream. Forget it when the body returns: the task runs other bodies then.
public final class SpawnedTask: @unchecked Sendable {
    // SAFETY of `@unchecked Sendable`: touched only by the thread that runs its xstream.
    @safe @exclusivity(unchecked) private var task: Task<Void, Never>?
    @safe @exclusivity(unchecked) private(set) var isCancelled = false

    init() {}

    /// Cancels the task of the body that runs in it. Harmless when it was cancelled before.
    public func cancel() {
        isCancelled = true
        task?.cancel()
    }

    /// `task` will run what it is for.
    func begin(_ task: Task<Void, Never>) { self.task = task }

    /// The task is over.
    func end() { task = nil }
}
