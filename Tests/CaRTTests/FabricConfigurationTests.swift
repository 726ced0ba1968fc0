import DrayFabric
import DrayRuntime
import Testing

@testable import CaRT

@Suite struct FabricConfigurationTests {
    static let machine = [
        NetworkInterface(name: "eth0", hosts: ["192.0.2.7", "fd00::7"]),
        NetworkInterface(name: "ib0", hosts: ["fd00::8"]),
        NetworkInterface(name: "lo", hosts: ["127.0.0.1", "::1"]),
    ]

    /// The defaults are those of a context that nobody configured.
    @Test func defaultsAreTheContexts() throws {
        let configuration = try FabricConfiguration(environment: [:])
        let clock = HybridLogicalClock(clock: Simulation(seed: 1).world(node: 1).clock)
        let (made, plain) = (
            configuration.contextOptions(clock: clock), ContextOptions(clock: clock)
        )
        #expect(made.credits == plain.credits && made.timeout == plain.timeout)
        #expect(made.eagerLimit == plain.eagerLimit && made.bulksMax == plain.bulksMax)
        #expect(made.messageSizeMax == plain.messageSizeMax && made.progress == plain.progress)
        #expect(made.receiveCount == plain.receiveCount)
        #expect(made.heldReceivesMax == plain.heldReceivesMax)
        #expect(try configuration.address(interfaces: Self.machine) == "ofi+tcp")
        #expect(configuration.values.values.allSatisfy { $0.source == .default })
        #expect(configuration.values.count == FabricConfiguration.Key.allCases.count)
    }

    @Test func optionsGoOverTheEnvironmentOverDefaults() throws {
        let configuration = try FabricConfiguration(
            options: [.port: "4000", .timeout: "", .progress: "busy"],
            environment: [
                "DRAY_PORT": "5000", "DRAY_CREDITS": "0", "DRAY_TIMEOUT": "1500ms",
                "DRAY_EAGER_LIMIT": "4KiB", "DRAY_PROVIDER": "", "DRAY_OTHER": "x",
                "PORT": "1",
            ])
        #expect(configuration.port == 4000)
        #expect(configuration.credits == 0)
        #expect(configuration.timeout == .milliseconds(1500))
        #expect(configuration.eagerLimit == 4096)
        #expect(configuration.progress == .busy)
        let sources = configuration.values.mapValues(\.source)
        #expect(sources[.port] == .option && sources[.progress] == .option)
        #expect(sources[.credits] == .environment && sources[.timeout] == .environment)
        #expect(sources[.provider] == .default && sources[.bulks] == .default)
        #expect(configuration.values[.timeout]?.text == "1500ms")
    }

    static let good: [([FabricConfiguration.Key: String], [String])] = [
        ([:], ["ofi+tcp", "ofi+tcp"]),
        ([.port: "31416"], ["ofi+tcp://:31416", "ofi+tcp://:31417"]),
        (
            [.interface: "eth0", .port: "100"],
            ["ofi+tcp://192.0.2.7:100", "ofi+tcp://192.0.2.7:101"]
        ),
        // Several interfaces: contexts take them in turn.
        (
            [.interface: "eth0, lo,ib0"],
            [
                "ofi+tcp://192.0.2.7:0", "ofi+tcp://127.0.0.1:0", "ofi+tcp://[fd00::8]:0",
                "ofi+tcp://192.0.2.7:0",
            ]
        ),
        ([.interface: "10.0.0.1,::1"], ["ofi+tcp://10.0.0.1:0", "ofi+tcp://[::1]:0"]),
        // Several providers, each on the interface, or on one of its own.
        (
            [.provider: "ofi+tcp,ofi+tcp;ofi_rxm", .interface: "lo"],
            ["ofi+tcp://127.0.0.1:0", "ofi+tcp;ofi_rxm://127.0.0.1:0"]
        ),
        (
            [
                .provider: "ofi+verbs;ofi_rxm,ofi+tcp", .interface: "ib0,eth0",
                .domain: "mlx5_0,eth0", .port: "7",
            ], ["ofi+verbs;ofi_rxm://mlx5_0/[fd00::8]:7", "ofi+tcp://eth0/192.0.2.7:8"]
        ),
        ([.provider: "ofi+shm"], ["ofi+shm", "ofi+shm"]), ([.provider: "sim"], ["sim"]),
        ([.provider: "ofi+shm,ofi+tcp", .interface: "lo"], ["ofi+shm", "ofi+tcp://127.0.0.1:0"]),
    ]

    @Test(arguments: good.indices)
    func addressesOfContexts(index: Int) throws {
        let (options, wanted) = Self.good[index]
        let configuration = try FabricConfiguration(options: options, environment: [:])
        for (number, address) in wanted.enumerated() {
            #expect(
                try configuration.address(of: number, interfaces: Self.machine) == address)
        }
    }

    @Test func clientsTakeTheProviderOfTheirServers() throws {
        let configuration = try FabricConfiguration(
            options: [
                .provider: "ofi+tcp,ofi+tcp;ofi_rxm", .interface: "eth0,lo", .port: "100",
            ], environment: [:])
        func address(_ index: Int, _ provider: String) throws -> String? {
            try configuration.address(
                ofClient: index, provider: provider, interfaces: Self.machine)
        }
        #expect(try address(0, "ofi+tcp") == "ofi+tcp://192.0.2.7:0")
        #expect(try address(5, "ofi+tcp;ofi_rxm") == "ofi+tcp;ofi_rxm://127.0.0.1:0")
        #expect(try address(0, "ofi+shm") == nil)
        #expect(try address(0, "ofi+verbs;ofi_rxm") == nil)
        let plain = try FabricConfiguration(environment: ["DRAY_PORT": "100"])
        #expect(try plain.address(ofClient: 0, provider: "ofi+tcp") == nil)
        let domain = try FabricConfiguration(
            options: [.provider: "ofi+verbs;ofi_rxm", .domain: "mlx5_0"], environment: [:])
        #expect(
            try domain.address(ofClient: 0, provider: "ofi+verbs;ofi_rxm")
                == "ofi+verbs;ofi_rxm://mlx5_0/")
    }

    static let bad: [(FabricConfiguration.Key, String)] = [
        (.provider, "tcp"), (.provider, "ofi+"), (.provider, "ofi+tcp,"),
        (.provider, "ofi+tcp;ofi rxm"), (.interface, ","), (.interface, "eth0,,lo"),
        (.interface, "a/b"), (.domain, "a/b"), (.port, "-1"), (.port, "65536"), (.port, "1.5"),
        (.port, "99999999999999999999"), (.credits, "many"), (.credits, "65537"),
        (.timeout, "0"), (.timeout, "-1s"), (.timeout, "2h"), (.timeout, "5 parsecs"),
        (.timeout, "999999999999999999h"), (.eagerLimit, "1023"), (.eagerLimit, "2MiB"),
        (.eagerLimit, "4Q"), (.messageSizeMax, "1k"), (.messageSizeMax, "2GiB"),
        (.receives, "15"), (.receives, "4097"), (.bulks, "0"), (.progress, "sometimes"),
        (.progress, "Event"), (.port, "1\n2"),
        (.provider, Array(repeating: "ofi+tcp", count: 17).joined(separator: ",")),
    ]

    /// A value that cannot be used is named as it was set, in one line that says what was expected.
    @Test(arguments: bad)
    func wrongValuesAreNamed(key: FabricConfiguration.Key, text: String) throws {
        let byVariable = try #require(throws: FabricConfigurationError.self) {
            try FabricConfiguration(environment: [key.variable: text])
        }
        #expect(byVariable.name == key.variable && byVariable.key == key)
        #expect("\(byVariable)".hasPrefix(key.variable + ": cannot use '"))
        #expect(!"\(byVariable)".contains("\n") && "\(byVariable)".contains("expected "))
        let byOption = try #require(throws: FabricConfigurationError.self) {
            try FabricConfiguration(options: [key: text], environment: [key.variable: "1"])
        }
        #expect(byOption.name.hasPrefix("--") && !byOption.name.contains("_"))
    }

    static let contradictions: [([FabricConfiguration.Key: String], FabricConfiguration.Key)] = [
        ([.provider: "ofi+tcp,ofi+verbs;ofi_rxm", .interface: "a,b,c"], .interface),
        ([.provider: "ofi+tcp,ofi+verbs;ofi_rxm", .domain: "a,b,c"], .domain),
        ([.interface: "a,b", .domain: "c,d,e"], .domain),
        ([.provider: "ofi+shm", .interface: "lo"], .interface),
        ([.provider: "ofi+shm", .domain: "lo"], .domain),
        ([.provider: "ofi+shm,ofi+tcp", .interface: "lo,lo"], .interface),
    ]

    @Test(arguments: contradictions.indices)
    func whatDoesNotGoTogetherIsRefused(index: Int) throws {
        let (options, key) = Self.contradictions[index]
        let error = try #require(throws: FabricConfigurationError.self) {
            try FabricConfiguration(options: options, environment: [:])
        }
        #expect(error.key == key)
    }

    @Test func unknownInterfacesAndPortsBeyondTheLast() throws {
        let one = try FabricConfiguration(
            options: [.interface: "eth9"], environment: ["DRAY_PORT": "65535"])
        let unknown = try #require(throws: FabricConfigurationError.self) {
            _ = try one.address(interfaces: Self.machine)
        }
        #expect("\(unknown)".contains("(eth0, ib0, lo)"))
        let two = try FabricConfiguration(environment: ["DRAY_PORT": "65535"])
        #expect(try two.address(of: 0, interfaces: []) == "ofi+tcp://:65535")
        let error = try #require(throws: FabricConfigurationError.self) {
            try two.address(of: 1, interfaces: [])
        }
        #expect(error.name == "DRAY_PORT")
    }

    @Test(
        arguments: [
            ("0", 0), ("4096", 4096), ("20KiB", 20_480), ("1m", 1 << 20), ("2GiB", 2 << 30),
            ("", nil), ("k", nil), ("1.5k", nil), ("-1", nil), ("9999999999999999g", nil),
        ] as [(String, Int?)])
    func sizes(text: String, value: Int?) {
        #expect(ConfigurationText.size(text) == value)
    }

    /// A context with each setting works, and one that polls all the time does not sleep.
    @Test(arguments: ["event", "busy"])
    func contextsAreMadeFromIt(progress: String) async throws {
        let configuration = try FabricConfiguration(environment: [
            "DRAY_INTERFACE": "lo", "DRAY_CREDITS": "3", "DRAY_EAGER_LIMIT": "2KiB",
            "DRAY_RECEIVES": "32", "DRAY_PROGRESS": progress,
        ])
        var world = World.real()
        world.fabric = LibfabricFabric(entropy: world.entropy.fork("fabric"))
        let xstream = world.makeXStream(name: "test")
        defer { xstream.stop() }
        let made = world
        try await xstream.run { () async throws -> Void in
            let clock = HybridLogicalClock(clock: made.clock)
            let contexts = try (0..<2).map { index in
                try Context(
                    world: made, xstream: xstream, address: try configuration.address(of: index),
                    options: configuration.contextOptions(clock: clock))
            }
            #expect(contexts[0].address.description.hasPrefix("ofi+tcp://127.0.0.1:"))
            serve(contexts[1])
            for size in [10, 3000] {
                let blob = Blob(number: 1, bytes: pattern(size))
                #expect(
                    try await contexts[0].call(
                        TestProtocol.echo, blob, to: .address(contexts[1].address)) == blob)
            }
            #expect(contexts[1].counters.spills == 1)
            // Nothing is under way: only one that is told to goes on.
            await xstream.sleep(for: .milliseconds(20))
            let isBusy: Bool
            if case .busy = contexts[0].prepareToBlock() { isBusy = true } else { isBusy = false }
            #expect(isBusy == (progress == "busy"))
            for context in contexts { await context.close() }
        }
    }
}
