/// How members talk about membership.
enum SwimProtocol {
    static let id = ProtocolID(reserved: 0xfe, version: 1)

    /// One message and, as its reply, what the other one has to say at once: to a ping its
    /// acknowledgement; to a request for help, later, what came of it.
    static let exchange = Procedure<SwimMessage, SwimMessage>(id, index: 1, name: "swim.exchange")
}
