internal import Yams

extension EngineSettings {
    /// Reads the values of a configuration file. `engines` may be text, or a list of mappings
    /// with `rank`, `address` (one, or a list) and `targets`; `provider` and `device` text or a
    /// list.
    ///
    /// Throws for a key that does not exist, so that a misspelt one is not silently ignored.
    static func parse(file text: String, name: String) throws(CommandFailure) -> [Key: String] {
        let root: Node?
        do {
            root = try compose(yaml: text)
        } catch {
            throw CommandFailure(.usage, name, "is no YAML: \(error)")
        }
        guard let root else { return [:] }
        guard let mapping = root.mapping else {
            throw CommandFailure(.usage, name, "is not a mapping of keys to values")
        }
        var values: [Key: String] = [:]
        for (keyNode, value) in mapping {
            let place = "\(name):\(keyNode.mark?.line ?? 0)"
            guard let keyText = keyNode.string, let key = Key(rawValue: keyText) else {
                let known = Key.allCases.map(\.rawValue).joined(separator: ", ")
                throw CommandFailure(
                    .usage, place, "unknown key '\(keyNode.string ?? "?")'",
                    advice: "known are \(known)")
            }
            if key == .engines, let list = value.sequence {
                values[key] = try list.map { node throws(CommandFailure) in
                    try engine(node, place: place)
                }.joined(separator: ",")
            } else if key == .provider, let list = value.sequence {
                values[key] = list.compactMap(\.string).joined(separator: ",")
            } else if key == .device, let list = value.sequence, !list.isEmpty {
                values[key] = list.compactMap(\.string)
                    .joined(separator: EngineSettings.separator)
            } else if let scalar = value.scalar {
                values[key] = scalar.string
            } else {
                throw CommandFailure(.usage, place, "\(key.rawValue) must be one value")
            }
        }
        return values
    }

    private static func engine(_ node: Node, place: String) throws(CommandFailure) -> String {
        guard let mapping = node.mapping, let rank = mapping["rank"]?.string,
            let address = addresses(mapping["address"]), let targets = mapping["targets"]?.string,
            mapping.count == 3
        else {
            throw CommandFailure(
                .usage, place, "an engine needs exactly rank, address and targets")
        }
        return "\(rank)=\(address)*\(targets)"
    }

    private static func addresses(_ node: Node?) -> String? {
        guard let list = node?.sequence else { return node?.string }
        return list.isEmpty ? nil : list.compactMap(\.string).joined(separator: "|")
    }
}
