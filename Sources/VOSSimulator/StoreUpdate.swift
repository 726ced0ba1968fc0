package import BIO
package import DrayRuntime
package import VOS

/// A change of one key, as simulations of the store ask for it and remember it.
package struct StoreChange: Sendable {
    /// What is done.
    package enum Body: Sendable {
        /// Removes the object, the distribution key or the attribute key: what is named.
        case punch
        /// Sets the single value.
        case single([UInt8])
        /// Writes these bytes, at least one, from an offset on: whole records.
        case extent(UInt64, [UInt8], recordSize: UInt32 = 1)
    }

    package var object: ObjectID
    /// Nil: the whole object.
    package var dkey: [UInt8]?
    /// Nil: the whole distribution key.
    package var akey: [UInt8]?
    package var body: Body
    package var condition: Operation.Condition

    /// A change of an attribute key, or with fewer names a punch of what is above.
    package init(
        _ object: ObjectID, _ dkey: [UInt8]? = nil, _ akey: [UInt8]? = nil, _ body: Body = .punch,
        condition: Operation.Condition = .none
    ) {
        self.object = object
        self.dkey = dkey
        self.akey = akey
        self.body = body
        self.condition = condition
    }

    /// The bytes of a value.
    var bytes: [UInt8]? {
        switch body {
        case .punch: nil
        case .single(let bytes), .extent(_, let bytes, _): bytes
        }
    }
}

/// Changes that become visible together, at one epoch.
package struct StoreUpdate: Sendable {
    package var container: UniqueID
    package var epoch: UInt64
    package var transaction: UniqueID
    /// Of one object, unless it is a distributed transaction.
    package var changes: [StoreChange]

    /// An update of a container of `StoreNames.pool`.
    package init(
        _ changes: [StoreChange], epoch: UInt64, transaction: UniqueID = .zero,
        container: UniqueID = StoreNames.container
    ) {
        self.changes = changes
        self.epoch = epoch
        self.transaction = transaction
        self.container = container
    }
}

/// What the index has of an update, whether it can be read or not.
package struct StoreTrace: Hashable, Sendable {
    private var container: UniqueID
    private var object: ObjectID
    private var epoch: UInt64

    package init(_ name: StoreEntry.Name) {
        (container, object, epoch) = (name.container, name.object, name.epoch)
    }

    fileprivate init(_ change: StoreChange, of update: StoreUpdate) {
        (container, object, epoch) = (update.container, change.object, update.epoch)
    }
}

extension StoreUpdate {
    /// No two updates have the same.
    var traces: [StoreTrace] { changes.map { StoreTrace($0, of: self) } }
}

/// The names that simulations of the store use.
package enum StoreNames {
    package static let pool = UniqueID(high: 0xaa, low: 1)
    package static let container = UniqueID(high: 0xbb, low: 2)
    package static let object = ObjectID(high: 7 << 32, low: 3)
    package static let identity = StoreIdentity(
        clusterID: UniqueID(high: 1, low: 2), engineID: UniqueID(high: 3, low: 4), target: 5)
}

extension [UInt8] {
    /// `count` bytes that depend on `seed`: 512 random ones again and again, each time with
    /// another first byte.
    package static func pattern(_ count: Int, seed: UInt64) -> [UInt8] {
        var entropy = Entropy(seed: seed)
        var words: [UInt64] = []
        while words.count < Swift.min(64, count / 8 + 1) { words.append(entropy.next()) }
        return unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            unsafe words.withUnsafeBytes { source in
                var start = 0
                while start < count {
                    let length = Swift.min(source.count, count - start)
                    unsafe UnsafeMutableRawBufferPointer(
                        rebasing: UnsafeMutableRawBufferPointer(buffer)[start..<start + length]
                    ).copyMemory(from: UnsafeRawBufferPointer(rebasing: source[0..<length]))
                    unsafe buffer[start] &+= UInt8(truncatingIfNeeded: start >> 9)
                    start += length
                }
            }
            initialized = count
        }
    }
}

/// A `StoreUpdate` with the memory that its values lie in, as the store takes it.
package final class StoreWork {
    /// One for each object.
    package private(set) var updates: [Update] = []
    /// The first value is aligned to a block and the others are not: both ways are taken.
    private let buffer: IOBuffer

    package init(_ update: StoreUpdate) {
        let size = update.changes.reduce(0) { $0 + ($1.bytes?.count ?? 0) }
        buffer = IOBuffer(count: max(1, size))
        var used = 0
        for change in update.changes {
            let operation = operation(change, &used)
            if let last = updates.last, last.object == change.object {
                updates[updates.count - 1].operations.append(operation)
            } else {
                updates.append(
                    Update(
                        pool: StoreNames.pool, container: update.container, object: change.object,
                        epoch: update.epoch, transaction: update.transaction,
                        operations: [operation]))
            }
        }
    }

    private func operation(_ change: StoreChange, _ used: inout Int) -> Operation {
        let body: Operation.Body
        switch (change.body, change.dkey, change.akey) {
        case (.single(let bytes), let dkey?, let akey?):
            body = .single(dkey: dkey, akey: akey, value(bytes, &used))
        case (.extent(let offset, let bytes, let recordSize), let dkey?, let akey?):
            body = .array(
                dkey: dkey, akey: akey, offset: offset, recordSize: recordSize,
                value(bytes, &used))
        case (.punch, let dkey?, let akey?): body = .punchAkey(dkey: dkey, akey: akey)
        case (.punch, let dkey?, nil): body = .punchDkey(dkey)
        case (.punch, nil, nil): body = .punchObject
        default: preconditionFailure("a value needs both of its keys")
        }
        return Operation(body, condition: change.condition)
    }

    private func value(_ bytes: [UInt8], _ used: inout Int) -> ValueBytes {
        // SAFETY: the buffer lives as long as this object, which outlives the update.
        let target = unsafe UnsafeMutableRawBufferPointer(
            rebasing: buffer.bytes[used..<used + bytes.count])
        unsafe bytes.withUnsafeBytes { unsafe target.copyMemory(from: $0) }
        used += bytes.count
        return unsafe ValueBytes(UnsafeRawBufferPointer(target))
    }
}

extension VOS {
    /// Applies an update of one object, and returns the epoch at which that was done.
    @discardableResult
    package func apply(
        _ update: StoreUpdate, patience: Instant? = nil
    ) async throws(VOSError) -> UInt64 {
        let work = StoreWork(update)
        precondition(work.updates.count == 1, "an update is of one object")
        let epoch = try await self.update(work.updates[0], patience: patience)
        withExtendedLifetime(work) {}
        return epoch
    }

    /// Begins and prepares a distributed transaction of any objects at the update's epoch.
    package func prepare(
        _ update: StoreUpdate, members: [UInt8] = [7, 8, 9], isLeader: Bool,
        patience: Instant? = nil
    ) async throws(VOSError) -> DTX {
        let work = StoreWork(update)
        var request = DTXRequest(id: update.transaction, members: members, isLeader: isLeader)
        request.parts = work.updates.map { DTXRequest.Part($0, leads: true) }
        request.patience = patience
        let dtx = try await begin(request) { update.epoch }
        try await prepare(dtx, work.updates)
        withExtendedLifetime(work) {}
        return dtx
    }
}

/// The store's own check, called from here alone.
package func checkInvariants(of vos: VOS) async throws {
    try await vos.checkInvariants()
}
