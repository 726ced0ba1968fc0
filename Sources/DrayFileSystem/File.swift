internal import Dray
public import DrayRuntime

/// The contents of a file: one dkey per chunk, with the bytes in an array under the akey `data`.
///
/// Reads and writes of different ranges may run at the same time; keep several in flight for
/// speed.
public struct File: Sendable {
    let object: DrayObject
    /// The object with the chunks.
    public let objectID: ObjectID
    let chunkSize: UInt32

    /// The akey of a chunk's bytes.
    static let dataKey = Array("data".utf8)

    /// Part of one chunk, and where it stands in a buffer.
    struct Piece: Equatable {
        var chunk: UInt64
        var offset: UInt64
        var range: Range<Int>
    }

    /// The pieces, chunk by chunk, that `range` of a buffer becomes from `offset` on.
    static func pieces(offset: UInt64, range: Range<Int>, chunkSize: UInt32) -> [Piece] {
        var pieces: [Piece] = []
        var offset = offset
        var start = range.lowerBound
        while start < range.upperBound {
            let within = offset % UInt64(chunkSize)
            let count = min(range.upperBound - start, Int(UInt64(chunkSize) - within))
            pieces.append(
                Piece(
                    chunk: offset / UInt64(chunkSize), offset: within,
                    range: start..<start + count))
            start += count
            offset += UInt64(count)
        }
        return pieces
    }

    /// Writes `range` of `buffer` at `offset` of the file. Durable when it returns. The buffer
    /// must not change meanwhile. `offset` plus the bytes must stay within `Int64.max`.
    public func write(
        offset: UInt64, buffer: IOBuffer, range: Range<Int>
    ) async throws(FileSystemError) {
        for piece in File.pieces(offset: offset, range: range, chunkSize: chunkSize) {
            let object = object
            try await store { () async throws(DrayError) in
                try await object.write(
                    dkey: [UInt8](bigEndian: piece.chunk), akey: File.dataKey,
                    offset: piece.offset, buffer: buffer, range: piece.range)
            }
        }
    }

    /// Reads from `offset` of the file into `range` of `buffer`. What was never written reads as
    /// zeroes, beyond the end too: the caller keeps to the record's size.
    public func read(
        offset: UInt64, into buffer: IOBuffer, range: Range<Int>
    ) async throws(FileSystemError) {
        for piece in File.pieces(offset: offset, range: range, chunkSize: chunkSize) {
            let object = object
            try await store { () async throws(DrayError) in
                try await object.read(
                    dkey: [UInt8](bigEndian: piece.chunk), akey: File.dataKey,
                    offset: piece.offset, into: buffer, range: piece.range)
            }
        }
    }

    /// Gives up a file that got no name.
    public func discard() async throws(FileSystemError) {
        let object = object
        try await store { () async throws(DrayError) in try await object.punch() }
    }
}
