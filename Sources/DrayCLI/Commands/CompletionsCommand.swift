internal import ArgumentParser

struct CompletionsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "completions", abstract: "Print a shell's completion script.",
        discussion: """
            bash: dray completions bash > ~/.local/share/bash-completion/completions/dray
            zsh:  dray completions zsh > a directory of $fpath, as _dray
            fish: dray completions fish > ~/.config/fish/completions/dray.fish
            """)

    enum Shell: String, ExpressibleByArgument, CaseIterable {
        case bash, zsh, fish
    }

    @Argument(help: "bash, zsh or fish") var shell: Shell

    func run() throws {
        let script =
            switch shell {
            case .bash: DrayCommand.completionScript(for: .bash)
            case .zsh: DrayCommand.completionScript(for: .zsh)
            case .fish: DrayCommand.completionScript(for: .fish)
            }
        try Terminal.print(script)
    }
}
