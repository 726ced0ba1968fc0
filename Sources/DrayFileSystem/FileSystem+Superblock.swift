internal import Dray
internal import DrayPlacement
internal import DrayRuntime

extension FileSystem {
    /// The object that every container keeps its superblock in. One shard, whatever the
    /// container's class is, so that it is found in a pool of any size.
    static func superblockID(of container: Container) -> ObjectID {
        ObjectID(objectClass: .s1, targetCount: 1, random: (high: 0x4446_5353, low: 0))
    }
}
