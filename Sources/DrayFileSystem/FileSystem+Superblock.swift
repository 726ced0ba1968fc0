internal import Dray
internal import DrayPlacement
internal import DrayRuntime

extension FileSystem {
    /// The object that every container keeps its superblock in. One group, whatever the
    /// container's class is, so that it is found in a pool of any size; protected like the rest.
    static func superblockID(of container: Container) -> ObjectID {
        ObjectID(
            singleGroupOf: container.objectClass, random: (high: 0x4446_5353, low: 0))
    }
}
