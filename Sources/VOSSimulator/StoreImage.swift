package import BIO
internal import DrayRuntime

/// What the devices of a store held at one moment.
package struct StoreImage: Sendable {
    package var data: DeviceImage
    /// Nil: there is one device.
    package var metadata: DeviceImage?

    package init(data: DeviceImage, metadata: DeviceImage? = nil) {
        self.data = data
        self.metadata = metadata
    }

    /// Whether everything on them is durable: then a crash changes nothing.
    package var isClean: Bool { data.isClean && metadata?.isClean != false }

    /// What a power failure can leave of what was not flushed.
    package struct Outcome: Sendable {
        var data: CrashOutcome
        var metadata: CrashOutcome

        /// Whether it leaves a choice, which is drawn.
        var isDrawn: Bool { data == .reorder || data == .tear }

        var name: String {
            data == metadata ? data.rawValue : "\(data.rawValue) and \(metadata.rawValue)"
        }
    }

    /// All that a power failure at that moment can do, apart from what is drawn. Of two devices
    /// one may have kept everything, and the other nothing.
    package var outcomes: [Outcome] {
        guard !isClean else { return [Outcome(data: .keep, metadata: .keep)] }
        let both = [CrashOutcome.keep, .lose, .reorder, .tear].map {
            Outcome(data: $0, metadata: $0)
        }
        guard let metadata, !metadata.isClean, !data.isClean else { return both }
        return both + [
            Outcome(data: .keep, metadata: .lose), Outcome(data: .lose, metadata: .keep),
        ]
    }

    /// What a power failure at that moment leaves. `seed` draws, where the outcome leaves a choice.
    package func crashed(_ outcome: Outcome, seed: UInt64) -> StoreImage {
        var entropy = Entropy(seed: seed).fork("metadata")
        return StoreImage(
            data: data.crashed(outcome.data, seed: seed),
            metadata: metadata?.crashed(outcome.metadata, seed: entropy.next()))
    }

    /// The same, with one outcome for all devices.
    package func crashed(_ outcome: CrashOutcome, seed: UInt64) -> StoreImage {
        crashed(Outcome(data: outcome, metadata: outcome), seed: seed)
    }

    /// Two clean images with the same contents have the same, others hardly ever.
    var fingerprint: UInt64 { data.fingerprint &+ (metadata?.fingerprint ?? 0) &* 31 }
}
