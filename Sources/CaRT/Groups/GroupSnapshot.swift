internal import DrayFabric
public import DrayRuntime

/// One version of a group, to be sent or written down.
public struct GroupSnapshot: Message, Hashable {
    /// The group's name: see `Group.isName`.
    public var name = ""
    /// Which version of the group it is; 0 of one that nothing is known of.
    public var version: UInt32 = 0
    /// Ascending by rank.
    public var members: [Group.Member] = []

    /// Everything empty: to be decoded into.
    public init() {}

    /// The group as it is.
    public init(_ group: Group) {
        name = group.name
        version = group.version
        members = group.members
    }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&name, max: Group.nameBytesMax)
        try coder.code(&version)
        try coder.code(
            &members, max: Group.membersMax, default: Group.Member(rank: 0, addresses: [])
        ) { (coder, member) throws(DecodingFailure) in
            try coder.code(&member.rank)
            try coder.code(&member.incarnation)
            try coder.code(&member.addresses, max: InternalProtocol.tagsMax)
        }
        guard !coder.isDecoding || Group.isName(name) else { throw .invalidValue }
    }

    // MARK: - As text

    /// The first line of the text.
    private static let title = "dray-group 1"

    /// Lines that `init(parsing:)` reads back: a title, the name, the version, the members, and
    /// their count, which shows that the text is whole.
    public var text: String {
        var lines = [GroupSnapshot.title, "name \(name)", "version \(version)"]
        for member in members {
            let addresses = member.addresses.map(\.description).joined(separator: " ")
            lines.append("member \(member.rank) \(member.incarnation) \(addresses)")
        }
        lines.append("members \(members.count)")
        return lines.joined(separator: "\n") + "\n"
    }

    /// Reads what `text` gives.
    ///
    /// - Throws: the number of the first line that is wrong, from 1, and what it should be.
    public init(parsing text: String) throws(AttachError) {
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        var number = 0
        func next(_ expected: String) throws(AttachError) -> [Substring] {
            guard number < lines.count else { throw .badLine(number + 1, expected: expected) }
            number += 1
            return lines[number - 1].split(separator: " ", omittingEmptySubsequences: false)
        }
        guard try next(GroupSnapshot.title).joined(separator: " ") == GroupSnapshot.title else {
            throw .badLine(number, expected: GroupSnapshot.title)
        }
        var words = try next("name NAME")
        guard words.count == 2, words[0] == "name", Group.isName(String(words[1])) else {
            throw .badLine(number, expected: "name NAME")
        }
        name = String(words[1])
        words = try next("version NUMBER")
        guard words.count == 2, words[0] == "version", let version = UInt32(words[1]) else {
            throw .badLine(number, expected: "version NUMBER")
        }
        self.version = version
        let form = "member RANK INCARNATION ADDRESS…, or members COUNT"
        while true {
            words = try next(form)
            if words.first == "members" { break }
            guard words.count > 3, words[0] == "member", let rank = UInt32(words[1]),
                let incarnation = UInt64(words[2])
            else { throw .badLine(number, expected: form) }
            var addresses: [FabricAddress] = []
            for word in words[3...] {
                do throws(FabricError) {
                    addresses.append(try FabricAddress(parsing: String(word)))
                } catch {
                    throw .badLine(number, expected: "an address instead of \(word)")
                }
            }
            members.append(
                Group.Member(rank: rank, incarnation: incarnation, addresses: addresses))
        }
        guard words.count == 2, Int(words[1]) == members.count else {
            throw .badLine(number, expected: "members \(members.count)")
        }
        guard lines[number...].allSatisfy(\.isEmpty) else {
            throw .badLine(number + 1, expected: "the end")
        }
    }
}

/// Why a group cannot be attached to.
public enum AttachError: Error, Hashable, Sendable {
    /// The file cannot be read or written: what the system said.
    case file(path: String, message: String)
    /// A line of the file, from 1, is not what it should be.
    case badLine(Int, expected: String)
    /// Nobody answers at the address, or not with a group.
    case call(RPCError)
    /// What is described there is another group.
    case otherGroup(name: String)
    /// The group's members cannot be.
    case group(GroupError)
}

extension AttachError: CustomStringConvertible {
    /// What went wrong, in words for people.
    public var description: String {
        switch self {
        case .file(let path, let message): "\(path): \(message)"
        case .badLine(let line, let expected): "line \(line): expected \(expected)"
        case .call(let error): "\(error)"
        case .otherGroup(let name): "the group there is \(name)"
        case .group(let error): "\(error)"
        }
    }
}
