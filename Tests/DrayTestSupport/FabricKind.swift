internal import Glibc

/// The fabrics that every behaviour is tested over.
package enum FabricKind: String, CaseIterable, CustomStringConvertible, Sendable {
    case tcp = "ofi+tcp"
    case layeredTCP = "ofi+tcp;ofi_rxm"
    case sharedMemory = "shm"
    case libfabricSharedMemory = "ofi+shm"
    case simulated = "sim"
    case verbs = "ofi+verbs;ofi_rxm"

    package var description: String { rawValue }

    /// What DRAY_TEST_PROVIDERS names, separated by commas, each with the host to listen at where
    /// that matters: `ofi+tcp,ofi+verbs;ofi_rxm://10.99.0.1`. Without it, all that every machine
    /// has.
    package static let tested: [(kind: FabricKind, address: String)] = {
        guard let list = getenv(variable).map({ String(cString: $0) }) else {
            return [.tcp, .layeredTCP, .sharedMemory, .libfabricSharedMemory, .simulated].map {
                ($0, $0.rawValue)
            }
        }
        return list.split(separator: ",").map { entry in
            let provider = entry.prefix { $0 != ":" }
            guard let kind = FabricKind(rawValue: String(provider)) else {
                preconditionFailure("\(variable): no test knows the provider '\(provider)'")
            }
            return (kind, String(entry))
        }
    }()
    package static let variable = "DRAY_TEST_PROVIDERS"

    package static let allCases = tested.map(\.kind)
    package static let real = allCases.filter { $0 != .simulated }
    /// Those with connections, which end with the process at the other end.
    package static let connected = real.filter { $0 != .libfabricSharedMemory }
    /// Those whose peers' kernels know whether anybody listens.
    package static let knownToKernels = real

    /// What an endpoint of this kind listens at, on a free port or with a new name.
    package var address: String { FabricKind.tested.first { $0.kind == self }?.address ?? rawValue }

    /// Whether a message larger than the buffer, or a wrong key, costs the connection.
    package var breaksConnections: Bool { self != .sharedMemory && self != .libfabricSharedMemory }
}
