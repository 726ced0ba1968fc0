internal import ArgumentParser
internal import CaRT
internal import DrayRuntime

/// What is told about the network, as flags. Flags go over DRAY_… variables, over defaults.
struct FabricOptions: ParsableArguments {
    @Option(
        name: .long,
        help: "Providers, separated by commas or repeated: ofi+tcp, shm, ….")
    var provider: [String] = []
    @Option(
        name: .long,
        help: "Network interfaces or IP addresses, separated by commas or repeated.")
    var interface: [String] = []
    @Option(
        name: .long, help: "libfabric's domains (adapters), separated by commas or repeated.")
    var domain: [String] = []
    @Option(name: .long, help: "Port of the first context; 0 for free ones.") var port: String?
    @Option(name: .long, help: "Requests in flight that each caller is allowed; 0 for any number.")
    var credits: String?
    @Option(name: .long, help: "How long a call may take unless it says otherwise.")
    var timeout: String?
    @Option(name: .long, help: "The most bytes of a message that travel inline.")
    var eagerLimit: String?
    @Option(name: .long, help: "The largest message.") var messageSizeMax: String?
    @Option(name: .long, help: "Receives that are posted at any time.") var receives: String?
    @Option(name: .long, help: "Bulk transfers that are with the fabric at a time.")
    var bulks: String?
    @Option(name: .long, help: "event or busy: whether an idle process sleeps.")
    var progress: String?

    private var options: [FabricConfiguration.Key: String] {
        var options: [FabricConfiguration.Key: String] = [:]
        options[.provider] = provider.joined(separator: ",")
        options[.interface] = interface.joined(separator: ",")
        options[.domain] = domain.joined(separator: ",")
        options[.port] = port
        options[.credits] = credits
        options[.timeout] = timeout
        options[.eagerLimit] = eagerLimit
        options[.messageSizeMax] = messageSizeMax
        options[.receives] = receives
        options[.bulks] = bulks
        options[.progress] = progress
        return options
    }

    /// The configuration that results.
    func resolve(_ world: World) throws(CommandFailure) -> FabricConfiguration {
        try FabricOptions.configuration(options, world)
    }

    /// What the environment says alone, for commands without these flags.
    static func ofEnvironment(_ world: World) throws(CommandFailure) -> FabricConfiguration {
        try configuration([:], world)
    }

    private static func configuration(
        _ options: [FabricConfiguration.Key: String], _ world: World
    ) throws(CommandFailure) -> FabricConfiguration {
        do throws(FabricConfigurationError) {
            return try FabricConfiguration(options: options, environment: world.environment)
        } catch {
            throw CommandFailure(error)
        }
    }
}

extension CommandFailure {
    /// The failure that a value of a configuration means, under the name that it was set by.
    init(_ error: FabricConfigurationError) {
        self.init(
            .usage, error.name, error.reason, advice: "see 'dray fabric config'")
    }
}

/// What `dray fabric config` prints.
struct FabricConfigurationReport: Codable, Hashable, Sendable {
    struct Value: Codable, Hashable, Sendable {
        var name: String
        var value: String
        var source: String
        var variable: String
        var explanation: String
    }

    var values: [Value]
    /// Where the first contexts of a process listen, one for each place.
    var addresses: [String]
    /// The order in which clients look for a provider that the engines have.
    var providers: [String]

    init(_ configuration: FabricConfiguration) throws(FabricConfigurationError) {
        values = FabricConfiguration.Key.allCases.map { key in
            let value = configuration.values[key]
            return Value(
                name: key.rawValue, value: value?.text ?? "",
                source: value?.source.rawValue ?? "default", variable: key.variable,
                explanation: key.explanation)
        }
        var addresses: [String] = []
        for index in 0..<configuration.placeCount {
            addresses.append(try configuration.address(of: index))
        }
        self.addresses = addresses
        providers = configuration.providers
    }

    var text: String {
        var table = Table([
            ("NAME", .left), ("VALUE", .left), ("SOURCE", .left), ("VARIABLE", .left),
            ("WHAT", .left),
        ])
        for value in values {
            table.add([
                value.name, value.value.isEmpty ? "-" : value.value, value.source, value.variable,
                value.explanation,
            ])
        }
        var text = table.text + "\n\ncontexts listen at: " + addresses.joined(separator: ", ")
        if providers.count > 1 {
            text +=
                "\nclients take the first that engines have: "
                + providers.joined(separator: ", ")
        }
        return text
    }
}
