internal import ArgumentParser

/// Several values in one argument, between commas: `64,4KiB,1MiB`.
struct CommaList<Element: ExpressibleByArgument & Sendable>: ExpressibleByArgument, Sendable {
    /// At least one.
    var elements: [Element]

    init(_ elements: [Element]) {
        self.elements = elements
    }

    init?(argument: String) {
        elements = []
        for part in argument.split(separator: ",", omittingEmptySubsequences: false) {
            guard let element = Element(argument: String(part)) else { return nil }
            elements.append(element)
        }
    }

    var defaultValueDescription: String {
        elements.map(\.defaultValueDescription).joined(separator: ",")
    }
}
