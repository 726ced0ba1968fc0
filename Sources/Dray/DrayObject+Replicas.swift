package import DrayPlacement
package import DrayProtocol
internal import DrayRuntime

extension DrayObject {
    /// What each replica of each redundancy group has, group by group. For comparison.
    package func replicas() async throws(DrayError)
        -> [[(target: TargetAddress, values: [InspectedValue])]]
    {
        let object = self
        return try await container.pool.cluster.onCore { core throws(DrayError) in
            let layout = try core.layout(of: object)
            var groups: [[(target: TargetAddress, values: [InspectedValue])]] = []
            for group in 0..<layout.groupCount {
                var replicas: [(target: TargetAddress, values: [InspectedValue])] = []
                for target in layout.members(ofGroup: group) {
                    let values = try await core.inspect(object, group: group, replica: target)
                    replicas.append((target, values))
                }
                groups.append(replicas)
            }
            return groups
        }
    }
}
