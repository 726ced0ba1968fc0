package import DrayRuntime
package import VOS

/// Memory to read into, used again and again: mapping it costs more than a read. What it holds is
/// left from earlier reads.
package final class ReadBuffers {
    private var free: [IOBuffer] = []
    /// The longest value, and room for the block that a read may fill beyond it.
    private static let count = VOSLimits.valueLengthMax + 2 * 4096

    package init() {}

    func take() -> IOBuffer { free.popLast() ?? IOBuffer(count: ReadBuffers.count) }

    func give(_ buffer: IOBuffer) { free.append(buffer) }
}

/// Reads a store back in every way there is, and compares it with a model.
package struct StoreComparison {
    let vos: VOS
    let model: StoreModel
    private let buffers: ReadBuffers
    /// Draws limits of pages and parts of arrays.
    var entropy: Entropy
    /// Apart, so that the rest is drawn as without conditions.
    private var conditionEntropy: Entropy
    /// Whether damage may be reported: what is read must be right all the same.
    package var toleratesDamage = false
    /// Reads that reported damage.
    package private(set) var damaged = 0
    /// Values that were read.
    package private(set) var reads = 0
    /// Values must come from the device.
    package var readsDevice = false

    /// A longer array is read in pieces around its segments.
    private static let pieceMax: UInt64 = 1 << 18

    package init(
        _ vos: VOS, _ model: StoreModel, entropy: Entropy, buffers: ReadBuffers = ReadBuffers()
    ) {
        self.vos = vos
        self.buffers = buffers
        self.model = model
        self.entropy = entropy
        conditionEntropy = entropy.fork("conditions")
    }

    /// The first difference at one of the epochs, in words; nil when there is none. Throws what a
    /// read throws that should succeed.
    package mutating func difference(at epochs: [UInt64]) async throws(VOSError) -> String? {
        var containers = model.containerNames
        containers += vos.containers(pool: StoreNames.pool).filter { !containers.contains($0) }
        for container in containers {
            for epoch in epochs {
                if let found = try await difference(container, epoch) {
                    return "\(found), at epoch \(epoch)"
                }
            }
        }
        return nil
    }

    /// The first difference in one container.
    package mutating func difference(
        _ container: UniqueID, _ epoch: UInt64
    ) async throws(VOSError) -> String? {
        do throws(VOSError) {
            if let found = try await listDifference(container, epoch) { return found }
        } catch {
            guard toleratesDamage, StoreComparison.isDamage(error) else { throw error }
            damaged += 1
        }
        for name in model.names(container) {
            if let found = try await difference(name, epoch) { return found }
        }
        return nil
    }

    /// Whether an error says that what is stored cannot be read.
    package static func isDamage(_ error: VOSError) -> Bool {
        switch error {
        case .corrupt, .damaged, .device: true
        default: false
        }
    }

    /// The first difference in one attribute key.
    package mutating func difference(
        _ name: StoreName, _ epoch: UInt64
    ) async throws(VOSError) -> String? {
        reads += 1
        do throws(VOSError) {
            if let found = try await singleDifference(name, epoch) {
                return "\(found) of \(name)"
            }
        } catch {
            guard toleratesDamage, StoreComparison.isDamage(error) else { throw error }
            damaged += 1
        }
        do throws(VOSError) {
            if let found = try await arrayDifference(name, epoch) { return "\(found) of \(name)" }
        } catch {
            guard toleratesDamage, StoreComparison.isDamage(error) else { throw error }
            damaged += 1
        }
        do throws(VOSError) {
            if let found = try await conditionDifference(name, epoch) {
                return "\(found) of \(name)"
            }
        } catch {
            guard toleratesDamage, StoreComparison.isDamage(error) else { throw error }
            damaged += 1
        }
        return nil
    }

    // MARK: - Lists

    /// The first difference between what is listed and what should be.
    package mutating func listDifference(
        _ container: UniqueID, _ epoch: UInt64
    ) async throws(VOSError) -> String? {
        let objects = model.objects(container, epoch)
        var listed: [ObjectID] = []
        var anchor: ObjectID?
        repeat {
            let page = try await vos.listObjects(
                pool: StoreNames.pool, container: container, after: anchor,
                limit: 1 + Int(entropy.below(3)), epoch: epoch)
            listed += page.objects
            anchor = page.next
        } while anchor != nil
        guard listed == objects else { return "objects \(listed), expected \(objects)" }
        var all = objects
        for name in model.names(container) where all.last != name.object {
            if !all.contains(name.object) { all.append(name.object) }
        }
        for object in all {
            let expected = model.dkeys(container, object, epoch)
            let dkeys = try await dkeys(container, object, epoch)
            guard dkeys == expected else {
                return "dkeys \(dkeys) of object \(object), expected \(expected)"
            }
            for dkey in expected {
                let expected = model.akeys(container, object, dkey, epoch)
                let akeys = try await akeys(container, object, dkey, epoch)
                guard akeys == expected else {
                    return "akeys \(akeys) of \(object) \(dkey), expected \(expected)"
                }
            }
        }
        return nil
    }

    private mutating func dkeys(
        _ container: UniqueID, _ object: ObjectID, _ epoch: UInt64
    ) async throws(VOSError) -> [[UInt8]] {
        var keys: [[UInt8]] = []
        var anchor: [UInt8]?
        let range = KeyRange(isReversed: entropy.chance(1, in: 4))
        repeat {
            let page = try await vos.listDkeys(
                pool: StoreNames.pool, container: container, object: object, in: range,
                after: anchor, limit: 1 + Int(entropy.below(4)),
                bytesMax: entropy.chance(1, in: 4) ? 3 : .max, epoch: epoch)
            keys += page.keys
            anchor = page.next
        } while anchor != nil
        return range.isReversed ? keys.reversed() : keys
    }

    private mutating func akeys(
        _ container: UniqueID, _ object: ObjectID, _ dkey: [UInt8], _ epoch: UInt64
    ) async throws(VOSError) -> [[UInt8]] {
        var keys: [[UInt8]] = []
        var anchor: [UInt8]?
        let range = KeyRange(isReversed: entropy.chance(1, in: 4))
        repeat {
            let page = try await vos.listAkeys(
                pool: StoreNames.pool, container: container, object: object, dkey: dkey,
                in: range, after: anchor, limit: 1 + Int(entropy.below(4)),
                bytesMax: entropy.chance(1, in: 4) ? 1 : .max, epoch: epoch)
            keys += page.keys
            anchor = page.next
        } while anchor != nil
        return range.isReversed ? keys.reversed() : keys
    }

    // MARK: - Values

    private mutating func singleDifference(
        _ name: StoreName, _ epoch: UInt64
    ) async throws(VOSError) -> String? {
        let expected = model.single(name, epoch)
        let room = (expected?.bytes.count ?? 0) + Int(entropy.chance(1, in: 2) ? 4096 : 0)
        let buffer = buffers.take()
        defer { buffers.give(buffer) }
        var fetch = name.fetch(epoch)
        fetch.readsDevice = readsDevice
        do throws(VOSError) {
            let result = try unsafe await vos.fetchSingle(
                fetch, into: UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[0..<room]))
            guard let expected else {
                return "a single value of epoch \(result.epoch) that should not be there"
            }
            guard result.epoch == expected.epoch, result.size == UInt64(expected.bytes.count),
                result.byteCount == expected.bytes.count
            else {
                return "a single value of \(result.size) bytes and epoch \(result.epoch), "
                    + "expected \(expected.bytes.count) and \(expected.epoch)"
            }
            return StoreComparison.difference(buffer, expected.bytes, result.checksums)
                .map { "a single value of epoch \(expected.epoch): \($0)" }
        } catch .notFound {
            return expected.map {
                "no single value, where one of \($0.bytes.count) bytes and epoch \($0.epoch) "
                    + "should be"
            }
        } catch {
            throw error
        }
    }

    private static func difference(
        _ buffer: IOBuffer, _ expected: [UInt8], _ checksums: [UInt32]
    ) -> String? {
        let isEqual = unsafe expected.withUnsafeBytes { bytes in
            unsafe bytes.count == 0
                || CRC32C.checksum(
                    of: UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<bytes.count]))
                    == CRC32C.checksum(of: bytes)
        }
        guard isEqual else {
            let index = expected.indices.first { unsafe buffer.bytes[$0] != expected[$0] } ?? 0
            return "byte \(index) of \(expected.count) is wrong"
        }
        let computed = unsafe expected.withUnsafeBytes { unsafe VOS.checksums(of: $0) }
        return checksums == computed ? nil : "its checksums are wrong"
    }

    private mutating func arrayDifference(
        _ name: StoreName, _ epoch: UInt64
    ) async throws(VOSError) -> String? {
        let segments = model.segments(name, epoch)
        let end = segments.last?.end ?? 0
        let recordSize = model.recordSize(name, epoch)
        let found = try await vos.arrayShape(name.fetch(epoch))
        guard found.end == end, found.recordSize == recordSize else {
            return "an array with \(found), expected \(end) and \(recordSize)"
        }
        if recordSize > 0, try await !isRefused(name, epoch, recordSize: recordSize + 1) {
            return "an array of records of \(recordSize) bytes was read as one of others"
        }
        if let difference = try await extentDifference(name, epoch, segments) { return difference }
        // Some bytes around each segment, whole ones together where they are near each other.
        var pieces: [Range<UInt64>] = []
        for segment in segments {
            let low = segment.start > 10 ? segment.start - 10 : 0
            if let last = pieces.last, low <= last.upperBound,
                segment.end + 10 - last.lowerBound <= StoreComparison.pieceMax
            {
                pieces[pieces.count - 1] =
                    last.lowerBound..<max(last.upperBound, segment.end + 10)
            } else {
                pieces.append(low..<segment.end + 10)
            }
        }
        if pieces.isEmpty { pieces = [0..<10] }
        let whole = pieces[Int(entropy.below(UInt64(pieces.count)))]
        let low = whole.lowerBound + entropy.below(UInt64(whole.count))
        pieces.append(low..<low + 1 + entropy.below(min(20_000, whole.upperBound - low)))
        // Nothing but one extent, again and again: what was found is kept.
        if let segment = segments.first(where: { $0.end - $0.start <= StoreComparison.pieceMax }) {
            pieces += [segment.start..<segment.end, segment.start..<segment.end]
        }
        for piece in pieces {
            if let found = try await pieceDifference(name, epoch, segments, piece) { return found }
        }
        return nil
    }

    private func isRefused(
        _ name: StoreName, _ epoch: UInt64, recordSize: UInt32
    ) async throws(VOSError) -> Bool {
        var fetch = name.fetch(epoch)
        fetch.recordSize = recordSize
        do throws(VOSError) {
            _ = try await vos.arrayShape(fetch)
            return false
        } catch .recordSizeMismatch {
            return true
        }
    }

    private mutating func pieceDifference(
        _ name: StoreName, _ epoch: UInt64, _ segments: [StoreModel.Segment],
        _ range: Range<UInt64>
    ) async throws(VOSError) -> String? {
        let room = entropy.chance(1, in: 2) ? 4096 : 0
        let buffer = buffers.take()
        defer { buffers.give(buffer) }
        let findsEnd = entropy.chance(1, in: 2)
        var fetch = name.fetch(epoch)
        fetch.readsDevice = readsDevice
        let result = try unsafe await vos.fetchArray(
            fetch, offset: range.lowerBound, length: range.count,
            into: UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[0..<range.count + room]),
            findingEnd: findsEnd)
        let expected = StoreModel.bytes(segments, range)
        guard result.byteCount == range.count, result.epoch == expected.epoch else {
            return "bytes \(range) of epoch \(result.epoch), expected \(expected.epoch)"
        }
        // Without the end, a hole need not tell.
        let recordSize = segments.first?.extent.recordSize ?? 0
        guard result.recordSize == recordSize || result.recordSize == 0 && !findsEnd else {
            return "a read of records of \(result.recordSize) bytes, expected \(recordSize)"
        }
        guard !findsEnd || result.size == segments.last?.end ?? 0 else {
            return "a read of an array that ends at \(result.size)"
        }
        return StoreComparison.difference(buffer, expected.bytes, result.checksums)
            .map { "bytes \(range) of an array: \($0)" }
    }

    private mutating func extentDifference(
        _ name: StoreName, _ epoch: UInt64, _ segments: [StoreModel.Segment]
    ) async throws(VOSError) -> String? {
        var extents: [ArrayExtent] = []
        var position: UInt64? = 0
        while let from = position {
            let page = try await vos.listExtents(
                name.fetch(epoch), from: from, limit: 1 + Int(entropy.below(5)))
            extents += page.extents
            position = page.next
        }
        let recordSize = segments.first?.extent.recordSize ?? 0
        guard extents.allSatisfy({ $0.recordSize == recordSize }) else {
            return "extents of records that do not have \(recordSize) bytes"
        }
        // Where one ends and its neighbour of the same epoch begins is the store's affair.
        let expected = StoreComparison.joined(
            segments.map { Part(start: $0.start, end: $0.end, epoch: $0.epoch) })
        let found = StoreComparison.joined(
            extents.map { Part(start: $0.offset, end: $0.offset + $0.byteCount, epoch: $0.epoch) })
        return found == expected ? nil : "extents \(found), expected \(expected)"
    }

    private struct Part: Equatable {
        var start: UInt64
        var end: UInt64
        var epoch: UInt64
    }

    private static func joined(_ parts: [Part]) -> [Part] {
        var joined: [Part] = []
        for part in parts {
            if let last = joined.last, last.epoch == part.epoch, last.end == part.start {
                joined[joined.count - 1].end = part.end
            } else {
                joined.append(part)
            }
        }
        return joined
    }

    // MARK: - Conditions

    /// A read with a condition: whether it is refused is all that is looked at.
    private mutating func conditionDifference(
        _ name: StoreName, _ epoch: UInt64
    ) async throws(VOSError) -> String? {
        guard conditionEntropy.chance(1, in: 2) else { return nil }
        var fetch = name.fetch(epoch)
        fetch.condition = conditionEntropy.chance(1, in: 2) ? .dkeyExists : .akeyExists
        let akeys = model.akeys(name.container, name.object, name.dkey, epoch)
        let exists = fetch.condition == .dkeyExists ? !akeys.isEmpty : akeys.contains(name.akey)
        let isRefused: Bool
        do throws(VOSError) {
            try await read(fetch)
            isRefused = false
        } catch .notFound {
            isRefused = true
        } catch {
            throw error
        }
        guard isRefused == exists else { return nil }
        return "a read on the condition \(fetch.condition) was "
            + (isRefused ? "refused" : "not refused")
    }

    /// Reads a value, or the shape or some bytes of an array.
    private mutating func read(_ fetch: Fetch) async throws(VOSError) {
        let buffer = buffers.take()
        defer { buffers.give(buffer) }
        switch conditionEntropy.below(3) {
        case 0: _ = try unsafe await vos.findSingle(fetch, into: buffer.bytes)
        case 1: _ = try await vos.arrayShape(fetch)
        default:
            _ = try unsafe await vos.fetchArray(
                fetch, offset: conditionEntropy.below(300), length: 100, into: buffer.bytes,
                findingEnd: conditionEntropy.chance(1, in: 2))
        }
    }
}
