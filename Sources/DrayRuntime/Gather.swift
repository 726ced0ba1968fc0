/// Collects the results of a known number of tasks of one xstream, in order.
///
/// Confined to its xstream.
@safe public final class Gather<Value> {
    @safe @exclusivity(unchecked) private var values: [Value?]
    @safe @exclusivity(unchecked) private var missing: Int
    @safe @exclusivity(unchecked) private var waiter: SuspendedTask?

    public init(count: Int) {
        values = Array(repeating: nil, count: count)
        missing = count
    }

    /// Task number `index` has its result. Once for each.
    public func finish(_ index: Int, with value: Value) {
        precondition(values[index] == nil, "a task finished twice")
        values[index] = value
        missing -= 1
        guard missing == 0, let waiter else { return }
        self.waiter = nil
        waiter.resume()
    }

    /// Waits for all and gives the results.
    public func results() async -> [Value] {
        if missing > 0 {
            await SuspendedTask.suspend { waiter = $0 }
        }
        return values.map { $0! }
    }
}
