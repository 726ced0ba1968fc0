import ArgumentParser

@main
struct DrayCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "dray")
}
