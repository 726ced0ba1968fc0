internal import DrayPlacement
internal import DrayRuntime

extension ClusterSimulation {
    /// What is simulated. What is nil is drawn from the seed.
    public struct Options: Sendable {
        public var engineCount: Int?
        /// Targets of each engine.
        public var targetCount: Int?
        /// Devices of each engine, no more than it has targets.
        public var deviceCount: Int?
        public var clientCount: Int?
        /// Operations that each client has under way at once, 1 to 4.
        public var laneCount = Workload.laneMax
        /// How long the workload runs, in virtual time.
        public var duration: Duration = .seconds(2)
        /// The object class of the container, one of `objectClasses`.
        public var objectClass: String?
        /// What may go wrong.
        public var faults: Set<FaultKind> = Set(FaultKind.allCases)
        /// Prints every fault with its time.
        public var isVerbose = false
        /// Where the engines' and clients' log lines go; nowhere when nil.
        public var logLevel: String?
        /// Prints every event that the hash covers, to compare two runs.
        public var printsEvents = false

        public init() {}

        /// The names of the classes that a run may have.
        public static var objectClasses: [String] {
            Set(Plan.objectClasses.map(\.description)).sorted()
        }
    }

    /// What one run has: as the options say, or else as the seed does.
    struct Plan {
        /// The classes that a container may have, some more often than others. A class that does
        /// not fit is replaced by the next one that does.
        static let objectClasses: [ObjectClass] = [
            "S1", "RP_4G2", "SX", "RP_2G1", "RP_5G1", "RP_3G1", "RP_3GX", "RP_6GX", "RP_3GX",
        ].compactMap { ObjectClass($0) }
        static let engineCounts = 3...7
        static let targetCounts = 1...2
        static let clientCounts = 3...5

        let engineCount: Int
        let targetCount: Int
        let deviceCount: Int
        let clientCount: Int
        let objectClass: ObjectClass
        /// How long engines remember transactions; nil for as long as real ones do.
        let transactionAge: Duration?
        /// How long engines wait for what others know of a transaction; nil for as long as real
        /// ones do.
        let peerTimeout: Duration?
        /// In the order of `FaultKind`.
        let faults: [FaultKind]

        init(_ options: Options, seed: UInt64) {
            var entropy = Entropy(seed: seed).fork("plan")
            func draw(_ range: ClosedRange<Int>) -> Int {
                range.lowerBound + Int(entropy.below(UInt64(range.count)))
            }
            // Drawn in any case: an option changes nothing but what it names.
            let drawn = (
                draw(Plan.engineCounts), draw(Plan.targetCounts), draw(Plan.clientCounts),
                draw(0...(Plan.objectClasses.count - 1))
            )
            // Half of the clusters have clocks that agree, and are held to more.
            let clocksAgree = entropy.chance(1, in: 2)
            // And half of them forget soon what they have decided.
            transactionAge = entropy.chance(1, in: 2) ? .seconds(1) : nil
            // Half of them do not wait for messages that take long.
            var timeoutEntropy = entropy.fork("timeouts")
            peerTimeout = timeoutEntropy.chance(1, in: 2) ? .milliseconds(100) : nil
            engineCount = options.engineCount ?? drawn.0
            targetCount = options.targetCount ?? drawn.1
            // Half of those that can have as many as targets.
            var deviceEntropy = entropy.fork("devices")
            let manyDevices = deviceEntropy.chance(1, in: 2)
            deviceCount = min(options.deviceCount ?? (manyDevices ? targetCount : 1), targetCount)
            clientCount = options.clientCount ?? drawn.2
            objectClass =
                options.objectClass.flatMap { ObjectClass($0) }
                ?? Plan.objectClass(from: drawn.3, engineCount: engineCount)
            faults = FaultKind.allCases.filter {
                options.faults.contains($0) && !($0 == .clock && clocksAgree)
            }
        }

        /// The first class from place `start` on that so many engines can hold: the same when there
        /// are fewer engines, as long as it fits.
        private static func objectClass(from start: Int, engineCount: Int) -> ObjectClass {
            let inOrder = objectClasses[start...] + objectClasses[..<start]
            return inOrder.first { $0.replicaCount <= engineCount } ?? .s1
        }

        /// How much longer than a client's patience a change may still happen: by so much engines
        /// may take its deadline to be later than it is.
        var lateness: Duration {
            faults.contains(.clock)
                ? (FaultSchedule.skewMax + FaultSchedule.offsetMax) * 2 : .microseconds(10)
        }
    }
}
