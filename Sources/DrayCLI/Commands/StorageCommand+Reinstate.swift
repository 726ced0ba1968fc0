internal import ArgumentParser
internal import BIO
internal import DrayRuntime

extension StorageCommand {
    struct Reinstate: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Return devices to service that an engine has declared faulty.",
            discussion: """
                An engine that finds too many places of a device that cannot be read or are \
                damaged (unreadable_places and damaged_places in its settings) marks it, and no \
                engine serves from it any more. This takes the mark away: the device is in \
                service when its engine is started again. Nothing is repaired. A device that an \
                engine has open is refused; a path without the mark stays as it is. The exit \
                status is 4 when there is no store on a path; then nothing was changed.
                """)

        @Argument(help: "The devices or files.", completion: .file()) var path: [ByteArgument]
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let paths = try path.map { path throws(CommandFailure) in
                try StorageCommand.text(path)
            }
            for path in paths { _ = try StorageCommand.row(of: path) }
            let world = try RealWorld.make(logMask: "error")
            let xstream = world.makeXStream(name: "work")
            defer { xstream.stop() }
            var rows: [ReinstatedDevice] = []
            for path in paths {
                let count = try await xstream.run { () async throws(CommandFailure) in
                    try await Reinstate.reinstate(path, world: world, on: xstream)
                }
                rows.append(ReinstatedDevice(path: path, stores: count))
            }
            try output.print(rows, text: rows.map(\.text).joined(separator: "\n"))
        }

        private static func reinstate(
            _ path: String, world: World, on xstream: XStream
        ) async throws(CommandFailure) -> Int {
            try await onDevice(LocalPath(path)) { () async throws(BIOError) in
                let device = try world.devices.open(path: path, on: xstream)
                let result: Result<Int, BIOError>
                do throws(BIOError) {
                    result = .success(try await BlockStore.reinstate(device))
                } catch {
                    result = .failure(error)
                }
                await device.close()
                return try result.get()
            }
        }
    }
}

/// A device of `dray storage reinstate`.
struct ReinstatedDevice: Codable, Hashable, Sendable {
    var path: String
    /// Its stores that were marked.
    var stores: Int

    var text: String {
        stores == 0
            ? "\(path): was not declared faulty"
            : "\(path): in service when its engine is started again"
    }
}
