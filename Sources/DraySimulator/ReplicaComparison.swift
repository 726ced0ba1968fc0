package import Dray
internal import DrayPlacement
internal import DrayProtocol

/// Compares all replicas of objects: values, epochs, and the checksums of what devices give.
package enum ReplicaComparison {
    /// What is different, in words; one line for each redundancy group.
    package static func differences(in object: DrayObject) async throws(DrayError) -> [String] {
        var differences: [String] = []
        for (group, replicas) in try await object.replicas().enumerated() {
            guard let first = replicas.first else { continue }
            for other in replicas.dropFirst() where other.values != first.values {
                let what = describe(first.values, other.values)
                differences.append(
                    "object \(object.id), group \(group): targets \(name(first.target)) and "
                        + "\(name(other.target)) differ: \(what)")
            }
            for replica in replicas {
                for value in replica.values where value.isCorrupt {
                    differences.append(
                        "object \(object.id), target \(name(replica.target)): dkey "
                            + "\(value.dkey) is damaged")
                }
            }
        }
        return differences
    }

    private static func name(_ target: TargetAddress) -> String {
        "\(target.rank).\(target.target)"
    }

    private static func describe(_ first: [InspectedValue], _ other: [InspectedValue]) -> String {
        for (left, right) in zip(first, other) where left != right {
            return "dkey \(left.dkey) at \(left.offset), \(left.length) bytes of epoch "
                + "\(left.epoch), and dkey \(right.dkey) at \(right.offset), \(right.length) "
                + "bytes of epoch \(right.epoch)"
        }
        return "\(first.count) values and \(other.count)"
    }
}
