internal import CCrypto

/// Codes that nobody can compute who does not know a key.
public enum AuthenticationCode {
    /// HMAC-SHA-256 (RFC 2104), by OpenSSL: 32 bytes.
    public static func hmacSHA256(of message: [UInt8], key: [UInt8]) -> [UInt8] {
        var code = [UInt8](repeating: 0, count: 32)
        // SAFETY: OpenSSL reads as many bytes as it is told, and writes 32.
        let result = unsafe HMAC(
            EVP_sha256(), key, Int32(key.count), message, message.count, &code, nil)
        precondition(unsafe result != nil, "OpenSSL has no HMAC-SHA-256")
        return code
    }
}
