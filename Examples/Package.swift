// swift-tools-version: 6.2
import PackageDescription

// Nothing of Dray but the product `CaRT`, as in any other package.
let cart: Target.Dependency = .product(name: "CaRT", package: "dray")

// Asynchronous functions stay on the xstream that called them.
let settings: [SwiftSetting] = [.enableUpcomingFeature("NonisolatedNonsendingByDefault")]

let package = Package(
    name: "examples",
    platforms: [.macOS(.v26)],
    dependencies: [.package(name: "dray", path: "..")],
    targets: [
        .target(name: "BlobProtocol", dependencies: [cart], swiftSettings: settings),
        .executableTarget(
            name: "blob-server", dependencies: ["BlobProtocol", cart], swiftSettings: settings),
        .executableTarget(
            name: "blob-client", dependencies: ["BlobProtocol", cart], swiftSettings: settings),
    ]
)
