package import DrayRuntime
package import VOS

/// What a store should hold: every change there ever was, and the slowest obvious way to read.
package struct StoreModel: Sendable {
    /// When something was changed: at equal epochs the later change wins.
    struct Point: Comparable, Sendable {
        var epoch: UInt64
        var order: Int

        static func < (left: Point, right: Point) -> Bool {
            (left.epoch, left.order) < (right.epoch, right.order)
        }
    }

    struct Single: Sendable {
        var point: Point
        var bytes: [UInt8]
    }

    struct Extent: Sendable {
        var point: Point
        var offset: UInt64
        var bytes: [UInt8]
        var recordSize: UInt32

        var end: UInt64 { offset + UInt64(bytes.count) }
    }

    private struct Akey: Sendable {
        var punches: [Point] = []
        var singles: [Single] = []
        var extents: [Extent] = []

        mutating func discard(_ epochs: ClosedRange<UInt64>) {
            punches.removeAll { epochs.contains($0.epoch) }
            singles.removeAll { epochs.contains($0.point.epoch) }
            extents.removeAll { epochs.contains($0.point.epoch) }
        }
    }

    private struct Dkey: Sendable {
        var punches: [Point] = []
        var akeys: [[UInt8]: Akey] = [:]

        mutating func discard(_ epochs: ClosedRange<UInt64>) {
            punches.removeAll { epochs.contains($0.epoch) }
            for akey in akeys.keys { akeys[akey]?.discard(epochs) }
        }
    }

    private struct Object: Sendable {
        var punches: [Point] = []
        var dkeys: [[UInt8]: Dkey] = [:]

        mutating func discard(_ epochs: ClosedRange<UInt64>) {
            punches.removeAll { epochs.contains($0.epoch) }
            for dkey in dkeys.keys { dkeys[dkey]?.discard(epochs) }
        }
    }

    /// A visible part of an array and where it comes from.
    package struct Segment: Sendable {
        package var start: UInt64
        package var end: UInt64
        var extent: Extent

        /// The epoch of what is visible there.
        package var epoch: UInt64 { extent.point.epoch }
    }

    private var containers: [UniqueID: [ObjectID: Object]] = [:]
    private var order = 0
    /// Every epoch at which something was changed.
    package private(set) var epochs: Set<UInt64> = []

    package init() {}

    // MARK: - Changes

    /// Applies all changes of an update, whose conditions held.
    package mutating func apply(_ update: StoreUpdate) {
        epochs.insert(update.epoch)
        for change in update.changes {
            order += 1
            let point = Point(epoch: update.epoch, order: order)
            StoreModel.apply(
                change, at: point,
                to: &containers[update.container, default: [:]][change.object, default: Object()])
        }
    }

    private static func apply(_ change: StoreChange, at point: Point, to object: inout Object) {
        guard let dkey = change.dkey else { return object.punches.append(point) }
        guard let akey = change.akey else {
            return object.dkeys[dkey, default: Dkey()].punches.append(point)
        }
        switch change.body {
        case .punch:
            object.dkeys[dkey, default: Dkey()].akeys[akey, default: Akey()].punches.append(point)
        case .single(let bytes):
            object.dkeys[dkey, default: Dkey()].akeys[akey, default: Akey()].singles.append(
                Single(point: point, bytes: bytes))
        case .extent(let offset, let bytes, let recordSize):
            object.dkeys[dkey, default: Dkey()].akeys[akey, default: Akey()].extents.append(
                Extent(point: point, offset: offset, bytes: bytes, recordSize: recordSize))
        }
    }

    /// Takes an update back that was applied at an epoch of its own.
    package mutating func revert(_ update: StoreUpdate) {
        let epoch = update.epoch
        for change in update.changes {
            StoreModel.remove(
                epoch,
                from: &containers[update.container, default: [:]][
                    change.object, default: Object()], change)
        }
    }

    private static func remove(
        _ epoch: UInt64, from object: inout Object, _ change: StoreChange
    ) {
        object.punches.removeAll { $0.epoch == epoch }
        guard let dkey = change.dkey else { return }
        object.dkeys[dkey, default: Dkey()].punches.removeAll { $0.epoch == epoch }
        guard let akey = change.akey else { return }
        object.dkeys[dkey, default: Dkey()].akeys[akey, default: Akey()].discard(epoch...epoch)
    }

    /// The container was destroyed, with everything that was ever in it.
    package mutating func destroy(container: UniqueID) { containers[container] = nil }

    /// Epochs of a container, or of one object, were discarded.
    package mutating func discard(
        _ container: UniqueID, _ object: ObjectID?, _ epochs: ClosedRange<UInt64>
    ) {
        for name in (containers[container] ?? [:]).keys where object == nil || object == name {
            containers[container]?[name]?.discard(epochs)
        }
    }

    // MARK: - Reading

    private static func newest(_ points: [Point], _ epoch: UInt64) -> Point {
        points.reduce(Point(epoch: 0, order: 0)) { $1.epoch <= epoch ? max($0, $1) : $0 }
    }

    /// The newest punch over an attribute key at `epoch`.
    private static func punch(
        _ object: Object, _ dkey: Dkey, _ akey: Akey, _ epoch: UInt64
    ) -> Point {
        max(
            newest(object.punches, epoch),
            max(newest(dkey.punches, epoch), newest(akey.punches, epoch)))
    }

    private func find(
        _ name: StoreName
    ) -> (object: Object, dkey: Dkey, akey: Akey)? {
        guard let object = containers[name.container]?[name.object],
            let dkey = object.dkeys[name.dkey], let akey = dkey.akeys[name.akey]
        else { return nil }
        return (object, dkey, akey)
    }

    /// The single value and the epoch that it is of.
    package func single(_ name: StoreName, _ epoch: UInt64) -> (bytes: [UInt8], epoch: UInt64)? {
        guard let (object, dkey, akey) = find(name) else { return nil }
        let punch = StoreModel.punch(object, dkey, akey, epoch)
        var best: Single?
        for single in akey.singles
        where single.point.epoch <= epoch && single.point > (best?.point ?? punch) {
            best = single
        }
        return best.map { ($0.bytes, $0.point.epoch) }
    }

    /// The extents that no punch hides, oldest first.
    private func extents(_ name: StoreName, _ epoch: UInt64) -> [Extent] {
        guard let (object, dkey, akey) = find(name) else { return [] }
        let punch = StoreModel.punch(object, dkey, akey, epoch)
        return akey.extents.filter { $0.point.epoch <= epoch && $0.point > punch }
            .sorted { $0.point < $1.point }
    }

    /// The record size of an array; 0 when there is none.
    package func recordSize(_ name: StoreName, _ epoch: UInt64) -> UInt32 {
        extents(name, epoch).first?.recordSize ?? 0
    }

    /// The visible parts of an array in order.
    package func segments(_ name: StoreName, _ epoch: UInt64) -> [Segment] {
        var segments: [Segment] = []
        for extent in extents(name, epoch) {
            let (start, end) = (extent.offset, extent.end)
            var painted: [Segment] = []
            var isPlaced = false
            for segment in segments {
                if segment.start < start {
                    var left = segment
                    left.end = min(segment.end, start)
                    painted.append(left)
                }
                if !isPlaced, segment.end > start {
                    painted.append(Segment(start: start, end: end, extent: extent))
                    isPlaced = true
                }
                if segment.end > end {
                    var right = segment
                    right.start = max(segment.start, end)
                    painted.append(right)
                }
            }
            if !isPlaced { painted.append(Segment(start: start, end: end, extent: extent)) }
            segments = painted
        }
        return segments
    }

    /// The bytes in `range` of what consists of `segments`, and the newest epoch among them.
    package static func bytes(
        _ segments: [Segment], _ range: Range<UInt64>
    ) -> (bytes: [UInt8], epoch: UInt64) {
        var bytes = [UInt8](repeating: 0, count: range.count)
        var epoch: UInt64 = 0
        for segment in segments where segment.start < range.upperBound {
            let part =
                max(
                    segment.start, range.lowerBound)..<max(
                    range.lowerBound, min(segment.end, range.upperBound))
            guard !part.isEmpty else { continue }
            epoch = max(epoch, segment.epoch)
            let first = Int(part.lowerBound - segment.extent.offset)
            let target = Int(part.lowerBound - range.lowerBound)
            unsafe bytes.withUnsafeMutableBytes { buffer in
                unsafe segment.extent.bytes.withUnsafeBytes { source in
                    unsafe UnsafeMutableRawBufferPointer(
                        rebasing: buffer[target..<target + part.count]
                    ).copyMemory(
                        from: UnsafeRawBufferPointer(rebasing: source[first..<first + part.count]))
                }
            }
        }
        return (bytes, epoch)
    }

    // MARK: - What there is

    private static func isVisible(
        _ object: Object, _ dkey: Dkey, _ akey: Akey, _ epoch: UInt64
    ) -> Bool {
        let punch = punch(object, dkey, akey, epoch)
        return akey.singles.contains { $0.point.epoch <= epoch && $0.point > punch }
            || akey.extents.contains { $0.point.epoch <= epoch && $0.point > punch }
    }

    private static func sorted(_ names: [[UInt8]]) -> [[UInt8]] {
        names.sorted { $0.lexicographicallyPrecedes($1) }
    }

    /// The attribute keys with anything visible.
    package func akeys(
        _ container: UniqueID, _ object: ObjectID, _ dkey: [UInt8], _ epoch: UInt64
    ) -> [[UInt8]] {
        guard let found = containers[container]?[object], let key = found.dkeys[dkey] else {
            return []
        }
        return StoreModel.sorted(
            key.akeys.filter { StoreModel.isVisible(found, key, $0.value, epoch) }.map(\.key))
    }

    /// The distribution keys with anything visible.
    package func dkeys(
        _ container: UniqueID, _ object: ObjectID, _ epoch: UInt64
    ) -> [[UInt8]] {
        guard let found = containers[container]?[object] else { return [] }
        return StoreModel.sorted(
            found.dkeys.filter { _, dkey in
                dkey.akeys.values.contains { StoreModel.isVisible(found, dkey, $0, epoch) }
            }.map(\.key))
    }

    /// The objects with anything visible.
    package func objects(_ container: UniqueID, _ epoch: UInt64) -> [ObjectID] {
        (containers[container] ?? [:]).keys.filter { !dkeys(container, $0, epoch).isEmpty }.sorted()
    }

    /// The containers that were ever written to.
    package var containerNames: [UniqueID] { containers.keys.sorted() }

    /// Every attribute key that was ever written or punched, in order.
    package func names(_ container: UniqueID) -> [StoreName] {
        var names: [StoreName] = []
        for (objectName, object) in (containers[container] ?? [:]).sorted(by: { $0.key < $1.key }) {
            for dkeyName in StoreModel.sorted(Array(object.dkeys.keys)) {
                for akey in StoreModel.sorted(Array(object.dkeys[dkeyName]?.akeys.keys ?? [:].keys))
                {
                    names.append(
                        StoreName(
                            container: container, object: objectName, dkey: dkeyName, akey: akey))
                }
            }
        }
        return names
    }

    /// Whether anybody could see records of two sizes in an array, at any epoch, after one of the
    /// changes, which are all at `epoch`.
    package func mixesRecordSizes(
        _ container: UniqueID, _ changes: [StoreChange], epoch: UInt64
    ) -> Bool {
        var names: [StoreName] = []
        for change in changes {
            guard case .extent = change.body, let dkey = change.dkey, let akey = change.akey else {
                continue
            }
            let name = StoreName(
                container: container, object: change.object, dkey: dkey, akey: akey)
            if !names.contains(name) { names.append(name) }
        }
        return names.contains { mixesRecordSizes($0, changes, epoch: epoch) }
    }

    private func mixesRecordSizes(
        _ name: StoreName, _ changes: [StoreChange], epoch: UInt64
    ) -> Bool {
        var punches: [Point] = []
        var extents: [Extent] = []
        if let (object, dkey, akey) = find(name) {
            punches = object.punches + dkey.punches + akey.punches
            extents = akey.extents
        } else if let object = containers[name.container]?[name.object] {
            punches = object.punches + (object.dkeys[name.dkey]?.punches ?? [])
        }
        var order = order
        for change in changes where change.object == name.object {
            guard change.dkey ?? name.dkey == name.dkey, change.akey ?? name.akey == name.akey
            else { continue }
            order += 1
            let point = Point(epoch: epoch, order: order)
            switch change.body {
            case .punch: punches.append(point)
            case .single: continue
            case .extent(let offset, let bytes, let recordSize):
                extents.append(
                    Extent(point: point, offset: offset, bytes: bytes, recordSize: recordSize))
            }
            guard Set(extents.map(\.recordSize)).count > 1 else { continue }
            // Two that are seen together are so at the epoch of one of them.
            for extent in extents {
                let now = extent.point.epoch
                let punch = StoreModel.newest(punches, now)
                let visible = extents.filter { $0.point.epoch <= now && $0.point > punch }
                if Set(visible.map(\.recordSize)).count > 1 { return true }
            }
        }
        return false
    }

    /// What the condition of a change comes to: nil when it holds.
    package func refusal(_ container: UniqueID, _ change: StoreChange) -> VOSError? {
        let dkeyExists: Bool
        let exists: Bool
        if let dkey = change.dkey {
            let akeys = akeys(container, change.object, dkey, .max)
            dkeyExists = !akeys.isEmpty
            exists = change.akey.map { akeys.contains($0) } ?? dkeyExists
        } else {
            dkeyExists = false
            exists = !dkeys(container, change.object, .max).isEmpty
        }
        return switch change.condition {
        case .none: nil
        case .insert: exists ? .exists : nil
        case .update: exists ? nil : .notFound
        case .insertDkey: dkeyExists ? .exists : nil
        case .updateDkey: dkeyExists ? nil : .notFound
        }
    }
}

/// The full name of an attribute key in `StoreNames.pool`.
package struct StoreName: Hashable, Sendable {
    package var container: UniqueID
    package var object: ObjectID
    package var dkey: [UInt8]
    package var akey: [UInt8]

    package init(container: UniqueID, object: ObjectID, dkey: [UInt8], akey: [UInt8]) {
        self.container = container
        self.object = object
        self.dkey = dkey
        self.akey = akey
    }

    /// What a fetch of it at `epoch` asks for.
    package func fetch(_ epoch: UInt64) -> Fetch {
        Fetch(
            pool: StoreNames.pool, container: container, object: object, dkey: dkey, akey: akey,
            epoch: epoch)
    }
}
