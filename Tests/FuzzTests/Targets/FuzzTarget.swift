import DrayRuntime

/// Something that reads what strangers send. Each is fed mutations of its corpus by a test.
enum FuzzTarget: String, CaseIterable {
    /// The fixed part of every message, and several messages in a receive.
    case header
    /// The bodies of control messages, look-ups and the self-test.
    case control
    /// Descriptors of memory and of messages that must be fetched.
    case bulk
    case group
    /// A group as text.
    case groupText
    case swim
    case collectives
    case incast
    /// Messages between clients and engines, and among engines.
    case objects
    case transactions
    case management
    case metrics
    /// The text of an address, and the bytes of one.
    case address
    /// A context that gets raw bytes from a stranger, as server and as caller.
    case context

    /// Feeds one input. Traps when it finds something.
    func run(_ bytes: UnsafeRawBufferPointer) {
        switch self {
        case .header: HeaderInput.run(bytes)
        case .groupText: TextInput.runGroup(bytes)
        case .address: TextInput.runAddress(bytes)
        case .context: ContextInput.run(bytes)
        case .control, .bulk, .group, .swim, .collectives, .incast, .objects, .transactions,
            .management, .metrics:
            FuzzDecoder.run(decoders, bytes)
        }
    }

    /// Inputs to begin with: each makes sense.
    var corpus: [[UInt8]] {
        switch self {
        case .header: HeaderInput.corpus
        case .groupText: TextInput.groupCorpus
        case .address: TextInput.addressCorpus
        case .context: ContextInput.corpus
        case .control, .bulk, .group, .swim, .collectives, .incast, .objects, .transactions,
            .management, .metrics:
            FuzzDecoder.corpus(decoders)
        }
    }
}

/// A type that is decoded from the wire, with an example of it.
struct FuzzDecoder {
    let name: String
    /// An encoding.
    let sample: [UInt8]
    private let body: (UnsafeRawBufferPointer) -> Void
    private let reads: ([UInt8]) -> Bool

    init<Value: ByteCodable>(_ sample: Value) {
        name = String(describing: Value.self)
        self.sample = sample.encoded()
        reads = { (try? Value(decoding: $0)) != nil }
        body = { bytes in
            guard let value = try? Value(decoding: bytes) else { return }
            // Whatever comes out has only values that exist: it can be written and read again.
            let encoded = value.encoded()
            guard let again = try? Value(decoding: encoded) else {
                preconditionFailure("\(Value.self) does not read what it wrote")
            }
            precondition(again.encoded() == encoded, "\(Value.self) changes on the way")
        }
    }

    func run(_ bytes: UnsafeRawBufferPointer) { body(bytes) }

    /// Whether there is a value that has this encoding.
    func isGood(_ bytes: [UInt8]) -> Bool { reads(bytes) }

    /// The first byte chooses the decoder.
    static func run(_ decoders: [FuzzDecoder], _ bytes: UnsafeRawBufferPointer) {
        guard let first = bytes.first else { return }
        decoders[Int(first) % decoders.count].run(
            UnsafeRawBufferPointer(rebasing: bytes.dropFirst()))
    }

    static func corpus(_ decoders: [FuzzDecoder]) -> [[UInt8]] {
        decoders.enumerated().map { [UInt8($0)] + $1.sample }
    }
}

/// Small variations of inputs, as a fuzzer makes them.
struct FuzzMutator {
    private var entropy: Entropy

    /// Numbers at which something ends.
    private static let borders: [UInt64] = [
        0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, .max / 2, .max,
    ]

    init(seed: UInt64) { entropy = Entropy(seed: seed) }

    mutating func mutate(_ corpus: [[UInt8]]) -> [UInt8] {
        var bytes = corpus[draw(corpus.count)]
        for _ in 0...draw(5) { change(&bytes, corpus) }
        return bytes
    }

    private mutating func draw(_ count: Int) -> Int { Int(entropy.below(UInt64(max(1, count)))) }

    private mutating func change(_ bytes: inout [UInt8], _ corpus: [[UInt8]]) {
        let position = draw(bytes.count)
        guard position < bytes.count else {
            bytes.append(UInt8(draw(256)))
            return
        }
        switch draw(7) {
        case 0: bytes[position] = UInt8(draw(256))
        case 1: bytes[position] ^= 1 << UInt8(draw(8))
        case 2:
            var number = FuzzMutator.borders[draw(FuzzMutator.borders.count)]
            for index in position..<min(bytes.count, position + (1 << draw(4))) {
                bytes[index] = UInt8(truncatingIfNeeded: number)
                number >>= 8
            }
        case 3: bytes.removeLast(draw(bytes.count - position))
        case 4:
            bytes.insert(contentsOf: (0...draw(16)).map { _ in UInt8(draw(256)) }, at: position)
        case 5:
            let end = min(bytes.count, position + 1 + draw(16))
            bytes.removeSubrange(position..<end)
        default:
            // The rest of another one.
            let other = corpus[draw(corpus.count)]
            bytes = Array(bytes[..<position]) + other.dropFirst(draw(other.count))
        }
    }
}
