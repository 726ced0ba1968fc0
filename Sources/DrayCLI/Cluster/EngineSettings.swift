internal import BIO
internal import CaRT
internal import DrayEngine
internal import DrayFabric
internal import DrayProtocol
internal import DrayRuntime

/// What an engine is told: from flags, the environment, a file and defaults, in this order.
struct EngineSettings: Sendable {
    /// Where a value comes from.
    enum Source: String, Codable, Sendable {
        case flag, environment, file, `default`
    }

    /// One thing that can be set. The name is the key in the file; the flag is `--name` with
    /// hyphens, the variable `DRAY_NAME`.
    enum Key: String, CaseIterable, Sendable {
        case clusterID = "cluster_id"
        case rank
        case engines
        case provider
        case device
        case metadataDevice = "metadata_device"
        case inlineThreshold = "inline_threshold"
        case valueCache = "value_cache"
        case indexMemory = "index_memory"
        case scrubRate = "scrub_rate"
        case scrubInterval = "scrub_interval"
        case unreadablePlaces = "unreadable_places"
        case damagedPlaces = "damaged_places"
        case credits
        case timeout
        case eagerLimit = "eager_limit"
        case messageSizeMax = "message_size_max"
        case receives
        case bulks
        case progress
        case swimPeriod = "swim_period"
        case swimPingTimeout = "swim_ping_timeout"
        case swimSuspicionTimeout = "swim_suspicion_timeout"
        case logMask = "log_mask"
        case faults
        case processFile = "process_file"

        var variable: String { "DRAY_" + rawValue.uppercased() }
        var flag: String { "--" + rawValue.replacing("_", with: "-") }

        /// What may be chosen for all engines of a development cluster, each time they start.
        static var choices: [Key] {
            allCases.filter { key in
                switch key {
                case .clusterID, .rank, .engines, .provider, .device, .metadataDevice, .faults,
                    .processFile:
                    false
                case .inlineThreshold, .valueCache, .indexMemory, .scrubRate, .scrubInterval,
                    .unreadablePlaces, .damagedPlaces, .credits, .timeout, .eagerLimit,
                    .messageSizeMax, .receives, .bulks, .progress, .swimPeriod, .swimPingTimeout,
                    .swimSuspicionTimeout, .logMask:
                    true
                }
            }
        }

        /// What it is called where a process is told about its network; nil for anything else.
        var ofFabric: FabricConfiguration.Key? {
            switch self {
            case .timeout, .eagerLimit, .messageSizeMax, .receives, .bulks, .progress:
                FabricConfiguration.Key(rawValue: rawValue)
            case .clusterID, .rank, .engines, .provider, .device, .metadataDevice,
                .inlineThreshold, .valueCache, .indexMemory, .scrubRate, .scrubInterval,
                .unreadablePlaces, .damagedPlaces, .credits, .swimPeriod, .swimPingTimeout,
                .swimSuspicionTimeout, .logMask, .faults, .processFile:
                nil
            }
        }

        init?(_ key: FabricConfiguration.Key) { self.init(rawValue: key.rawValue) }

        /// The value when nobody sets one; nil for what must be set.
        var defaultValue: String? {
            switch self {
            case .clusterID, .engines, .device: nil
            case .rank: "0"
            case .provider, .metadataDevice: ""
            case .inlineThreshold: "4KiB"
            case .valueCache: "32MiB"
            case .indexMemory: "64MiB"
            case .scrubRate: "4MiB"
            case .scrubInterval: "7d"
            case .unreadablePlaces: "10"
            case .damagedPlaces: "200"
            case .credits: "128"
            case .timeout, .eagerLimit, .messageSizeMax, .receives, .bulks, .progress:
                ofFabric?.defaultText
            case .swimPeriod: "200ms"
            case .swimPingTimeout: "100ms"
            case .swimSuspicionTimeout: "5s"
            case .logMask: "warning"
            case .faults: "off"
            case .processFile: ""
            }
        }

        var explanation: String {
            switch self {
            case .clusterID: "identity of the cluster, as 8-4-4-4-12 hexadecimal digits"
            case .rank: "number of this engine in the cluster"
            case .engines:
                "every engine: RANK=ADDRESS*TARGETS, separated by commas; ADDRESS|ADDRESS for "
                    + "several networks, of which clients may use any, and engines the first"
            case .provider:
                "providers that the engines listen with, separated by commas: one that no address "
                    + "names gets the ports after those of the engine, or a name of shared memory"
            case .device:
                "device file, block device, NVMe generic device, or persistent memory; or a list "
                    + "of them (in DRAY_DEVICE: separated by commas), no more than the engine has "
                    + "targets"
            case .metadataDevice:
                "a faster device beside it for logs, index and small values; "
                    + "empty for none"
            case .inlineThreshold: "values shorter than this stay in the log and the index"
            case .valueCache: "memory of each target for values that are read often; 0 for none"
            case .indexMemory: "memory of each target for its index, of whatever size that is"
            case .scrubRate:
                "how much each target reads and verifies in a second when it scrubs; 0: only when "
                    + "'dray storage scrub --start' asks for it"
            case .scrubInterval: "how often a target scrubs all that it has; 1m or more"
            case .unreadablePlaces:
                "a device with more places that cannot be read goes out of service; off: never"
            case .damagedPlaces: "the same for places that do not match their checksums"
            case .credits: "requests in flight that each client is allowed per target"
            case .timeout, .eagerLimit, .messageSizeMax, .receives, .bulks, .progress:
                ofFabric?.explanation ?? ""
            case .swimPeriod: "how often another engine is asked whether it is alive"
            case .swimPingTimeout:
                "how long its answer may take before others ask it too; less than the period"
            case .swimSuspicionTimeout: "how long an engine that does not answer may still be alive"
            case .logMask: "LEVEL, then FACILITY=LEVEL for exceptions"
            case .faults:
                "off; on for 'dray engine faults'; or faults to inject, between semicolons"
            case .processFile: "where to write the process id; empty for nowhere"
            }
        }
    }

    /// A value and where it comes from.
    struct Value: Hashable, Sendable {
        var text: String
        var source: Source
    }

    private(set) var values: [Key: Value] = [:]

    /// Stands between several devices: no path has it. In the environment that is a comma.
    static let separator = "\0"

    /// Decides each value. Throws for one that is missing or cannot be read.
    init(
        flags: [Key: String], environment: (String) -> String?, file: [Key: String]
    ) throws(CommandFailure) {
        for key in Key.allCases {
            if let text = flags[key] {
                values[key] = Value(text: text, source: .flag)
            } else if let text = environment(key.variable), key.ofFabric == nil || !text.isEmpty {
                let list =
                    key == .device ? text.replacing(",", with: EngineSettings.separator) : text
                values[key] = Value(text: list, source: .environment)
            } else if let text = file[key] {
                values[key] = Value(text: text, source: .file)
            } else if let text = key.defaultValue {
                values[key] = Value(text: text, source: .default)
            }
        }
    }

    /// Reads `NAME=VALUE` for each of `texts`; the last of a name counts.
    static func choices(_ texts: [String]) throws(CommandFailure) -> [Key: String] {
        var choices: [Key: String] = [:]
        for text in texts {
            guard let equals = text.firstIndex(of: "="),
                let key = Key.choices.first(where: { $0.rawValue == text[..<equals] })
            else {
                let known = Key.choices.map(\.rawValue).joined(separator: ", ")
                throw CommandFailure(
                    .usage, "--setting", "'\(text)' is not NAME=VALUE of an engine's setting",
                    advice: "known are \(known)")
            }
            choices[key] = String(text[text.index(after: equals)...])
        }
        return choices
    }

    /// The value, or a failure that says how to set it.
    func text(_ key: Key) throws(CommandFailure) -> String {
        guard let value = values[key] else {
            throw CommandFailure(
                .usage, key.rawValue, "is not set",
                advice: "set it in the file, with \(key.variable), or with \(key.flag)")
        }
        return value.text
    }

    private func bad(_ key: Key, _ expected: String) -> CommandFailure {
        let value = values[key]
        return CommandFailure(
            .usage, key.rawValue,
            "cannot read '\(value?.text ?? "")' (from the \(value?.source.rawValue ?? "default"))",
            advice: "expected \(expected)")
    }

    /// The engine's configuration.
    func configuration() throws(CommandFailure) -> EngineConfiguration {
        guard let cluster = UniqueID(try text(.clusterID)) else {
            throw bad(.clusterID, Key.clusterID.explanation)
        }
        guard let rank = UInt32(try text(.rank)) else { throw bad(.rank, "a number from 0 on") }
        guard var engines = EngineSettings.engines(try text(.engines)) else {
            throw bad(.engines, Key.engines.explanation)
        }
        engines = try withProviders(engines, cluster)
        guard let threshold = Size(argument: try text(.inlineThreshold)),
            threshold.bytes <= 64 << 10
        else { throw bad(.inlineThreshold, "a size up to 64KiB") }
        guard let cache = Size(argument: try text(.valueCache)), cache.bytes <= 1 << 40 else {
            throw bad(.valueCache, "a size, such as 256MiB, or 0")
        }
        guard let index = Size(argument: try text(.indexMemory)),
            (256 << 10...1 << 40).contains(index.bytes)
        else { throw bad(.indexMemory, "a size, such as 64MiB, from 256KiB on") }
        guard let scrubRate = Size(argument: try text(.scrubRate)), scrubRate.bytes <= 1 << 40
        else { throw bad(.scrubRate, "a size, such as 4MiB, for each second; or 0") }
        guard let credits = UInt32(try text(.credits)) else {
            throw bad(.credits, "a number; 0 for any number of requests")
        }
        var configuration = EngineConfiguration(
            cluster: cluster, rank: rank, engines: engines,
            devicePaths: try text(.device).components(EngineSettings.separator))
        let metadataDevice = try text(.metadataDevice)
        configuration.metadataDevicePath = metadataDevice.isEmpty ? nil : metadataDevice
        configuration.inlineThreshold = Int(threshold.bytes)
        configuration.valueCacheBytes = Int(cache.bytes)
        configuration.indexBytes = Int(index.bytes)
        configuration.scrubRate = scrubRate.bytes
        configuration.scrubInterval = try duration(.scrubInterval)
        guard configuration.scrubInterval >= .seconds(60) else {
            throw bad(.scrubInterval, "a time of a minute or more, such as 7d")
        }
        configuration.faultyCriteria.unreadableMax = try places(.unreadablePlaces)
        configuration.faultyCriteria.damagedMax = try places(.damagedPlaces)
        configuration.credits = credits
        configuration.fabric = try fabric()
        configuration.faults = try faults()
        configuration.swim.period = try duration(.swimPeriod)
        configuration.swim.pingTimeout = try duration(.swimPingTimeout)
        configuration.swim.suspicionTimeout = try duration(.swimSuspicionTimeout)
        if let problem = configuration.problem {
            throw CommandFailure(
                .usage, "configuration", problem, advice: "see 'dray engine start --print-config'")
        }
        return configuration
    }

    /// What its contexts are made with. Where they listen, `engines` says.
    private func fabric() throws(CommandFailure) -> FabricConfiguration {
        var options: [FabricConfiguration.Key: String] = [:]
        for key in Key.allCases {
            if let name = key.ofFabric { options[name] = try text(key) }
        }
        do throws(FabricConfigurationError) {
            return try FabricConfiguration(options: options, environment: [:])
        } catch {
            guard let key = Key(error.key) else { throw CommandFailure(error) }
            throw bad(key, error.expected)
        }
    }

    /// Nil when faults are off.
    private func faults() throws(CommandFailure) -> [FaultRule]? {
        let text = try text(.faults)
        guard text != "off" else { return nil }
        var rules: [FaultRule] = []
        for part in text.split(separator: ";") where part != "on" {
            do throws(FaultRuleError) {
                rules.append(try FaultRule(parsing: part.filter { $0 != " " }))
            } catch {
                throw CommandFailure(.usage, Key.faults.rawValue, "\(error)")
            }
        }
        return rules
    }

    /// Nil when it is off.
    private func places(_ key: Key) throws(CommandFailure) -> Int? {
        let text = try text(key)
        guard text != "off" else { return nil }
        guard let count = Int(text), (0...FaultyCriteria.placesMax).contains(count) else {
            throw bad(key, "a number up to \(FaultyCriteria.placesMax), or off")
        }
        return count
    }

    private func duration(_ key: Key) throws(CommandFailure) -> Duration {
        guard let value = HumanDuration(argument: try text(key)), value.duration > .zero else {
            throw bad(key, "a time, such as 500ms or 2s")
        }
        return value.duration
    }

    /// The log masks of the process.
    func log() throws(CommandFailure) -> LogFacilities {
        let log = LogFacilities()
        do throws(LogMaskError) {
            try log.set(mask: try logMaskText())
        } catch {
            throw CommandFailure(.usage, Key.logMask.rawValue, "\(error)")
        }
        return log
    }

    private func logMaskText() throws(LogMaskError) -> String {
        values[.logMask]?.text ?? "warning"
    }

    /// Reads `RANK=ADDRESS*TARGETS,…`. Nil when that is not what it says.
    static func engines(_ text: String) -> [EngineRecord]? {
        var engines: [EngineRecord] = []
        for part in text.split(separator: ",") {
            guard let equals = part.firstIndex(of: "="), let star = part.lastIndex(of: "*"),
                equals < star, let rank = UInt32(part[..<equals].filter { $0 != " " }),
                let targets = Int(part[part.index(after: star)...].filter { $0 != " " }),
                (1...EngineConfiguration.targetsMax).contains(targets)
            else { return nil }
            let bases = part[part.index(after: equals)..<star]
                .split(separator: "|", omittingEmptySubsequences: false).map(String.init)
            engines.append(
                EngineConfiguration.record(rank: rank, bases: bases, targetCount: targets))
        }
        return engines.isEmpty ? nil : engines
    }

    /// The engines with a network for each provider that is asked for: where no address names it,
    /// the ports after those that the engine has, or a name of the cluster's own. All engines and
    /// thus all clients find the same.
    private func withProviders(
        _ engines: [EngineRecord], _ cluster: UniqueID
    ) throws(CommandFailure) -> [EngineRecord] {
        let providers = try text(.provider).split(separator: ",").map { part in
            String(part.filter { $0 != " " })
        }
        guard !providers.isEmpty else { return engines }
        guard providers.allSatisfy(FabricAddress.isEndpointProvider) else {
            throw bad(.provider, "names such as ofi+tcp or shm")
        }
        var complete: [EngineRecord] = []
        for engine in engines {
            let targets = Int(engine.targetCount)
            var bases = engine.networks.compactMap(\.first)
            var contexts = EngineConfiguration.contextCount(targetCount: targets)
            for provider in providers where !bases.contains(where: { $0.hasPrefix(provider + ":") })
            {
                if FabricAddress.isNamed(provider) {
                    bases.append(
                        "\(provider)://dray-\(cluster.description.prefix(8))-\(engine.rank)")
                    continue
                }
                guard let base = EngineSettings.base(bases[0], provider: provider, after: contexts)
                else { throw bad(.provider, "one that 'engines' has an address for") }
                bases.append(base)
                contexts += targets + 1
            }
            complete.append(
                EngineConfiguration.record(rank: engine.rank, bases: bases, targetCount: targets))
        }
        return complete
    }

    /// The address of another provider at the same host, `count` ports further; nil where `first`
    /// has no port.
    private static func base(_ first: String, provider: String, after count: Int) -> String? {
        guard let scheme = first.firstRange(of: "://"), let colon = first.lastIndex(of: ":"),
            colon >= scheme.upperBound, let port = Int(first[first.index(after: colon)...]),
            port + count <= 65_535
        else { return nil }
        return provider + first[scheme.lowerBound...colon] + "\(port + count)"
    }

    /// Every effective value as a file that says the same, with its source.
    var yaml: String {
        var lines = ["# Effective configuration. Sources: flag, environment, file, default."]
        for key in Key.allCases {
            guard let value = values[key] else {
                lines.append("# \(key.rawValue): not set (\(key.explanation))")
                continue
            }
            let parts = value.text.components(EngineSettings.separator)
                .map(EngineSettings.quoted)
            let text = parts.count == 1 ? parts[0] : "[\(parts.joined(separator: ", "))]"
            lines.append("\(key.rawValue): \(text)  # \(value.source.rawValue)")
        }
        return lines.joined(separator: "\n")
    }

    /// `text` as a YAML scalar that is read back as exactly this text.
    static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"", "\\": result += "\\" + String(scalar)
            case "\n": result += "\\n"
            case "\t": result += "\\t"
            default:
                if scalar.value < 32 {
                    result +=
                        "\\x" + (scalar.value < 16 ? "0" : "")
                        + String(scalar.value, radix: 16)
                } else {
                    result.unicodeScalars.append(scalar)
                }
            }
        }
        return result + "\""
    }
}

extension String {
    /// What stands between separators.
    fileprivate func components(_ separator: String) -> [String] {
        split(separator: separator, omittingEmptySubsequences: false).map(String.init)
    }
}
