/// A script whose every moment is crashed.
package struct CrashScenario: Sendable {
    package var name: String
    /// With fewer boundaries of writes and flushes the script has lost its point.
    var boundariesMin: Int
    package var shape = SimulatedStore.Shape()
    /// Makes and opens the store; without it the script begins with an empty device.
    package var isFormatted = true
    /// What happens before the moments that count. The store is open.
    package var prepare: @Sendable (StorePlayer) async throws -> Void = { _ in }
    /// What is crashed at every moment.
    package var play: @Sendable (StorePlayer) async throws -> Void
    /// Whether the device may be too full for more updates afterwards.
    package var fillsDevice = false
    /// What a crash leaves may fill the device, until something is dropped.
    package var isTight = false
    /// Also what recovers from one in so many crashes is crashed at every moment; and again, as
    /// often as `recoveryDepth` says.
    package var recoveryPeriod = 40
    package var recoveryDepth = 1

    package init(
        _ name: String, boundaries: Int,
        _ play: @escaping @Sendable (StorePlayer) async throws -> Void
    ) {
        self.name = name
        boundariesMin = boundaries
        self.play = play
    }

    /// Everything that a store can be in the middle of when the power fails.
    package static let all: [CrashScenario] = updates + store

    static let object = StoreNames.object
}
