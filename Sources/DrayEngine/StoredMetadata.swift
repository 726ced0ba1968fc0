internal import DrayProtocol
internal import DrayRuntime

/// What the system partition's store keeps, as one value: the metadata that the engine accepted
/// last, after a byte for the version of the format.
enum StoredMetadata {
    static let version: UInt8 = 2

    static func bytes(of request: MetadataAcceptRequest) -> [UInt8] {
        [version] + request.encoded()
    }

    static func decode(_ bytes: [UInt8]) throws(EngineError) -> MetadataAcceptRequest {
        guard let found = bytes.first else { throw .store("metadata: nothing is stored") }
        guard found == version else {
            throw .store(
                "metadata: they were stored in version \(found) of the format, by another version "
                    + "of Dray; this one reads version \(version)")
        }
        do throws(DecodingFailure) {
            return try MetadataAcceptRequest(decoding: Array(bytes.dropFirst()))
        } catch {
            throw .store("metadata: what is stored cannot be read (\(error))")
        }
    }
}
