// swift-tools-version: 6.2
import PackageDescription

/// Settings of the tests, which may touch unsafe memory without saying so on every line.
let testSettings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("ExistentialAny"),
]

/// Settings of every other Swift target. Nothing here may be unsafe flags, so that other packages
/// can depend on Dray's library products.
let settings = testSettings + [.strictMemorySafety()]

let argumentParser: Target.Dependency = .product(
    name: "ArgumentParser", package: "swift-argument-parser")
let basicContainers: Target.Dependency = .product(
    name: "BasicContainers", package: "swift-collections")
let deque: Target.Dependency = .product(name: "DequeModule", package: "swift-collections")
let heap: Target.Dependency = .product(name: "HeapModule", package: "swift-collections")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")
let coreMetrics: Target.Dependency = .product(name: "CoreMetrics", package: "swift-metrics")
let yams: Target.Dependency = .product(name: "Yams", package: "Yams")

// Layers from the bottom up. A target may depend only on targets above it in this list: the lint
// test reads this file and enforces the order.
let package = Package(
    name: "dray",
    platforms: [.macOS(.v26)],
    products: [
        .executable(name: "dray", targets: ["DrayCLI"]),
        .library(name: "Dray", targets: ["Dray"]),
        // With the modules whose types CaRT's public API names.
        .library(name: "CaRT", targets: ["CaRT", "DrayFabric", "DrayRuntime"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    ],
    targets: [
        .systemLibrary(name: "CISAL", pkgConfig: "libisal", providers: [.apt(["libisal-dev"])]),
        .target(name: "CDrayRuntime"),
        .target(
            name: "DrayRuntime",
            dependencies: ["CDrayRuntime", "CISAL", deque, heap, logging, coreMetrics],
            exclude: ["README.md"], swiftSettings: settings),
        .target(name: "CLibfabric", linkerSettings: [.linkedLibrary("fabric")]),
        .target(name: "CSharedMemory"),
        .target(
            name: "DrayFabric",
            dependencies: [
                "DrayRuntime", "CLibfabric", "CSharedMemory", basicContainers, deque, logging,
            ],
            exclude: ["README.md"], swiftSettings: settings),
        .target(
            name: "CaRT",
            dependencies: [
                "DrayRuntime", "DrayFabric", basicContainers, deque, heap, logging, coreMetrics,
            ],
            exclude: ["README.md"], swiftSettings: settings),
        .target(name: "CUring", linkerSettings: [.linkedLibrary("uring")]),
        .target(
            name: "BIO",
            dependencies: ["DrayRuntime", "CUring", deque, logging],
            exclude: ["README.md"], swiftSettings: settings),
        .systemLibrary(
            name: "CXXHash", pkgConfig: "libxxhash", providers: [.apt(["libxxhash-dev"])]),
        .systemLibrary(
            name: "CCrypto", pkgConfig: "libcrypto", providers: [.apt(["libssl-dev"])]),
        .target(
            name: "DrayChecksums", dependencies: ["DrayRuntime", "CXXHash", "CCrypto"],
            exclude: ["README.md"], swiftSettings: settings),
        .target(
            name: "VOS",
            dependencies: ["DrayRuntime", "BIO", "DrayChecksums", deque, logging],
            exclude: ["README.md"], swiftSettings: settings),
        .target(
            name: "VOSSimulator",
            dependencies: ["DrayRuntime", "BIO", "VOS"],
            exclude: ["README.md"], swiftSettings: settings),
        .target(
            name: "DrayPlacement",
            dependencies: ["DrayRuntime"],
            exclude: ["README.md"], swiftSettings: settings),
        .target(
            name: "DrayProtocol",
            dependencies: ["DrayRuntime", "CaRT", "DrayChecksums", "DrayPlacement"],
            exclude: ["README.md"], swiftSettings: settings),
        .target(
            name: "DrayTransactions",
            exclude: ["README.md"], swiftSettings: settings),
        .target(
            name: "DrayEngine",
            dependencies: [
                "DrayRuntime", "DrayFabric", "CaRT", "BIO", "DrayChecksums", "VOS",
                "DrayPlacement", "DrayProtocol", "DrayTransactions", deque, logging,
            ],
            exclude: ["README.md"], swiftSettings: settings),
        .target(
            name: "Dray",
            dependencies: [
                "DrayRuntime", "DrayFabric", "CaRT", "DrayChecksums", "DrayPlacement",
                "DrayProtocol", logging,
            ],
            exclude: ["README.md"], swiftSettings: settings),
        .target(
            name: "DrayFileSystem",
            dependencies: ["DrayRuntime", "DrayPlacement", "Dray"],
            exclude: ["README.md"], swiftSettings: settings),
        .target(
            name: "DraySimulator",
            dependencies: [
                "DrayRuntime", "DrayFabric", "CaRT", "BIO", "DrayPlacement", "DrayProtocol",
                "DrayEngine", "Dray", heap,
            ],
            exclude: ["README.md"], swiftSettings: settings),
        .executableTarget(
            name: "dray-simulate", dependencies: ["VOSSimulator", "DraySimulator", argumentParser],
            exclude: ["README.md"], swiftSettings: settings),
        .executableTarget(
            name: "dray-kill",
            dependencies: [
                "DrayRuntime", "DrayFabric", "CaRT", "BIO", "VOS", "VOSSimulator", "DrayPlacement",
                "Dray", "DraySimulator", argumentParser, logging,
            ],
            exclude: ["README.md"], swiftSettings: settings),
        .target(name: "CAllocationCounter"),
        .executableTarget(
            name: "dray-limits",
            dependencies: [
                "CAllocationCounter", "DrayRuntime", "DrayFabric", "CaRT", argumentParser,
            ],
            exclude: ["README.md"], swiftSettings: settings),
        .executableTarget(
            name: "DrayCLI",
            dependencies: [
                "DrayRuntime", "DrayFabric", "CaRT", "BIO", "DrayChecksums", "VOS",
                "DrayPlacement", "DrayProtocol", "DrayEngine", "Dray", "DrayFileSystem",
                argumentParser, logging, yams,
            ],
            exclude: ["README.md"], swiftSettings: settings),
        .target(
            name: "DrayTestSupport", path: "Tests/DrayTestSupport", exclude: ["README.md"],
            swiftSettings: testSettings),
        .testTarget(
            name: "DrayRuntimeTests", dependencies: ["DrayRuntime", logging, coreMetrics],
            swiftSettings: testSettings),
        .testTarget(
            name: "DrayFabricTests",
            dependencies: ["DrayRuntime", "DrayFabric", "CSharedMemory", "DrayTestSupport"],
            swiftSettings: testSettings),
        .testTarget(
            name: "CaRTTests",
            dependencies: [
                "DrayRuntime", "DrayFabric", "CaRT", "DrayTestSupport", basicContainers,
            ],
            swiftSettings: testSettings),
        .testTarget(
            name: "BIOTests", dependencies: ["DrayRuntime", "BIO"],
            swiftSettings: testSettings),
        .testTarget(
            name: "DrayChecksumsTests", dependencies: ["DrayChecksums"],
            swiftSettings: testSettings),
        .testTarget(
            name: "VOSTests",
            dependencies: ["DrayRuntime", "BIO", "DrayChecksums", "VOS", "VOSSimulator"],
            swiftSettings: testSettings),
        .testTarget(
            name: "DrayPlacementTests", dependencies: ["DrayRuntime", "DrayPlacement"],
            swiftSettings: testSettings),
        .testTarget(
            name: "DrayTransactionsTests", dependencies: ["DrayRuntime", "DrayTransactions"],
            swiftSettings: testSettings),
        .testTarget(
            name: "DrayEngineTests",
            dependencies: [
                "DrayRuntime", "DrayFabric", "CaRT", "BIO", "DrayChecksums", "VOS", "DrayPlacement",
                "DrayProtocol", "DrayTransactions", "DrayEngine", "Dray", "DraySimulator",
            ],
            swiftSettings: testSettings),
        .testTarget(
            name: "DrayTests",
            dependencies: [
                "DrayRuntime", "DrayFabric", "CaRT", "BIO", "DrayChecksums", "DrayPlacement",
                "DrayProtocol", "Dray", "DraySimulator",
            ],
            swiftSettings: testSettings),
        .testTarget(
            name: "DraySimulatorTests",
            dependencies: [
                "DrayRuntime", "CaRT", "DrayPlacement", "DrayProtocol", "Dray", "DraySimulator",
            ], swiftSettings: testSettings),
        .testTarget(
            name: "FuzzTests",
            dependencies: ["DrayRuntime", "DrayFabric", "CaRT", "DrayPlacement", "DrayProtocol"],
            swiftSettings: testSettings),
        .testTarget(
            name: "DrayFileSystemTests",
            dependencies: ["DrayRuntime", "Dray", "DrayFileSystem", "DraySimulator"],
            swiftSettings: testSettings),
        .testTarget(
            name: "DrayCLITests",
            dependencies: [
                "DrayRuntime", "DrayFabric", "CaRT", "BIO", "DrayChecksums", "DrayPlacement",
                "DrayProtocol", "DrayEngine", "Dray", "DrayFileSystem", "DrayCLI",
            ],
            swiftSettings: testSettings),
        .testTarget(
            name: "LintTests", dependencies: [],
            swiftSettings: testSettings),
    ]
)
