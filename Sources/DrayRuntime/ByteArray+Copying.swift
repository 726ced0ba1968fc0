extension [UInt8] {
    /// A copy of `bytes`. One allocation; `init(_:)` does the same by way of other generic types,
    /// which it looks up at each call: it takes several times as long for a key.
    public init(copying bytes: UnsafeRawBufferPointer) {
        self = unsafe [UInt8](unsafeUninitializedCapacity: bytes.count) { buffer, count in
            unsafe UnsafeMutableRawBufferPointer(buffer).copyMemory(from: bytes)
            count = bytes.count
        }
    }
}
