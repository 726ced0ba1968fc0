internal import CLibfabric
internal import DrayRuntime

/// An endpoint of a libfabric provider: one fabric, domain, address vector, completion queue and
/// reliable-datagram endpoint of its own, driven by one thread.
///
/// At most `DRAY_CONTEXTS_MAX` (8,192) operations are under way; more get `.tryAgain`.
@safe final class LibfabricEndpoint: Endpoint {
    // SAFETY: the C endpoint belongs to this object alone, from its opening in `init` to `close`;
    // `isClosed` keeps it from being used afterwards. `scratch` is freed in `deinit`.
    private let handle: UnsafeMutablePointer<dray_fabric_endpoint>
    private let scratch: UnsafeMutablePointer<dray_fabric_completion>
    @safe @exclusivity(unchecked) private var isClosed = false
    @safe @exclusivity(unchecked) private var keys: Entropy
    private let format: UInt32
    @safe @exclusivity(unchecked) private var probes = ListenerProbes()
    @safe @exclusivity(unchecked) private var listener: ProbeListener?

    init(
        providerName: String, libfabricProvider: String, listen: ListenAddress, text: String,
        entropy: Entropy
    ) throws(FabricError) {
        keys = entropy.fork("keys")
        var names = entropy.fork("name")
        let nonce = names.next()
        var node = listen.node
        if libfabricProvider == "shm", node == nil {
            node = "anonymous-" + String(names.next(), radix: 16)
        }
        var opened: UnsafeMutablePointer<dray_fabric_endpoint>?
        let error = unsafe dray_fabric_open(
            libfabricProvider, listen.domain, node, listen.service, nonce, &opened)
        guard error == 0, let handle = unsafe opened else {
            throw LibfabricEndpoint.openError(error, text: text)
        }
        unsafe self.handle = handle
        unsafe scratch = .allocate(capacity: Int(DRAY_COMPLETIONS_MAX))
        format = unsafe dray_fabric_address_format(handle)
        let size = unsafe dray_fabric_message_size_max(handle)
        let transferSize = unsafe dray_fabric_transfer_size_max(handle)
        do throws(FabricError) {
            let bytes = try unsafe LibfabricEndpoint.address(of: handle)
            let address = FabricAddress(provider: providerName, bytes: bytes)
            if libfabricProvider.hasPrefix("verbs"), let socket = SocketAddress(bytes: bytes) {
                listener = try ProbeListener(at: socket)
            }
            super.init(
                address: address,
                messageSizeMax: Int(clamping: size),
                transferSizeMax: Int(clamping: transferSize),
                gatheredMax: libfabricProvider == "shm" ? 8 : .max)
        } catch {
            unsafe dray_fabric_close(handle)
            unsafe scratch.deallocate()
            throw error
        }
    }

    deinit {
        if !isClosed { unsafe dray_fabric_close(handle) }
        unsafe scratch.deallocate()
    }

    /// Whether a descriptor tells that there is something to do: the provider's, or the bell.
    var canWait: Bool { unsafe dray_fabric_can_wait(handle) }

    // MARK: - Peers

    override func insert(_ address: FabricAddress) throws(FabricError) -> Peer {
        precondition(!isClosed)
        guard address.provider == self.address.provider else {
            throw .badAddress("\(address): expected an address of \(self.address.provider)")
        }
        guard address.isWellFormed, address.bytes.count == self.address.bytes.count || isNamed
        else { throw .badAddress("\(address): not an address of \(self.address.provider)") }
        if let ours = SocketAddress(bytes: self.address.bytes),
            ours.family != SocketAddress(bytes: address.bytes)?.family
        {
            throw .badAddress("\(address): of another family than \(self.address)")
        }
        let bytes = isNamed ? address.bytes + [0] : address.bytes
        var peer: UInt64 = 0
        let error = unsafe bytes.withUnsafeBytes {
            unsafe dray_fabric_insert(handle, $0.baseAddress, &peer)
        }
        guard error == 0 else { throw LibfabricEndpoint.error(error) }
        return Peer(index: peer)
    }

    override func remove(_ peer: Peer) {
        precondition(!isClosed)
        unsafe dray_fabric_remove(handle, peer.index)
    }

    override func disconnect(_ peer: Peer) -> Bool {
        precondition(!isClosed)
        return unsafe dray_fabric_disconnect(handle, peer.index)
    }

    // MARK: - Memory

    override func register(
        _ memory: UnsafeMutableRawBufferPointer, access: MemoryAccess
    ) throws(FabricError) -> MemoryRegion {
        precondition(!isClosed)
        guard let base = memory.baseAddress, memory.count > 0 else {
            preconditionFailure("registered memory must not be empty")
        }
        var region: UnsafeMutablePointer<fid_mr>?
        var key: UInt64 = 0
        var remoteAddress: UInt64 = 0
        var descriptor: UnsafeMutableRawPointer?
        let error = unsafe dray_fabric_register(
            handle, base, memory.count, access.contains(.remoteRead),
            access.contains(.remoteWrite), keys.next(), &region, &key, &remoteAddress,
            &descriptor)
        guard error == 0 else { throw LibfabricEndpoint.registrationError(error) }
        return MemoryRegion(
            remoteAddress: remoteAddress, key: key, descriptor: UInt(bitPattern: descriptor),
            handle: UInt(bitPattern: region))
    }

    override func deregister(_ region: consuming MemoryRegion) {
        let region = unsafe UnsafeMutablePointer<fid_mr>(bitPattern: region.take())
        unsafe dray_fabric_deregister(handle, region)
    }

    // MARK: - Operations

    override func postReceive(
        _ buffer: UnsafeMutableRawBufferPointer, in region: borrowing MemoryRegion, token: UInt64
    ) throws(FabricError) {
        precondition(!isClosed)
        let error = unsafe dray_fabric_receive(
            handle, buffer.baseAddress, buffer.count,
            UnsafeMutableRawPointer(bitPattern: region.descriptor), token)
        guard error == 0 else { throw LibfabricEndpoint.error(error) }
    }

    override func send(
        _ buffer: UnsafeRawBufferPointer, in region: borrowing MemoryRegion, to peer: Peer,
        token: UInt64
    ) throws(FabricError) {
        precondition(!isClosed)
        guard buffer.count <= messageSizeMax else { throw .messageTooLong }
        let error = unsafe dray_fabric_send(
            handle, buffer.baseAddress, buffer.count,
            UnsafeMutableRawPointer(bitPattern: region.descriptor), peer.index, token)
        guard error == 0 else { throw LibfabricEndpoint.error(error) }
    }

    override func read(
        into buffer: UnsafeMutableRawBufferPointer, in region: borrowing MemoryRegion,
        from peer: Peer, remote: RemoteMemory, token: UInt64
    ) throws(FabricError) {
        precondition(!isClosed)
        let error = unsafe dray_fabric_read(
            handle, buffer.baseAddress, buffer.count,
            UnsafeMutableRawPointer(bitPattern: region.descriptor), peer.index, remote.address,
            remote.key, token)
        guard error == 0 else { throw LibfabricEndpoint.error(error) }
    }

    override func write(
        _ buffer: UnsafeRawBufferPointer, in region: borrowing MemoryRegion, to peer: Peer,
        remote: RemoteMemory, token: UInt64
    ) throws(FabricError) {
        precondition(!isClosed)
        let error = unsafe dray_fabric_write(
            handle, buffer.baseAddress, buffer.count,
            UnsafeMutableRawPointer(bitPattern: region.descriptor), peer.index, remote.address,
            remote.key, token)
        guard error == 0 else { throw LibfabricEndpoint.error(error) }
    }

    // MARK: - Progress

    override func poll(into completions: UnsafeMutableBufferPointer<Completion>) -> Int {
        precondition(!isClosed)
        let capacity = Int32(truncatingIfNeeded: min(completions.count, Int(DRAY_COMPLETIONS_MAX)))
        let count = Int(unsafe dray_fabric_poll(handle, scratch, capacity))
        guard count > 0 else { return 0 }
        for index in 0..<count {
            let source = unsafe scratch[index]
            let kind = CompletionKind(rawValue: UInt8(truncatingIfNeeded: source.kind)) ?? .sent
            unsafe completions[index] = Completion(
                token: source.token, kind: kind, length: Int(clamping: source.length),
                error: source.error == 0
                    ? nil : LibfabricEndpoint.completionError(source.error, of: kind))
        }
        return count
    }

    override func prepareToBlock() -> BlockReadiness {
        precondition(!isClosed)
        listener?.answer()
        let descriptor = unsafe handle.pointee.wait_descriptor
        guard descriptor >= 0 else {
            let bell = unsafe handle.pointee.ready_descriptor
            guard bell >= 0, unsafe dray_fabric_may_sleep(handle) else { return .pause }
            return .descriptor(bell)
        }
        return unsafe dray_fabric_try_wait(handle) == 0 ? .descriptor(descriptor) : .busy
    }

    override func listening(at address: FabricAddress) -> Listening {
        precondition(!isClosed)
        listener?.answer()
        if isNamed {
            // The kernel takes the name from a process that ends.
            let isOpen = unsafe (address.bytes + [0]).withUnsafeBytes { name in
                unsafe dray_fabric_is_open(
                    handle, name.baseAddress?.assumingMemoryBound(to: CChar.self))
            }
            return isOpen ? .accepted : .refused
        }
        guard asksKernel, let socket = SocketAddress(bytes: address.bytes) else { return .unknown }
        return probes.ask(socket)
    }

    override func close() {
        precondition(!isClosed, "an endpoint is closed once")
        isClosed = true
        probes = ListenerProbes()
        unsafe dray_fabric_close(handle)
        listener = nil
    }
}

extension LibfabricEndpoint {
    /// Whether the kernel of the peer's machine knows of a TCP port at its address: the provider's,
    /// or the one that we open beside an RDMA adapter's (`ProbeListener`).
    private var asksKernel: Bool {
        ["ofi+tcp", "ofi+net", "ofi+tcp;ofi_rxm", "ofi+verbs;ofi_rxm"].contains(address.provider)
    }

    /// Whether the provider's addresses are names.
    private var isNamed: Bool { format == UInt32(FI_ADDR_STR) }

    /// The endpoint's own address, in the form that `FabricAddress.bytes` describes.
    private static func address(
        of handle: UnsafeMutablePointer<dray_fabric_endpoint>
    ) throws(FabricError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: FabricAddress.bytesMax)
        let capacity = bytes.count
        let length = unsafe bytes.withUnsafeMutableBytes {
            unsafe dray_fabric_address(handle, $0.baseAddress, capacity)
        }
        guard length > 0 else { throw error(Int32(clamping: -length)) }
        bytes.removeSubrange(length...)
        // The kernel leaves padding as it was.
        return SocketAddress(bytes: bytes)?.bytes ?? bytes
    }

    static func openError(_ code: Int32, text: String) -> FabricError {
        let words = unsafe String(cString: dray_fabric_error_words(code))
        return switch code {
        case Int32(FI_EADDRINUSE), Int32(FI_EBUSY):
            .addressInUse("\(text): \(words). Another process, or this one, listens there")
        case Int32(FI_ENODATA), Int32(FI_ENOSYS):
            .noProvider("\(text): libfabric has no provider for it (`fi_info -l` lists them)")
        case Int32(FI_EADDRNOTAVAIL), Int32(FI_EINVAL):
            .badAddress("\(text): \(words). Expected an address of this machine")
        default: .provider(code: code, message: "\(text): \(words)")
        }
    }

    /// The error of a registration. Adapters lock what they may read and write.
    static func registrationError(_ code: Int32) -> FabricError {
        let limit = dray_fabric_locked_memory_max()
        guard code == Int32(FI_ENOMEM), limit != .max else { return error(code) }
        return .provider(
            code: code,
            message: "memory cannot be registered; this process may lock \(limit >> 10) KiB of it "
                + "(ulimit -l, or LimitMEMLOCK= of systemd)")
    }

    /// The error of a call, or of an operation whose kind does not matter.
    static func error(_ code: Int32) -> FabricError {
        switch code {
        case Int32(FI_EAGAIN): .tryAgain
        case Int32(FI_ECONNREFUSED), Int32(FI_ECONNRESET), Int32(FI_ECONNABORTED),
            Int32(FI_ENOTCONN), Int32(FI_ESHUTDOWN), Int32(FI_EHOSTUNREACH),
            Int32(FI_EHOSTDOWN), Int32(FI_ENETUNREACH), Int32(FI_ENETDOWN), Int32(FI_ETIMEDOUT),
            Int32(FI_EIO), Int32(FI_ENOENT), Int32(FI_EADDRNOTAVAIL),
            32,  // EPIPE
            // We cancel nothing: providers say so of what was under way when a connection broke.
            Int32(FI_ECANCELED):
            .unreachable(code: code)
        case Int32(FI_ETRUNC), Int32(FI_EMSGSIZE), Int32(FI_ETOOSMALL): .messageTooLong
        case Int32(FI_ENOKEY), Int32(FI_EKEYREJECTED): .badKey
        default:
            .provider(
                code: code, message: unsafe String(cString: dray_fabric_error_words(code)))
        }
    }

    /// The error of a finished operation.
    static func completionError(_ code: Int32, of kind: CompletionKind) -> FabricError {
        switch kind {
        case .sent: error(code)
        case .received:
            // What shared memory says when the message is larger than the buffer.
            code == Int32(FI_EIO) ? .messageTooLong : error(code)
        case .read, .written:
            switch code {
            case Int32(FI_EACCES), Int32(FI_EINVAL), Int32(FI_EFAULT), Int32(FI_EPERM): .badKey
            default: error(code)
            }
        }
    }
}
