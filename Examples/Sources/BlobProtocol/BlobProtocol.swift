import CaRT
import DrayRuntime

/// What a server that keeps byte strings by name, and its clients, agree upon.
public enum BlobProtocol {
    static let id = ProtocolID(base: 0x10, version: 1)

    /// Keeps the payload under the name.
    public static let put = Procedure<BlobName, BlobInfo>(id, index: 1, name: "blob.put")
    /// Writes the bytes into the caller's memory.
    public static let get = Procedure<BlobPlace, BlobInfo>(id, index: 2, name: "blob.get")
    /// Answers when the name is there, now or later.
    public static let watch = Procedure<BlobName, BlobInfo>(id, index: 3, name: "blob.watch")
    /// Ends the server.
    public static let stop = Procedure<EmptyMessage, EmptyMessage>(id, index: 4, name: "blob.stop")

    /// The code of the error for a name that is not there.
    public static let notFound: UInt32 = 1
}

public struct BlobName: Message {
    public var text = ""

    public init() {}
    public init(_ text: String) { self.text = text }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&text, max: 255)
    }
}

/// A blob, and memory of the caller for it.
public struct BlobPlace: Message {
    public var name = BlobName()
    public var memory = BulkDescriptor()

    public init() {}
    public init(_ name: String, memory: BulkDescriptor) {
        self.name = BlobName(name)
        self.memory = memory
    }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&name)
        try coder.code(&memory)
    }
}

public struct BlobInfo: Message {
    /// Bytes.
    public var size: UInt64 = 0

    public init() {}
    public init(size: Int) { self.size = UInt64(size) }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&size)
    }
}
