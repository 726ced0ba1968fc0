import ArgumentParser
import DraySimulator
import Glibc

/// Measures the failure detector in groups of many sizes.
struct Swim: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "swim",
        abstract: "Measures failure detection in groups of 2 to 1,000 members.",
        discussion: """
            Exit code 1 when anybody was declared dead who was not, or a death or return was not \
            known to all in time.
            """)

    @Option(help: "The sizes of the groups, separated by commas.")
    var members = "2,4,10,20,50,100,200,500,1000"

    @Option(help: "Kills and stops in each group.")
    var trials = 40

    @Option(help: "Virtual seconds with nothing but lost messages.")
    var seconds = 120

    @Option(help: "The seed.")
    var seed: UInt64 = 1

    @Option(help: "A directory for plots as SVG files.")
    var plots: String?

    private var counts: [Int?] { members.split(separator: ",").map { Int($0) } }

    mutating func validate() throws {
        guard !counts.isEmpty, counts.allSatisfy({ ($0 ?? 0) >= 2 }) else {
            throw ValidationError("--members takes numbers from 2 on, separated by commas")
        }
        guard trials > 0, seconds > 0 else { throw ValidationError("counts must be positive") }
    }

    mutating func run() throws {
        print(
            """
            first and all: seconds from a SIGKILL until the first member and the last one knew; \
            suspect: from a SIGSTOP until the first suspected; spread: from there to the last one; \
            mean and longest. messages: that each member sends in a second.
            """)
        print(
            Swim.line([
                "members", "loss", "first", "", "all", "", "suspect", "", "spread", "", "messages",
                "bytes", "suspicions/s", "false deaths",
            ]))
        var all: [MembershipFigures] = []
        for loss in [0, 5] {
            for count in counts.compactMap({ $0 }) {
                let figures = MembershipFigures(
                    memberCount: count, lossPercent: loss, trials: trials,
                    quietTime: .seconds(seconds), seed: seed)
                all.append(figures)
                print(Swim.row(figures))
            }
        }
        if let plots { try write(Swim.plots(all), to: plots) }
        let bad = all.contains { $0.falseDeaths > 0 || $0.failures > 0 }
        if bad { throw ExitCode(1) }
    }

    private static func row(_ figures: MembershipFigures) -> String {
        func span(_ span: MembershipFigures.Span) -> [String] {
            [LinePlot.text(span.mean, digits: 2), LinePlot.text(span.longest, digits: 2)]
        }
        return line(
            ["\(figures.memberCount)", "\(figures.lossPercent)%"]
                + span(figures.firstDetection) + span(figures.allKnow)
                + span(figures.firstSuspicion) + span(figures.suspicionSpread)
                + [
                    LinePlot.text(figures.messagesPerSecond, digits: 1),
                    LinePlot.text(figures.bytesPerMessage, digits: 0),
                    LinePlot.text(
                        Double(figures.suspicions) / figures.quietSeconds, digits: 2),
                    "\(figures.falseDeaths)",
                ])
            + (figures.failures > 0 ? "  not known in time: \(figures.failures)" : "")
    }

    private static func line(_ cells: [String]) -> String {
        cells.map { String(repeating: " ", count: max(1, 8 - $0.utf8.count)) + $0 }.joined()
    }

    /// The plots by file name.
    static func plots(_ all: [MembershipFigures]) -> [(name: String, plot: LinePlot)] {
        func series(
            _ name: String, loss: Int, _ value: (MembershipFigures) -> Double
        ) -> LinePlot.Series {
            LinePlot.Series(
                name: name,
                points: all.filter { $0.lossPercent == loss }
                    .map { (Double($0.memberCount), value($0)) })
        }
        return [
            (
                "detection.svg",
                LinePlot(
                    title: "SIGKILL: until the first member knows", x: "members", y: "seconds",
                    series: [
                        series("mean", loss: 0, \.firstDetection.mean),
                        series("mean, 5 % of messages lost", loss: 5, \.firstDetection.mean),
                        series("longest", loss: 0, \.firstDetection.longest),
                        series("longest, 5 % lost", loss: 5, \.firstDetection.longest),
                    ])
            ),
            (
                "messages.svg",
                LinePlot(
                    title: "Messages that each member sends in a second", x: "members",
                    y: "messages",
                    series: [
                        series("nothing lost", loss: 0, \.messagesPerSecond),
                        series("5 % lost", loss: 5, \.messagesPerSecond),
                    ])
            ),
            (
                "dissemination.svg",
                LinePlot(
                    title: "From the first member that knows to the last", x: "members",
                    y: "seconds",
                    series: [
                        series("a suspicion, with pings", loss: 0, \.suspicionSpread.mean),
                        series("5 % lost", loss: 5, \.suspicionSpread.mean),
                        series("a death, told at once", loss: 0, \.deathSpread.mean),
                        series("5 % lost", loss: 5, \.deathSpread.mean),
                    ])
            ),
        ]
    }

    private func write(_ plots: [(name: String, plot: LinePlot)], to directory: String) throws {
        for (name, plot) in plots {
            let path = "\(directory)/\(name)"
            guard let file = unsafe fopen(path, "w") else {
                throw ValidationError("cannot write \(path)")
            }
            let isWritten = unsafe fputs(plot.svg, file) >= 0
            guard unsafe fclose(file) == 0, isWritten else {
                throw ValidationError("cannot write \(path)")
            }
        }
    }
}
