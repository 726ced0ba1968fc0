public import DrayRuntime

/// Opens devices. The `World` carries one (`world.devices`).
public protocol DeviceStore: Sendable {
    /// Creates a file of `size` bytes with its space reserved, for `open` to use. Throws
    /// `.foreign` when something stands there already.
    func create(path: String, size: UInt64) throws(BIOError)

    /// Opens a device for the calling xstream, for its exclusive use by this process. Several
    /// xstreams of one process may open the same path.
    func open(path: String, on xstream: XStream) throws(BIOError) -> BlockDevice

    /// Whether two paths lead to one device.
    func isSame(_ path: String, _ other: String) -> Bool
}

extension DeviceStore {
    public func isSame(_ path: String, _ other: String) -> Bool { path == other }
}

private enum DeviceStoreKey: WorldKey {
    typealias Value = any DeviceStore
}

extension World {
    /// The devices of this world.
    public var devices: any DeviceStore {
        get { self[DeviceStoreKey.self] }
        set { self[DeviceStoreKey.self] = newValue }
    }
}
