internal import Dray
internal import DrayRuntime

extension FileSystem {
    /// The object that every container keeps its superblock in.
    static func superblockID(of container: Container) -> ObjectID {
        ObjectID(high: 0, low: 0)
    }
}
