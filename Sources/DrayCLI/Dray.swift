internal import ArgumentParser
internal import Glibc

/// The program: parses the arguments, runs one command, and turns its failure into one line on
/// standard error and an exit status.
@main
struct DrayCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dray",
        abstract: "A distributed object store: engine, client and tools in one program.",
        discussion: """
            A first cluster, on this machine:

              dray cluster start
              dray pool create tank --size 1GiB
              dray container create tank/photos
              dray fs put DIRECTORY tank/photos:/

            Exit status:
              0   success
              1   failure; one line on standard error says what, why, and what to do
              3   done, but some files were skipped: a line for each on standard error
              4   what was named does not exist
              5   no engine answers, or not in time
              6   it exists already
              7   no space left
              8   the two sides of a comparison differ
              64  the arguments cannot be understood

            Sizes are written 4096, 64k, 1.5MiB, 4GB (k, M, G, KiB… are powers of 1024; kB, MB… \
            of 1000), times 10s, 500ms, 2m.
            """,
        version: "0.1.0",
        subcommands: [
            ClusterCommand.self, EngineCommand.self, PoolCommand.self, ContainerCommand.self,
            FileSystemCommand.self, KeyValueCommand.self, ObjectCommand.self,
            SelfTestCommand.self, BenchCommand.self, FabricCommand.self, MetricsCommand.self,
            StorageCommand.self, VOSCommand.self, CompletionsCommand.self,
        ])

    static func main() async {
        // A reader that goes away ends the writing command, not with a signal but an error.
        signal(SIGPIPE, SIG_IGN)
        // A library of libfabric's takes these to write a trace into the working directory and end
        // with status 1. An interrupt must end the program as shells expect, a crash as a crash.
        for number in [SIGINT, SIGTERM, SIGSEGV, SIGBUS, SIGILL, SIGABRT, SIGFPE] {
            signal(number, SIG_DFL)
        }
        do {
            var command = try parseAsRoot(ByteArgument.processArguments())
            if var command = command as? any AsyncParsableCommand {
                try await command.run()
            } else {
                try command.run()
            }
            end(ExitStatus.success.rawValue)
        } catch let failure as CommandFailure {
            Terminal.note(failure.line)
            end(failure.status.rawValue)
        } catch {
            let code = exitCode(for: error)
            let message = fullMessage(for: error)
            if !message.isEmpty {
                if code.isSuccess {
                    try? Terminal.print(message)
                } else {
                    Terminal.note(message)
                }
            }
            end(code.rawValue)
        }
    }

    /// Ends the process without the destructors of its libraries: the network's take apart what
    /// threads of ours, asleep or not, still use. Everything was written without buffers.
    private static func end(_ status: Int32) -> Never {
        _exit(status)
    }
}

/// Ends the program with a status that is neither success nor an error with a message.
func finish(_ status: ExitStatus) throws {
    if status != .success { throw ExitCode(status.rawValue) }
}
