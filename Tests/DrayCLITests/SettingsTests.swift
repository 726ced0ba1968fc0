import CaRT
import DrayEngine
import DrayProtocol
import Testing

@testable import DrayCLI

@Suite struct SettingsTests {
    static let file = """
        cluster_id: 12345678-1234-4234-8234-123456789abc
        rank: 1
        device: /from/file
        credits: 64
        engines:
          - rank: 0
            address: ofi+tcp://127.0.0.1:20000
            targets: 2
          - {rank: 1, address: "ofi+tcp;ofi_rxm://127.0.0.1:20010", targets: 3}
        """

    @Test func flagsGoOverVariablesOverTheFileOverDefaults() throws {
        let settings = try EngineSettings(
            flags: [.credits: "7"],
            environment: { ["DRAY_CREDITS": "8", "DRAY_DEVICE": "/from/environment"][$0] },
            file: try EngineSettings.parse(file: SettingsTests.file, name: "engine.yml"))
        let expected: [EngineSettings.Key: (String, EngineSettings.Source)] = [
            .credits: ("7", .flag), .device: ("/from/environment", .environment),
            .rank: ("1", .file), .inlineThreshold: ("4KiB", .default),
        ]
        for (key, value) in expected {
            #expect(settings.values[key] == EngineSettings.Value(text: value.0, source: value.1))
        }
        let configuration = try settings.configuration()
        #expect(configuration.rank == 1)
        #expect(configuration.credits == 7)
        #expect(configuration.devicePath == "/from/environment")
        #expect(configuration.inlineThreshold == 4096)
        #expect(configuration.valueCacheBytes == 32 << 20)
        #expect(configuration.swim.suspicionTimeout == .seconds(5))
        #expect(configuration.engines.map(\.targetCount) == [2, 3])
        #expect(
            configuration.engines[0].addresses == [
                "ofi+tcp://127.0.0.1:20000", "ofi+tcp://127.0.0.1:20001",
                "ofi+tcp://127.0.0.1:20002", "ofi+tcp://127.0.0.1:20003",
            ])
    }

    /// What is printed is a file that says the same.
    @Test func printedSettingsAreReadBack() throws {
        let settings = try EngineSettings(
            flags: [.device: "/a b\"c\\d\té#x: y"], environment: { _ in nil },
            file: try EngineSettings.parse(file: SettingsTests.file, name: "engine.yml"))
        let parsed = try EngineSettings.parse(file: settings.yaml, name: "printed")
        for key in EngineSettings.Key.allCases {
            #expect(parsed[key] == settings.values[key]?.text)
        }
    }

    @Test func everythingThatCanBeSetIsPrinted() throws {
        let settings = try EngineSettings(flags: [:], environment: { _ in nil }, file: [:])
        for key in EngineSettings.Key.allCases { #expect(settings.yaml.contains(key.rawValue)) }
    }

    static let wrong: [(EngineSettings.Key, String)] = [
        (.clusterID, "x"), (.rank, "-1"), (.rank, "7"), (.engines, "0=ofi+tcp://h:1"),
        (.engines, "0=a*1,0=b*1"), (.engines, "1=a*0"), (.credits, "many"),
        (.inlineThreshold, "4Q"), (.inlineThreshold, "65KiB"),
        (.swimPeriod, "0"), (.swimPeriod, "often"), (.swimPeriod, "50ms"),
        (.swimPingTimeout, "1s"), (.swimSuspicionTimeout, "100ms"),
        (.valueCache, "much"), (.valueCache, "-1"), (.valueCache, "2TiB"),
    ]

    @Test(arguments: wrong) func wrongValuesAreRefused(key: EngineSettings.Key, text: String) throws
    {
        let settings = try EngineSettings(
            flags: [key: text], environment: { _ in nil },
            file: try EngineSettings.parse(file: SettingsTests.file, name: "engine.yml"))
        let failure = #expect(throws: CommandFailure.self) { try settings.configuration() }
        #expect(failure?.status == .usage)
    }

    @Test func missingValuesSayHowToSetThem() throws {
        let settings = try EngineSettings(flags: [:], environment: { _ in nil }, file: [:])
        let failure = #expect(throws: CommandFailure.self) { try settings.configuration() }
        let line = failure?.line ?? ""
        #expect(line.contains("DRAY_CLUSTER_ID") && line.contains("--cluster-id"))
    }

    @Test(arguments: [
        "devise: /x", "- a", "a: [", "engines: [1]", "rank: {a: 1}", "engines: [{rank: 1}]",
    ])
    func filesThatSayNothingUsefulAreRefused(text: String) {
        let failure = #expect(throws: CommandFailure.self) {
            try EngineSettings.parse(file: text, name: "engine.yml")
        }
        #expect(failure?.what.hasPrefix("engine.yml") == true)
    }

    @Test func anEmptyFileSetsNothing() throws {
        #expect(try EngineSettings.parse(file: "", name: "x").isEmpty)
        #expect(try EngineSettings.parse(file: "# nothing\n", name: "x").isEmpty)
    }
}
