public import DrayFabric
public import DrayRuntime

/// What a process is told about its network: options of the program over variables of the
/// environment over defaults (CaRT: `crt_init_opt` and the `D_…` variables).
///
/// Every value is checked when it is taken, and knows where it comes from. Nothing here reads the
/// environment itself: it is passed in.
///
/// ```swift
/// let configuration = try FabricConfiguration(
///     options: [.provider: "ofi+tcp"], environment: world.environment)
/// let context = try Context(
///     world: world, xstream: xstream, address: try configuration.address(),
///     options: configuration.contextOptions(clock: clock))
/// ```
public struct FabricConfiguration: Hashable, Sendable {
    /// One thing that can be set.
    public enum Key: String, CaseIterable, Sendable, Hashable {
        /// Which networks.
        case provider
        /// Which of the machine's interfaces, or which of its addresses.
        case interface
        /// Which of libfabric's domains.
        case domain
        /// Where the first context listens.
        case port
        /// `ContextOptions.credits`.
        case credits
        /// `ContextOptions.timeout`.
        case timeout
        /// `ContextOptions.eagerLimit`.
        case eagerLimit = "eager_limit"
        /// `ContextOptions.messageSizeMax`.
        case messageSizeMax = "message_size_max"
        /// `ContextOptions.receiveCount`.
        case receives
        /// `ContextOptions.bulksMax`.
        case bulks
        /// `ContextOptions.progress`.
        case progress

        /// The variable of the environment: `DRAY_PROVIDER` and so on.
        public var variable: String { "DRAY_" + rawValue.uppercased() }

        /// What it means, for people.
        public var explanation: String {
            switch self {
            case .provider: "providers, separated by commas: ofi+tcp, ofi+tcp;ofi_rxm, shm, …"
            case .interface: "network interfaces or IP addresses, separated by commas"
            case .domain: "libfabric's domains, separated by commas: adapters such as mlx5_0"
            case .port: "port of the first context, the next ones follow; 0 for free ones"
            case .credits: "requests in flight that each caller is allowed; 0 for any number"
            case .timeout: "how long a call may take unless it says otherwise"
            case .eagerLimit: "the most bytes of a message that travel inline"
            case .messageSizeMax: "the largest message"
            case .receives: "receives that are posted at any time"
            case .bulks: "bulk transfers that are with the fabric at a time"
            case .progress: "'event': sleep when idle; 'busy': poll all the time, for the last µs"
            }
        }

        /// The value when nobody sets one. Empty: the fabric decides.
        public var defaultText: String {
            switch self {
            case .provider: "ofi+tcp"
            case .interface, .domain: ""
            case .port: "0"
            case .credits: "32"
            case .timeout: "60s"
            case .eagerLimit: "64KiB"
            case .messageSizeMax: "64MiB"
            case .receives: "256"
            case .bulks: "256"
            case .progress: "event"
            }
        }
    }

    /// Where a value comes from.
    public enum Source: String, Sendable, Hashable, CaseIterable {
        /// The program's options.
        case option
        /// A variable of the environment.
        case environment
        /// Nobody has set it.
        case `default`
    }

    /// A value as text, and where it comes from.
    public struct Value: Hashable, Sendable {
        /// As it was set.
        public var text: String
        /// Who has set it.
        public var source: Source
    }

    /// Every value in effect.
    public private(set) var values: [Key: Value] = [:]

    /// As Dray spells them; at least one.
    public private(set) var providers: [String] = []
    /// Interfaces or IP addresses; none: the machine itself, 127.0.0.1.
    public private(set) var interfaces: [String] = []
    /// libfabric's domains; none: any.
    public private(set) var domains: [String] = []
    /// Of the first context, the next ones follow; 0: free ones.
    public private(set) var port: UInt16 = 0
    /// Requests in flight that each caller is allowed: 0 (any number) to 65,536.
    public private(set) var credits: UInt32 = 0
    /// How long a call may take unless it says otherwise: 1 ms to an hour.
    public private(set) var timeout = Duration.zero
    /// Bytes of a message that travel inline: 1 KiB to 1 MiB.
    public private(set) var eagerLimit = 0
    /// Bytes of the largest message: 1 MiB to 1 GiB.
    public private(set) var messageSizeMax = 0
    /// Receives that are posted at any time: 16 to 4,096.
    public private(set) var receives = 0
    /// Bulk transfers that are with the fabric at a time: 1 to 4,096.
    public private(set) var bulks = 0
    /// What the xstream does when nothing comes.
    public private(set) var progress = ProgressMode.event

    /// Providers, interfaces or domains of one process.
    public static let placesMax = 16

    /// Decides each value and checks it. An empty one counts as not set.
    ///
    /// - Throws: for the first value that cannot be used, named as it was set.
    public init(
        options: [Key: String] = [:], environment: [String: String]
    ) throws(FabricConfigurationError) {
        for key in Key.allCases {
            if let text = options[key], !text.isEmpty {
                values[key] = Value(text: text, source: .option)
            } else if let text = environment[key.variable], !text.isEmpty {
                values[key] = Value(text: text, source: .environment)
            } else {
                values[key] = Value(text: key.defaultText, source: .default)
            }
        }
        try read()
        try checkPlaces()
    }

    private func text(_ key: Key) -> String { values[key]?.text ?? key.defaultText }

    private func bad(_ key: Key, _ expected: String) -> FabricConfigurationError {
        FabricConfigurationError(
            key: key, value: values[key] ?? Value(text: key.defaultText, source: .default),
            expected: expected)
    }

    // MARK: - Reading

    private mutating func read() throws(FabricConfigurationError) {
        providers = try list(
            .provider, "names such as ofi+tcp or shm", FabricAddress.isEndpointProvider)
        interfaces = try list(.interface, "names such as eth0, or IP addresses", isPlace)
        domains = try list(.domain, "names such as mlx5_0", isPlace)
        guard !providers.isEmpty else { throw bad(.provider, "at least one provider") }
        port = UInt16(try number(.port, in: 0...65_535))
        credits = UInt32(try number(.credits, in: 0...65_536))
        eagerLimit = try size(.eagerLimit, in: Context.eagerLimitMin...(1 << 20))
        messageSizeMax = try size(.messageSizeMax, in: (1 << 20)...(1 << 30))
        receives = try number(.receives, in: 16...4096)
        bulks = try number(.bulks, in: 1...4096)
        let limit: Duration = .seconds(3600)
        guard let time = ConfigurationText.duration(text(.timeout)), time >= .milliseconds(1),
            time <= limit
        else { throw bad(.timeout, "a time of 1ms to 3600s") }
        timeout = time
        guard let mode = ProgressMode(rawValue: text(.progress)) else {
            throw bad(.progress, ProgressMode.allCases.map(\.rawValue).joined(separator: " or "))
        }
        progress = mode
    }

    private func isPlace(_ name: String) -> Bool {
        name.utf8.count <= 64
            && name.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7f && $0 != UInt8(ascii: "/") }
    }

    private func list(
        _ key: Key, _ expected: String, _ isGood: (String) -> Bool
    ) throws(FabricConfigurationError) -> [String] {
        guard !text(key).isEmpty else { return [] }
        let parts = text(key).split(separator: ",", omittingEmptySubsequences: false).map { part in
            let tail = part.drop { $0 == " " }
            return String(
                tail[
                    ..<(tail.lastIndex { $0 != " " }.map(tail.index(after:))
                        ?? tail.startIndex)])
        }
        guard parts.count <= FabricConfiguration.placesMax,
            parts.allSatisfy({ !$0.isEmpty && isGood($0) })
        else {
            throw bad(
                key,
                "up to \(FabricConfiguration.placesMax) " + expected
                    + ", separated by commas")
        }
        return parts
    }

    private func number(
        _ key: Key, in range: ClosedRange<Int>
    ) throws(FabricConfigurationError) -> Int {
        guard let value = ConfigurationText.number(text(key)), range.contains(value) else {
            throw bad(key, "a number from \(range.lowerBound) to \(range.upperBound)")
        }
        return value
    }

    private func size(
        _ key: Key, in range: ClosedRange<Int>
    ) throws(FabricConfigurationError) -> Int {
        guard let value = ConfigurationText.size(text(key)), range.contains(value) else {
            throw bad(
                key, "a size of \(range.lowerBound) to \(range.upperBound) bytes, such as 64KiB")
        }
        return value
    }

    // MARK: - Places

    /// A provider on an interface, where contexts may be.
    private func checkPlaces() throws(FabricConfigurationError) {
        for (key, count) in [(Key.interface, interfaces.count), (.domain, domains.count)]
        where count > 1 && providers.count > 1 && count != providers.count {
            throw bad(key, "one, or one for each of the \(providers.count) providers")
        }
        guard interfaces.count <= 1 || domains.count <= 1 || interfaces.count == domains.count
        else { throw bad(.domain, "one, or one for each of the \(interfaces.count) interfaces") }
        for index in 0..<placeCount {
            let provider = providers[index % providers.count]
            guard FabricAddress.isNamed(provider) else { continue }
            if !interfaces.isEmpty, providers.count == 1 || interfaces.count > 1 {
                throw bad(.interface, "none: \(provider) has no interfaces")
            }
            if !domains.isEmpty, providers.count == 1 || domains.count > 1 {
                throw bad(.domain, "none: \(provider) has no domains")
            }
        }
    }

    /// How many places there are: providers with their interfaces. Contexts take them in turn.
    public var placeCount: Int { max(providers.count, interfaces.count, domains.count) }

    /// The address at which context `index` of the process listens (see `Fabric.makeEndpoint`):
    /// at the places in turn, with the ports that follow the configured one.
    ///
    /// - Throws: `.interface` or `.port` where the machine has no such interface, or where there
    ///   are no ports left.
    public func address(
        of index: Int = 0, interfaces machine: [NetworkInterface] = NetworkInterface.all()
    ) throws(FabricConfigurationError) -> String {
        precondition(index >= 0)
        let port = port == 0 ? 0 : Int(port) + index
        guard port <= 65_535 else {
            throw bad(.port, "at most \(65_535 - index) for context \(index)")
        }
        return try address(place: index % placeCount, port: port, machine)
    }

    /// The address at which context `index` of a client of `provider` listens: at the places of
    /// that provider in turn, on free ports. Nil where nothing is configured for it but the
    /// provider: then the way to its servers decides (`Fabric.listenAddress`).
    ///
    /// - Throws: `.interface` where the machine has no such interface.
    public func address(
        ofClient index: Int = 0, provider: String,
        interfaces machine: [NetworkInterface] = NetworkInterface.all()
    ) throws(FabricConfigurationError) -> String? {
        precondition(index >= 0)
        guard !interfaces.isEmpty || !domains.isEmpty else { return nil }
        let places = (0..<placeCount).filter { providers[$0 % providers.count] == provider }
        guard !places.isEmpty, !FabricAddress.isNamed(provider) else { return nil }
        return try address(place: places[index % places.count], port: 0, machine)
    }

    private func address(
        place: Int, port: Int, _ machine: [NetworkInterface]
    ) throws(FabricConfigurationError) -> String {
        let provider = providers[place % providers.count]
        // A free name, of shared memory or of the simulation.
        guard !FabricAddress.isNamed(provider) else { return provider }
        var host = ""
        if !interfaces.isEmpty {
            host = try self.host(interfaces[place % interfaces.count], machine)
        }
        let domain = domains.isEmpty ? "" : domains[place % domains.count] + "/"
        // Where there is no host, the provider knows which is best, but for its own port.
        let end = host.isEmpty && port == 0 ? "" : "\(host):\(port)"
        return domain.isEmpty && end.isEmpty ? provider : "\(provider)://\(domain)\(end)"
    }

    private func host(
        _ name: String, _ machine: [NetworkInterface]
    ) throws(FabricConfigurationError) -> String {
        let host =
            FabricAddress.isHost(name)
            ? name : machine.first { $0.name == name }?.hosts.first
        guard let host else {
            let known = machine.map(\.name).joined(separator: ", ")
            throw bad(.interface, "an interface of this machine (\(known)) or an IP address")
        }
        return host.contains(":") ? "[\(host)]" : host
    }

    // MARK: - Contexts

    /// What contexts are made with. Rank and tag are the caller's to set.
    public func contextOptions(clock: HybridLogicalClock) -> ContextOptions {
        var options = ContextOptions(clock: clock)
        options.credits = credits
        options.timeout = timeout
        options.eagerLimit = eagerLimit
        options.messageSizeMax = messageSizeMax
        options.receiveCount = receives
        options.heldReceivesMax = receives * 3 / 4
        options.bulksMax = bulks
        options.progress = progress
        return options
    }
}

/// A value of a configuration that cannot be used.
public struct FabricConfigurationError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What was set.
    public var key: FabricConfiguration.Key
    /// To what, and by whom.
    public var value: FabricConfiguration.Value
    /// What it should have been.
    public var expected: String

    /// How the value was set: the variable's name, or the option's.
    public var name: String {
        value.source == .environment
            ? key.variable : "--" + String(key.rawValue.map { $0 == "_" ? "-" : $0 })
    }

    /// The name, the value, and what was expected, in one line.
    public var description: String { "\(name): \(reason)" }

    /// The value and what was expected.
    public var reason: String {
        // Somebody's environment may hold anything.
        let shown = value.text.unicodeScalars.prefix(80).map {
            $0.value < 0x20 || $0.value == 0x7f ? "?" : Character($0)
        }
        return "cannot use '\(String(shown))'; expected \(expected)"
    }
}
