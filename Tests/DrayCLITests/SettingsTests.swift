import BIO
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
        #expect(configuration.devicePaths == ["/from/environment"])
        #expect(configuration.inlineThreshold == 4096)
        #expect(configuration.valueCacheBytes == 32 << 20)
        #expect(configuration.indexBytes == 64 << 20)
        #expect(configuration.swim.suspicionTimeout == .seconds(5))
        #expect(configuration.engines.map(\.targetCount) == [2, 3])
        #expect(
            configuration.engines[0].addresses == [
                "ofi+tcp://127.0.0.1:20000", "ofi+tcp://127.0.0.1:20001",
                "ofi+tcp://127.0.0.1:20002", "ofi+tcp://127.0.0.1:20003",
            ])
    }

    /// A list in the file, several flags, and commas in the environment; in the file and in a flag
    /// a comma is part of the name.
    @Test func devicesAreAList() throws {
        func devices(
            flag: [String] = [], environment: String? = nil, file: String
        ) throws -> [String] {
            let file = SettingsTests.file.replacing("device: /from/file", with: file)
            let settings = try EngineSettings(
                flags: flag.isEmpty
                    ? [:] : [.device: flag.joined(separator: EngineSettings.separator)],
                environment: { $0 == "DRAY_DEVICE" ? environment : nil },
                file: try EngineSettings.parse(file: file, name: "engine.yml"))
            let paths = try settings.configuration().devicePaths
            // What is printed says the same.
            let again = try EngineSettings(
                flags: [:], environment: { _ in nil },
                file: try EngineSettings.parse(file: settings.yaml, name: "again"))
            #expect(try again.configuration().devicePaths == paths)
            return paths
        }
        #expect(try devices(file: "device: /a,b") == ["/a,b"])
        #expect(try devices(file: "device: [/a]") == ["/a"])
        #expect(try devices(file: "device: [/a, \"/b, c\"]") == ["/a", "/b, c"])
        #expect(try devices(environment: "/x,/y", file: "device: /a") == ["/x", "/y"])
        #expect(try devices(flag: ["/p,q", "/r"], file: "device: /a") == ["/p,q", "/r"])
        #expect(throws: CommandFailure.self) { try devices(file: "device: []") }
        #expect(throws: CommandFailure.self) { try devices(file: "device: [/a, /b, /c, /d]") }
        #expect(throws: CommandFailure.self) { try devices(file: "device: [/a, /a]") }
    }

    /// Addresses of several networks, and providers that no address names: those get the ports
    /// behind the others, or a name.
    @Test func networksOfEngines() throws {
        let engines = "0=ofi+tcp://10.0.0.1:20000|ofi+tcp://10.0.1.1:20000*2"
        let settings = try EngineSettings(
            flags: [.rank: "0", .engines: engines],
            environment: { ["DRAY_PROVIDER": "ofi+tcp, ofi+tcp;ofi_rxm,ofi+shm"][$0] },
            file: try EngineSettings.parse(file: SettingsTests.file, name: "engine.yml"))
        let record = try #require(settings.configuration().record)
        #expect(record.targetCount == 2)
        #expect(record.addresses.count == 4)
        #expect(
            record.networks.map { $0[0] } == [
                "ofi+tcp://10.0.0.1:20000", "ofi+tcp://10.0.1.1:20000",
                "ofi+tcp;ofi_rxm://10.0.0.1:20004", "ofi+shm://dray-12345678-0",
            ])
        #expect(record.secondary.allSatisfy { $0.count == 3 })
        #expect(record.secondary[1][2] == "ofi+tcp;ofi_rxm://10.0.0.1:20006")
        #expect(record.secondary[2][2] == "ofi+shm://dray-12345678-0-2")
    }

    /// The same as lists in the file.
    @Test func networksAsLists() throws {
        let values = try EngineSettings.parse(
            file: """
                provider: [ofi+tcp, "ofi+tcp;ofi_rxm"]
                engines:
                  - {rank: 0, address: ["ofi+tcp://h:1", "ofi+shm://n"], targets: 1}
                """, name: "engine.yml")
        #expect(values[.provider] == "ofi+tcp,ofi+tcp;ofi_rxm")
        #expect(values[.engines] == "0=ofi+tcp://h:1|ofi+shm://n*1")
    }

    @Test func whatMakesADeviceFaulty() throws {
        func criteria(_ flags: [EngineSettings.Key: String]) throws -> FaultyCriteria {
            try EngineSettings(
                flags: flags, environment: { _ in nil },
                file: try EngineSettings.parse(file: SettingsTests.file, name: "engine.yml")
            ).configuration().faultyCriteria
        }
        #expect(try criteria([:]) == FaultyCriteria())
        let other = try criteria([.unreadablePlaces: "0", .damagedPlaces: "off"])
        #expect(other.unreadableMax == 0 && other.damagedMax == nil)
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
        (.engines, "1=sim://a|sim://a*1"), (.provider, "tcp"), (.provider, "ofi+tcp,ofi+"),
        (.inlineThreshold, "4Q"), (.inlineThreshold, "65KiB"),
        (.swimPeriod, "0"), (.swimPeriod, "often"), (.swimPeriod, "50ms"),
        (.swimPingTimeout, "1s"), (.swimSuspicionTimeout, "100ms"),
        (.valueCache, "much"), (.valueCache, "-1"), (.valueCache, "2TiB"),
        (.indexMemory, "4k"), (.indexMemory, "little"),
        (.scrubRate, "slow"), (.scrubRate, "2TiB"), (.scrubInterval, "0"),
        (.scrubInterval, "never"), (.scrubInterval, "59s"),
        (.timeout, "never"), (.timeout, "2h"), (.eagerLimit, "1"), (.messageSizeMax, "4k"),
        (.receives, "1"), (.bulks, "0"), (.progress, "lazy"),
        (.unreadablePlaces, "few"), (.unreadablePlaces, "-1"), (.damagedPlaces, "1001"),
    ]

    @Test(arguments: wrong) func wrongValuesAreRefused(key: EngineSettings.Key, text: String) throws
    {
        let settings = try EngineSettings(
            flags: [key: text], environment: { _ in nil },
            file: try EngineSettings.parse(file: SettingsTests.file, name: "engine.yml"))
        let failure = #expect(throws: CommandFailure.self) { try settings.configuration() }
        #expect(failure?.status == .usage)
        if key.ofFabric != nil {
            #expect(failure?.what == key.rawValue)
            #expect(failure?.line.contains("flag") == true)
        }
    }

    /// What contexts are made with: flags over variables over the file over the fabric's defaults.
    @Test func contextsOfEngines() throws {
        let settings = try EngineSettings(
            flags: [.timeout: "5s", .progress: "busy"],
            environment: {
                [
                    "DRAY_TIMEOUT": "6s", "DRAY_EAGER_LIMIT": "32KiB", "DRAY_BULKS": "",
                    "DRAY_INTERFACE": "of clients",
                ][$0]
            },
            file: try EngineSettings.parse(
                file: SettingsTests.file + "\nreceives: 512\nmessage_size_max: 8MiB\n"
                    + "eager_limit: 16KiB\n", name: "engine.yml"))
        let fabric = try #require(settings.configuration().fabric)
        #expect(fabric.timeout == .seconds(5))
        #expect(fabric.progress == .busy)
        #expect(fabric.eagerLimit == 32 << 10)
        #expect(fabric.receives == 512)
        #expect(fabric.messageSizeMax == 8 << 20)
        #expect(fabric.bulks == 256)
        #expect(settings.values[.bulks]?.source == .default)
        #expect(settings.yaml.contains("eager_limit: \"32KiB\"  # environment"))
        // Those that both know have the same variables.
        for key in EngineSettings.Key.allCases {
            guard let name = key.ofFabric else { continue }
            #expect(name.variable == key.variable)
        }
    }

    @Test func choicesForAClustersEngines() throws {
        let choices = try EngineSettings.choices(["timeout=2s", "log_mask=a=b", "timeout=3s"])
        #expect(choices == [.timeout: "3s", .logMask: "a=b"])
        for wrong in ["timeout", "=3s", "rank=1", "device=/x", "time-out=3s"] {
            let failure = #expect(throws: CommandFailure.self) {
                try EngineSettings.choices([wrong])
            }
            #expect(failure?.what == "--setting")
        }
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
