public import DrayFabric
public import DrayRuntime

extension Context {
    /// Runs `body` with a context on an xstream of its own; closes both when it returns or throws.
    ///
    /// All of `body`, and the handlers that it registers, run on that xstream: nothing they share
    /// needs a lock, and nothing in them may block the thread. Cancelling the caller cancels the
    /// task that runs `body`. Other tasks of the xstream do not go on after it: wait for them in
    /// `body` where that matters.
    ///
    /// ```swift
    /// try await Context.run(at: "ofi+tcp://127.0.0.1:31416") { context in
    ///     context.register(Greeting.hello) { name, _ in Answer(text: "hello \(name.text)") }
    ///     await context.waitUntilClosed()
    /// }
    /// ```
    ///
    /// A process with several contexts makes its xstreams itself (`World.makeXStream`).
    ///
    /// - Parameters:
    ///   - address: what to listen on, such as `ofi+tcp://HOST:PORT`; without host and port, a free
    ///     port of 127.0.0.1. See `Fabric.makeEndpoint`.
    ///   - options: nil for the defaults.
    ///   - world: this machine, unless it is given.
    ///   - name: of the xstream, for its thread and logs.
    ///   - body: what is done with the context.
    /// - Throws: `RPCError.fabric` when the address cannot be used; what `body` throws.
    public static func run<Value: Sendable>(
        at address: String, options: ContextOptions? = nil, in world: World = .libfabric(),
        name: String = "cart", _ body: sending @escaping (Context) async throws -> Value
    ) async throws -> Value {
        let xstream = world.makeXStream(name: name)
        defer { xstream.stop() }
        return try await xstream.run { () async throws -> Value in
            let context = try Context(
                world: world, xstream: xstream, address: address,
                options: options ?? ContextOptions(world: world))
            let result: Result<Value, any Error>
            do {
                result = .success(try await body(context))
            } catch {
                result = .failure(error)
            }
            await context.close()
            // Whoever waited for the end has a turn before the xstream stops.
            await xstream.yield()
            return try result.get()
        }
    }

    /// Waits until the context is closed, or the calling task is cancelled: the rest of a server's
    /// life. A handler that ends the server starts `close()` in a task of its own.
    public func waitUntilClosed() async {
        await end.waitOrCancel(on: xstream)
    }
}
