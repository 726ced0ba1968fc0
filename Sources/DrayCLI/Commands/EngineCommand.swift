internal import ArgumentParser
internal import BIO
internal import CaRT
internal import DrayEngine
internal import DrayProtocol
internal import DrayRuntime
internal import Glibc
internal import Synchronization

struct EngineCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "engine",
        abstract: "Format devices and run one engine, as on a server; change running ones.",
        subcommands: [Start.self, Format.self, Log.self, Faults.self])

    /// The settings of an engine as flags. Flags go over DRAY_… variables, over the file, over
    /// defaults.
    struct Settings: ParsableArguments {
        @Option(name: .long, help: "The configuration file (YAML).", completion: .file())
        var config: ByteArgument?
        @Option(name: .long, help: "Identity of the cluster.") var clusterID: String?
        @Option(name: .long, help: "Number of this engine in the cluster.") var rank: String?
        @Option(
            name: .long,
            help: """
                Every engine: RANK=ADDRESS*TARGETS, separated by commas; ADDRESS|ADDRESS for \
                several networks.
                """)
        var engines: String?
        @Option(
            name: .long,
            help: """
                Listen with this provider too (repeat for more). Clients may use any of them; \
                engines call each other at the first address of 'engines'.
                """)
        var provider: [String] = []
        @Option(
            name: .long,
            help: "Device file or block device. Repeat for more: they share the targets.",
            completion: .file())
        var device: [String] = []
        @Option(
            name: .long,
            help: "A faster device beside it for logs, index and small values.", completion: .file()
        )
        var metadataDevice: String?
        @Option(name: .long, help: "Values shorter than this stay in the log and the index.")
        var inlineThreshold: String?
        @Option(name: .long, help: "Memory of each target for values that are read often.")
        var valueCache: String?
        @Option(name: .long, help: "Memory of each target for its index.")
        var indexMemory: String?
        @Option(
            name: .long, help: "How much each target reads in a second when it scrubs; 0: off.")
        var scrubRate: String?
        @Option(name: .long, help: "How often a target scrubs all that it has.")
        var scrubInterval: String?
        @Option(
            name: .long,
            help: "A device with more places that cannot be read is taken out of service; or 'off'."
        )
        var unreadablePlaces: String?
        @Option(name: .long, help: "The same for places that do not match their checksums.")
        var damagedPlaces: String?
        @Option(name: .long, help: "Requests in flight per client and target.")
        var credits: String?
        @Option(
            name: .long, help: "How long a call of the engine may take unless it says otherwise.")
        var timeout: String?
        @Option(name: .long, help: "The most bytes of a message that travel inline.")
        var eagerLimit: String?
        @Option(name: .long, help: "The largest message.") var messageSizeMax: String?
        @Option(name: .long, help: "Receives of each context that are posted at any time.")
        var receives: String?
        @Option(
            name: .long, help: "Bulk transfers of each context that are with the fabric at a time.")
        var bulks: String?
        @Option(
            name: .long, help: "event or busy: whether an idle engine sleeps.",
            completion: .list(ProgressMode.allCases.map(\.rawValue)))
        var progress: String?
        @Option(name: .long, help: "How often another engine is asked whether it is alive.")
        var swimPeriod: String?
        @Option(name: .long, help: "How long its answer may take before others ask it too.")
        var swimPingTimeout: String?
        @Option(name: .long, help: "How long one that does not answer may still be alive.")
        var swimSuspicionTimeout: String?
        @Option(name: .long, help: "LEVEL, then FACILITY=LEVEL for exceptions.")
        var logMask: String?
        @Option(
            name: .long,
            help: "off; on for 'dray engine faults'; or faults to inject, between semicolons.")
        var faults: String?
        @Option(name: .long, help: "Where to write the process id.", completion: .file())
        var processFile: String?

        func resolve() throws(CommandFailure) -> EngineSettings {
            var flags: [EngineSettings.Key: String] = [:]
            flags[.clusterID] = clusterID
            flags[.rank] = rank
            flags[.engines] = engines
            if !provider.isEmpty { flags[.provider] = provider.joined(separator: ",") }
            if !device.isEmpty {
                flags[.device] = device.joined(separator: EngineSettings.separator)
            }
            flags[.metadataDevice] = metadataDevice
            flags[.inlineThreshold] = inlineThreshold
            flags[.valueCache] = valueCache
            flags[.indexMemory] = indexMemory
            flags[.scrubRate] = scrubRate
            flags[.scrubInterval] = scrubInterval
            flags[.unreadablePlaces] = unreadablePlaces
            flags[.damagedPlaces] = damagedPlaces
            flags[.credits] = credits
            flags[.timeout] = timeout
            flags[.eagerLimit] = eagerLimit
            flags[.messageSizeMax] = messageSizeMax
            flags[.receives] = receives
            flags[.bulks] = bulks
            flags[.progress] = progress
            flags[.swimPeriod] = swimPeriod
            flags[.swimPingTimeout] = swimPingTimeout
            flags[.swimSuspicionTimeout] = swimSuspicionTimeout
            flags[.logMask] = logMask
            flags[.faults] = faults
            flags[.processFile] = processFile
            var file: [EngineSettings.Key: String] = [:]
            if let config {
                let bytes: [UInt8]
                do throws(Errno) {
                    bytes = try LocalFiles.read(LocalPath(config.bytes))
                } catch {
                    throw CommandFailure(.usage, config.text, error.text)
                }
                file = try EngineSettings.parse(
                    file: String(decoding: bytes, as: UTF8.self), name: config.text)
            }
            return try EngineSettings(
                flags: flags, environment: { Environment.text($0) }, file: file)
        }
    }

    struct Start: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Run an engine until SIGTERM or SIGINT.",
            discussion: """
                Each value comes from its flag, else its variable (DRAY_DEVICE for device, in \
                which commas separate several), else the file, else its default. The devices must \
                have been formatted ('dray engine format', or 'dray cluster start' for a \
                development cluster); their order does not matter any more then.
                """)

        @OptionGroup var settings: Settings
        @Flag(name: .long, help: "Print every effective value with its source, and end.")
        var printConfig = false

        func run() throws {
            AllocatorSettings.apply()
            let settings = try settings.resolve()
            if printConfig { return try Terminal.print(settings.yaml) }
            let configuration = try settings.configuration()
            EngineRunner.raiseDescriptorLimit()
            // Before any thread is made, so that all inherit the mask.
            var signals = sigset_t()
            unsafe sigemptyset(&signals)
            unsafe sigaddset(&signals, SIGTERM)
            unsafe sigaddset(&signals, SIGINT)
            unsafe pthread_sigmask(SIG_BLOCK, &signals, nil)
            let world = RealWorld.make(log: try settings.log())
            let runner = EngineRunner(world: world, configuration: configuration)
            let processFile = settings.values[.processFile]?.text ?? ""
            if !processFile.isEmpty {
                try EngineRunner.writeProcessFile(LocalPath(processFile))
            }
            try runner.run(until: &signals)
        }
    }

    struct Format: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prepare an engine's devices. Refuses one that holds anything.")

        @OptionGroup var settings: Settings
        @Option(name: .long, help: "Make each device file with this size first.") var size: Size?

        func run() async throws {
            let settings = try settings.resolve()
            let configuration = try settings.configuration()
            let world = RealWorld.make(log: try settings.log())
            try await EngineRunner.format(configuration, size: size, world: world)
        }
    }
}

/// Runs an engine on the main thread of its process.
struct EngineRunner {
    let world: World
    let configuration: EngineConfiguration

    /// Takes as many descriptors as the process may have: each connection of a client is one or
    /// more, and shells begin with 1,024.
    static func raiseDescriptorLimit() {
        var limit = rlimit()
        let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
        guard unsafe getrlimit(resource, &limit) == 0 else { return }
        limit.rlim_cur = limit.rlim_max
        _ = unsafe setrlimit(resource, &limit)
    }

    /// What the tasks tell the main thread.
    private final class Outcome: Sendable {
        struct State {
            var engine: Engine?
            var failure: EngineError?
            var stopped = false
        }
        let state = Mutex(State())
    }

    /// What to know of an engine at these addresses; nil when there is nothing.
    private static func caution(about addresses: [String]) -> String? {
        guard addresses.contains(where: { $0.hasPrefix("ofi+shm:") }) else { return nil }
        return "ofi+shm: a process that is killed may leave memory locked that it shares with this "
            + "engine, which then ends with status 75 and has to be started again; processes "
            + "that share memory are trusted, and it knows 256 of them at most in all its life; "
            + "'shm' is without these limits, and faster"
    }

    /// Starts the engine, waits for one of `signals`, and stops it. The signals must be blocked.
    func run(until signals: inout sigset_t) throws(CommandFailure) {
        let outcome = Outcome()
        let main = world.makeXStream(name: "dray-main")
        let (world, configuration) = (world, configuration)
        main.submit {
            main.spawn {
                do throws(EngineError) {
                    let engine = try await Engine.start(configuration, world: world)
                    outcome.state.withLock { $0.engine = engine }
                    Terminal.note("engine \(configuration.rank): serving")
                    if let caution = Self.caution(
                        about: configuration.record.map { Array($0.networks.joined()) } ?? [])
                    {
                        Terminal.note("engine \(configuration.rank): \(caution)")
                    }
                } catch {
                    outcome.state.withLock { $0.failure = error }
                    kill(getpid(), SIGTERM)
                }
            }
        }
        wait(for: &signals)
        if let failure = outcome.state.withLock({ $0.failure }) {
            throw CommandFailure("engine \(configuration.rank)", "\(failure)")
        }
        guard let engine = outcome.state.withLock({ $0.engine }) else { return }
        main.submit {
            main.spawn {
                await engine.stop()
                outcome.state.withLock { $0.stopped = true }
                kill(getpid(), SIGTERM)
            }
        }
        // A second signal from outside ends the wait too: what is acknowledged is stored.
        wait(for: &signals)
        Terminal.note("engine \(configuration.rank): stopped")
    }

    private func wait(for signals: inout sigset_t) {
        var number: Int32 = 0
        while unsafe sigwait(&signals, &number) != 0 {}
    }

    /// Refuses to replace the file of an engine that runs: it would be out of reach.
    static func writeProcessFile(_ path: LocalPath) throws(CommandFailure) {
        if let process = EngineProcess.read(path), process.isAlive {
            throw CommandFailure(
                .exists, path.text, "the engine runs already, as process \(process.pid)",
                advice: "stop it first, with SIGTERM or 'dray cluster stop'")
        }
        let text = try JSON.text(try EngineProcess.current())
        do throws(Errno) {
            try LocalFiles.replace(path, Array((text + "\n").utf8))
        } catch {
            throw CommandFailure(path.text, error.text)
        }
    }

    /// Formats devices, making their files of `size` bytes first if asked to. Those files go again
    /// when something cannot be formatted.
    static func format(
        _ configuration: EngineConfiguration, size: Size?, world: World, overwrite: Bool = false
    ) async throws(CommandFailure) {
        let what = "engine \(configuration.rank)"
        var made: [String] = []
        do throws(EngineError) {
            if let size {
                do throws(BIOError) {
                    for path in configuration.devicePaths {
                        try world.devices.create(path: path, size: size.bytes)
                        made.append(path)
                    }
                } catch {
                    throw .device(error)
                }
            }
            try await Engine.format(configuration, world: world, overwrite: overwrite)
        } catch {
            for path in made { try? LocalFiles.remove(LocalPath(path)) }
            throw CommandFailure(what, "\(error)")
        }
    }
}
