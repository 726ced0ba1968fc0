internal import DrayRuntime

/// What one cycle does to the engines.
struct Fault: CustomStringConvertible {
    enum Kind: Hashable {
        case kill([Int])
        case stop(Int)
        case nothing
    }

    var kind: Kind
    /// Undisturbed work before it.
    var before: Duration
    /// How long the engines are away.
    var pause: Duration
    /// Kills the same ones once more, so long after their start.
    var again: Duration?

    init(engines: Int, _ entropy: inout Entropy) {
        func draw(_ range: ClosedRange<UInt64>) -> Duration {
            .milliseconds(Int64(range.lowerBound + entropy.below(UInt64(range.count))))
        }
        before = draw(200...1_000)
        pause = draw(0...1_500)
        let one = Int(entropy.below(UInt64(engines)))
        switch entropy.below(10) {
        case 0...3: kind = .kill([one])
        case 4:
            let others = (0..<engines).filter { $0 != one }
            let second = others.isEmpty ? one : others[Int(entropy.below(UInt64(others.count)))]
            kind = .kill(
                (0..<engines).filter {
                    $0 == one || $0 == second || entropy.chance(1, in: 3)
                })
        case 5: kind = .kill(Array(0..<engines))
        case 6...8:
            kind = .stop(one)
            pause = draw(100...3_000)
        default: kind = .nothing
        }
        again = entropy.chance(1, in: 4) ? draw(0...400) : nil
    }

    var description: String {
        switch kind {
        case .kill(let ranks):
            "SIGKILL \(ranks), started after \(milliseconds(pause)) ms"
                + (again.map { ", killed again \(milliseconds($0)) ms later" } ?? "")
        case .stop(let rank): "SIGSTOP [\(rank)] for \(milliseconds(pause)) ms"
        case .nothing: "nothing for \(milliseconds(pause)) ms"
        }
    }
}

/// Whole milliseconds.
func milliseconds(_ duration: Duration) -> Int64 {
    Int64(duration.nanosecondsClamped / 1_000_000)
}
