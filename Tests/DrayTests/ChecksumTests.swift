import Dray
import DrayChecksums
import DrayPlacement
import DrayProtocol
import DrayRuntime
import DraySimulator
import Testing

/// Containers with checksums of each type, through client, engines and devices.
@Suite struct ChecksumTests {
    private func makeContainer(
        _ rig: ClusterRig, _ type: ChecksumType, isServerVerified: Bool = true
    ) async throws -> Container {
        try await rig.container.pool.createContainer(
            label: type.name, objectClass: .rp2g1, checksumType: type,
            isServerVerified: isServerVerified)
    }

    @Test(arguments: ChecksumType.allCases, [true, false])
    func writtenAndRead(type: ChecksumType, isServerVerified: Bool) {
        ClusterRig.run(targets: 2) { rig in
            let made = try await makeContainer(rig, type, isServerVerified: isServerVerified)
            #expect(made.checksumType == type)
            // As somebody else finds it.
            let found = try await rig.client.pool("tank").container(type.name)
            #expect(found.record == made.record)
            #expect(found.record.isServerVerified == isServerVerified)
            let object = made.object(try await made.makeObjectID())
            for size in [0, 5, 20_000, 100_001] {
                let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 7) }
                let key = Array("\(size)".utf8)
                try await object.put(dkey: key, akey: [1], value: bytes)
                #expect(try await object.get(dkey: key, akey: [1]) == bytes)
                guard size > 0 else { continue }
                let buffer = IOBuffer(copying: bytes + [1, 1])
                try await object.write(
                    dkey: key, akey: [2], offset: 1, buffer: buffer, range: 0..<size)
                try await object.read(
                    dkey: key, akey: [2], offset: 0, into: buffer, range: 0..<size + 2)
                #expect(buffer.array(0..<size + 2) == [0] + bytes + [0])
            }
            try await made.transaction { transaction in
                let value = try await transaction.get(object, dkey: Array("5".utf8), akey: [1])
                try await transaction.put(object, dkey: [9], akey: [9], value: value ?? [])
            }
            #expect(try await object.get(dkey: [9], akey: [9])?.count == 5)
            let report = try await object.verify()
            #expect(report.isEqual)
        }
    }

    /// What has rotted on every device is known by each type but none at all.
    @Test(arguments: ChecksumType.allCases) func rottenValues(type: ChecksumType) {
        ClusterRig.run(targets: 2) { rig in
            let made = try await makeContainer(rig, type)
            let object = made.object(try await made.makeObjectID())
            let bytes = [UInt8](repeating: 7, count: 100_000)
            try await object.put(dkey: [1], akey: [1], value: bytes)
            var rotten = 0
            for rank in 0..<rig.cluster.engineCount {
                rotten += rig.cluster.rot(rank: rank, oneIn: 1)
            }
            #expect(rotten > 0)
            guard type != .off else {
                #expect(try await object.get(dkey: [1], akey: [1])?.count == bytes.count)
                return
            }
            let (error, _) = try await rig.failure {
                _ = try await object.get(dkey: [1], akey: [1])
            }
            #expect(error.code == .corrupt, "\(error)")
        }
    }
}
