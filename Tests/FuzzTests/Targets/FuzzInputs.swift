import DrayRuntime

@testable import CaRT
@testable import DrayFabric

/// The fixed part of messages, one after another as in a receive.
enum HeaderInput {
    static func run(_ bytes: UnsafeRawBufferPointer) {
        // As it came, and with checksums that are right: else few inputs come further.
        walk(bytes)
        var copy = [UInt8](bytes)
        copy.withUnsafeMutableBytes { FuzzFrame.complete($0) }
        copy.withUnsafeBytes { walk($0) }
        // The status of a reply, and what goes with it.
        guard bytes.count >= 2 else { return }
        let status = UInt16(bytes[0]) | UInt16(bytes[1]) << 8
        let error = RPCError(
            status: status, body: UnsafeRawBufferPointer(rebasing: bytes.dropFirst(2)))
        let (code, body) = error.wire
        let again = (body?.encoded() ?? []).withUnsafeBytes {
            RPCError(status: code.rawValue, body: $0)
        }
        precondition(again == error, "\(error) changes on the way")
    }

    private static func walk(_ bytes: UnsafeRawBufferPointer) {
        var start = 0
        while start < bytes.count {
            let rest = UnsafeRawBufferPointer(rebasing: bytes[start...])
            guard let header = WireHeader(decoding: rest) else { return }
            precondition(header.messageLength <= rest.count)
            var again = [UInt8](repeating: 0, count: WireHeader.size)
            again.withUnsafeMutableBytes { header.encode(to: $0.baseAddress!) }
            // Bits that mean nothing may be lost, but not the second time.
            var padded = again + rest[WireHeader.size..<header.messageLength]
            let second = padded.withUnsafeBytes { WireHeader(decoding: $0) }
            guard let second else { preconditionFailure("a header does not read itself") }
            padded.withUnsafeMutableBytes { second.encode(to: $0.baseAddress!) }
            precondition(Array(padded[..<WireHeader.size]) == again, "a header changes")
            start += WireHeader.aligned(header.messageLength)
        }
    }

    static var corpus: [[UInt8]] {
        var request = WireHeader()
        request.opcode = 0x2001_0004
        request.deadline = .max / 2
        var reply = WireHeader()
        reply.kind = .reply
        reply.status = 14
        let body = FailureMessage(code: 1, detail: 2, text: "why").encoded()
        let one = FuzzFrame.message(request, [1, 2, 3, 4, 5, 6, 7, 8])
        let two = FuzzFrame.message(reply, body)
        return [one, two, one + two, [14, 0] + body, [15, 0] + body]
    }
}

/// Text that somebody wrote, or sent.
enum TextInput {
    static func runGroup(_ bytes: UnsafeRawBufferPointer) {
        guard let snapshot = try? GroupSnapshot(parsing: String(decoding: bytes, as: UTF8.self))
        else { return }
        guard let again = try? GroupSnapshot(parsing: snapshot.text) else {
            preconditionFailure("a group does not read its text")
        }
        precondition(again == snapshot, "a group changes on the way")
        // Whoever attaches applies it.
        let group = Group(name: snapshot.name)
        if (try? group.apply(.replace(snapshot.members), version: snapshot.version)) != nil {
            precondition(group.members.count == snapshot.members.count)
        }
    }

    static var groupCorpus: [[UInt8]] {
        var snapshot = GroupSnapshot()
        snapshot.name = "group-1"
        snapshot.version = 4
        snapshot.members = FuzzTarget.members
        var empty = GroupSnapshot()
        empty.name = "e"
        return [Array(snapshot.text.utf8), Array(empty.text.utf8)]
    }

    static func runAddress(_ bytes: UnsafeRawBufferPointer) {
        let text = String(decoding: bytes, as: UTF8.self)
        if let address = try? FabricAddress(parsing: text) {
            let again = try? FabricAddress(parsing: address.description)
            precondition(again == address, "\(address) does not read its text")
        }
        _ = try? FabricAddress.split(text)
        // What follows the provider's name as raw bytes.
        let parts = bytes.split(separator: 0, maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2 else { return }
        let raw = FabricAddress(
            provider: String(decoding: parts[0], as: UTF8.self), bytes: Array(parts[1]))
        let description = raw.description
        guard raw.isWellFormed else { return }
        // Padding may differ, which the text does not show.
        let again = try? FabricAddress(parsing: description)
        precondition(again?.description == description, "\(description) is another")
    }

    static var addressCorpus: [[UInt8]] {
        let texts = [
            "ofi+tcp://127.0.0.1:31416", "ofi+tcp;ofi_rxm://[::1]:31416", "ofi+shm://a-name",
            "shm://a-name",
            "sim://x", "sim", "ofi+tcp", "ofi+other://0x0102ff", "ofi+tcp://[fe80::1%2]:1",
        ]
        // 127.0.0.1:31416 and [::1]:31416 as the kernel has them.
        let four: [UInt8] = [2, 0, 122, 184, 127, 0, 0, 1] + Array(repeating: 0, count: 8)
        let six: [UInt8] =
            [10, 0, 122, 184, 0, 0, 0, 0] + Array(repeating: 0, count: 15) + [1, 0, 0, 0, 0]
        return texts.map { Array($0.utf8) }
            + [four, six].map { Array("ofi+tcp".utf8) + [0] + $0 }
            + [Array("sim".utf8) + [0] + Array("x".utf8)]
    }
}

/// Messages made from inputs.
enum FuzzFrame {
    /// A whole message.
    static func message(_ header: WireHeader, _ body: [UInt8]) -> [UInt8] {
        var header = header
        header.bodyLength = UInt32(body.count)
        header.bodyChecksum = body.withUnsafeBytes { CRC32C.checksum(of: $0) }
        var bytes = [UInt8](repeating: 0, count: WireHeader.size)
        bytes.withUnsafeMutableBytes { header.encode(to: $0.baseAddress!) }
        return bytes + body
    }

    /// Gives each header that has room the right magic, version, lengths and checksums.
    static func complete(_ bytes: UnsafeMutableRawBufferPointer) {
        guard bytes.count >= WireHeader.size else { return }
        func store<Value: FixedWidthInteger>(_ value: Value, _ offset: Int) {
            bytes.storeBytes(of: value.littleEndian, toByteOffset: offset, as: Value.self)
        }
        store(WireHeader.magic, 0)
        store(WireHeader.version, 2)
        let room = UInt32(bytes.count - WireHeader.size)
        let total = min(UInt64(load(bytes, 12)) + UInt64(load(bytes, 16)), UInt64(UInt32.max))
        if total > UInt64(room) {
            store(room, 12)
            store(UInt32(0), 16)
        }
        let length = Int(load(bytes, 12)) + Int(load(bytes, 16))
        let body = UnsafeRawBufferPointer(
            rebasing: bytes[WireHeader.size..<WireHeader.size + length])
        store(CRC32C.checksum(of: body), 80)
        store(UInt32(0), 88)
        store(
            CRC32C.checksum(
                of: UnsafeRawBufferPointer(rebasing: bytes[0..<WireHeader.size - 4])), 92)
        let next = WireHeader.aligned(WireHeader.size + length)
        if next < bytes.count {
            complete(UnsafeMutableRawBufferPointer(rebasing: bytes[next...]))
        }
    }

    private static func load(_ bytes: UnsafeMutableRawBufferPointer, _ offset: Int) -> UInt32 {
        UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
    }
}
