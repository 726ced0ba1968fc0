import BIO
import DrayRuntime
import Testing

@testable import VOS

/// One change of a transaction.
struct DTXChange {
    enum Body {
        case punchObject
        case punchDkey
        case punchAkey
        case single([UInt8])
        case array(UInt64, [UInt8], recordSize: UInt32 = 1)
    }

    var dkey: [UInt8]
    var akey: [UInt8]
    var body: Body
    var condition = Operation.Condition.none
    var object = Names.object
    var container = Names.container

    static func single(
        _ dkey: [UInt8], _ bytes: [UInt8], condition: Operation.Condition = .none,
        object: ObjectID = Names.object, container: UniqueID = Names.container
    ) -> DTXChange {
        DTXChange(
            dkey: dkey, akey: [], body: .single(bytes), condition: condition, object: object,
            container: container)
    }
}

/// The changes of a transaction with the memory that its values lie in.
final class DTXWork {
    let id: UniqueID
    private(set) var updates: [Update] = []
    private var buffers: [IOBuffer] = []

    /// Neighbours of the same object make one part.
    init(_ id: UniqueID, _ changes: [DTXChange]) {
        self.id = id
        for change in changes {
            let operation = operation(change)
            if let last = updates.last, last.object == change.object,
                last.container == change.container
            {
                updates[updates.count - 1].operations.append(operation)
            } else {
                updates.append(
                    Update(
                        pool: Names.pool, container: change.container, object: change.object,
                        epoch: 0, transaction: id, operations: [operation]))
            }
        }
    }

    private func operation(_ change: DTXChange) -> Operation {
        let body: Operation.Body
        switch change.body {
        case .punchObject: body = .punchObject
        case .punchDkey: body = .punchDkey(change.dkey)
        case .punchAkey: body = .punchAkey(dkey: change.dkey, akey: change.akey)
        case .single(let bytes):
            body = .single(dkey: change.dkey, akey: change.akey, value(bytes))
        case .array(let offset, let bytes, let recordSize):
            body = .array(
                dkey: change.dkey, akey: change.akey, offset: offset, recordSize: recordSize,
                value(bytes))
        }
        return Operation(body, condition: change.condition)
    }

    private func value(_ bytes: [UInt8]) -> ValueBytes {
        let buffer = IOBuffer(copying: bytes)
        buffers.append(buffer)
        return ValueBytes(UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<bytes.count]))
    }

    func request(isLeader: Bool = true, leads: Bool = true) -> DTXRequest {
        var request = DTXRequest(id: id, members: [7, 8, 9], isLeader: isLeader)
        request.parts = updates.map { DTXRequest.Part($0, leads: leads) }
        return request
    }
}

extension UniqueID {
    /// The id of the tests' transaction `number`.
    static func dtx(_ number: UInt64) -> UniqueID { UniqueID(high: 0xd7, low: number) }
}

extension VOS {
    func begin(
        _ work: DTXWork, epoch: UInt64, isLeader: Bool = true, leads: Bool = true,
        patience: Instant? = nil
    ) async throws(VOSError) -> DTX {
        var request = work.request(isLeader: isLeader, leads: leads)
        request.patience = patience
        return try await begin(request) { epoch }
    }

    /// Begins and prepares.
    @discardableResult
    func prepare(
        _ id: UniqueID, _ changes: [DTXChange], epoch: UInt64, isLeader: Bool = true,
        leads: Bool = true
    ) async throws(VOSError) -> DTX {
        let work = DTXWork(id, changes)
        let dtx = try await begin(work, epoch: epoch, isLeader: isLeader, leads: leads)
        try await prepare(dtx, work.updates)
        withExtendedLifetime(work) {}
        return dtx
    }

    /// The transaction, which is prepared.
    func prepared(_ id: UniqueID) throws -> DTX {
        guard case .active(let dtx) = state(of: id), dtx.phase == .prepared else {
            throw NotPrepared(id: id, state: "\(state(of: id))")
        }
        return dtx
    }

    /// In words that can be compared.
    func outcome(of id: UniqueID) -> String {
        switch state(of: id) {
        case .unknown: "unknown"
        case .aborted: "aborted"
        case .committed(let epoch): "committed at \(epoch)"
        case .active(let dtx): "\(dtx.phase)"
        }
    }
}

struct NotPrepared: Error {
    var id: UniqueID
    var state: String
}
