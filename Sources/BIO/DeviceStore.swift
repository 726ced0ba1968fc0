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

    /// What the controller of an NVMe device says of its health; nil for any other device, and
    /// where it cannot be asked. Called on `xstream`, which goes on meanwhile: a controller takes
    /// as long as it likes. Somebody may have the device open, or nobody.
    func health(of path: String, on xstream: XStream) async -> NVMeHealth?

    /// Whether there is any point in asking for the health of a device. Cheap.
    func mayHaveHealth(_ path: String) -> Bool
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
