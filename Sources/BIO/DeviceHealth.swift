internal import Synchronization

/// Whether a device is in service, as everybody in this process knows who has it open
/// (`BlockDevice.health`).
///
/// After a write or a flush that failed nobody knows what is on a device: a later flush may succeed
/// although something was lost that another xstream wrote. So it goes out of service for all of its
/// stores at once, and stays so until somebody makes another one of these.
public final class DeviceHealth: Sendable {
    // Ordering: a hint. A store that sees the flag late finds out for itself.
    private let hasFailed = Atomic<Bool>(false)
    private let whenFailed: @Sendable (BIOError) -> Void

    /// In service. `whenFailed` is called with the first error, on the xstream that met it.
    public init(whenFailed: @escaping @Sendable (BIOError) -> Void = { _ in }) {
        self.whenFailed = whenFailed
    }

    /// Whether an error took the device out of service.
    public var isOutOfService: Bool { hasFailed.load(ordering: .relaxed) }

    func fail(_ error: BIOError) {
        guard !hasFailed.exchange(true, ordering: .relaxed) else { return }
        whenFailed(error)
    }
}
