internal import ArgumentParser
internal import BIO
internal import Dray
internal import DrayFabric
internal import DrayFileSystem

/// How the program ends: part of its interface, listed in `dray --help`.
enum ExitStatus: Int32, Sendable {
    case success = 0
    /// Something failed that has no code of its own.
    case failure = 1
    /// Done, but some files were skipped; each has its line on standard error.
    case skipped = 3
    /// What was named does not exist.
    case notFound = 4
    /// No engine answers, or not in time. Trying again may help.
    case unavailable = 5
    /// What should be made exists already.
    case exists = 6
    /// No space is left.
    case noSpace = 7
    /// Two things that should be equal differ.
    case different = 8
    /// The arguments cannot be understood (ArgumentParser's code).
    case usage = 64
}

/// Why a command failed, for one line on standard error: `dray: what: why; what to do`.
struct CommandFailure: Error, Sendable {
    var status: ExitStatus
    /// What it concerns: a file, a pool, an address.
    var what: String
    var why: String
    /// What a person can do about it. Empty when there is nothing to say.
    var advice: String

    /// A failure that has no exit status of its own.
    init(_ what: String, _ why: String, advice: String = "") {
        self.init(.failure, what, why, advice: advice)
    }

    init(_ status: ExitStatus, _ what: String, _ why: String, advice: String = "") {
        self.status = status
        self.what = what
        self.why = why
        self.advice = advice
    }

    /// The line, without its end. What is named is shortened: a key may have 4096 bytes.
    var line: String {
        let long = what.count > CommandFailure.whatMax
        let name = long ? what.prefix(CommandFailure.whatMax / 2) + "…" : what[...]
        // What the store's own message begins with is not said twice.
        let reason = why.hasPrefix(what + ": ") ? why.dropFirst(what.count + 2) : why[...]
        let text = "dray: \(name): \(reason)" + (advice.isEmpty ? "" : "; \(advice)")
        return String(text.map { $0.isNewline ? " " : $0 })
    }

    /// The longest name that is printed whole, in characters: any path that people type.
    static let whatMax = 512
}

extension CommandFailure {
    /// The failure that an error of the store means for `what`.
    init(_ error: DrayError, _ what: String) {
        let saysIt = error.message.contains("dray cluster status")
        self.init(
            CommandFailure.status(of: error.code), what, error.message,
            advice: saysIt ? "" : CommandFailure.advice(for: error.code))
    }

    /// The failure that an error of a file system means for `what`.
    init(_ error: FileSystemError, _ what: String) {
        switch error {
        case .store(let cause): self.init(cause, what)
        case .notFound: self.init(.notFound, what, "no such file or directory")
        case .exists: self.init(.exists, what, "exists already")
        case .notDirectory: self.init(.failure, what, "not a directory")
        case .isDirectory:
            self.init(.failure, what, "is a directory", advice: "say --recursive to include it")
        case .notEmpty:
            self.init(
                .failure, what, "the directory is not empty",
                advice: "say --recursive to remove what is in it")
        case .notFormatted:
            self.init(
                .notFound, what, "the container holds no file system",
                advice: "'dray fs put' or 'dray fs mkdir' makes one")
        case .alreadyFormatted, .corrupt, .invalidName, .tooManyLinks:
            self.init(.failure, what, "\(error)")
        }
    }

    private static func status(of code: DrayError.Code) -> ExitStatus {
        switch code {
        case .notFound: .notFound
        case .exists: .exists
        case .noSpace: .noSpace
        case .unavailable, .timedOut: .unavailable
        default: .failure
        }
    }

    private static func advice(for code: DrayError.Code) -> String {
        switch code {
        case .unavailable, .timedOut:
            "see 'dray cluster status', and 'dray cluster start' to start what is down"
        case .noSpace: "remove something, or use a larger pool ('dray pool query' shows its use)"
        default: ""
        }
    }
}
