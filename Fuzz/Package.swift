// swift-tools-version: 6.2
import PackageDescription

// The fuzz targets of Dray with libFuzzer. A package of its own, because everything in it and below
// it is instrumented: build it with `scripts/fuzz`.
let package = Package(
    name: "fuzz",
    platforms: [.macOS(.v26)],
    dependencies: [.package(name: "dray", path: "..")],
    targets: [
        .target(
            name: "FuzzTargets", dependencies: [.product(name: "Dray", package: "dray")],
            swiftSettings: [
                .swiftLanguageMode(.v6),
                .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
                .enableUpcomingFeature("InternalImportsByDefault"),
                .enableUpcomingFeature("MemberImportVisibility"),
                .enableUpcomingFeature("ExistentialAny"),
            ]),
        .executableTarget(name: "fuzz", dependencies: ["FuzzTargets"]),
    ]
)
