/// Hashing that is the same in every process, build and machine: placement depends on it.
public enum StableHash {
    /// A 64-bit hash of `bytes`: FNV-1a, then the finaliser of MurmurHash3. O(n), 1 byte a step.
    public static func hash(_ bytes: [UInt8], seed: UInt64 = 0) -> UInt64 {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325 ^ seed
        for byte in bytes {
            hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01b3
        }
        return mix(hash)
    }

    /// Hashes two words.
    public static func hash(_ first: UInt64, _ second: UInt64) -> UInt64 {
        mix(mix(first) ^ second &* 0x9e37_79b9_7f4a_7c15)
    }

    static func mix(_ value: UInt64) -> UInt64 {
        var x = value
        x = (x ^ (x >> 33)) &* 0xff51_afd7_ed55_8ccd
        x = (x ^ (x >> 33)) &* 0xc4ce_b9fe_1a85_ec53
        return x ^ (x >> 33)
    }
}

/// Jump consistent hash (Lamping and Veach 2014): maps `key` to a bucket in `0 ..< buckets`, and
/// when a bucket is added moves only the share of keys that the new bucket takes. O(log buckets).
public func jumpConsistentHash(_ key: UInt64, buckets: Int) -> Int {
    precondition(buckets > 0, "jump consistent hash needs a bucket")
    var key = key
    var bucket: Int64 = -1
    var next: Int64 = 0
    while next < Int64(buckets) {
        bucket = next
        key = key &* 2_862_933_555_777_941_757 &+ 1
        next = Int64(Double(bucket + 1) * (Double(Int64(1) << 31) / Double((key >> 33) + 1)))
    }
    return Int(bucket)
}
