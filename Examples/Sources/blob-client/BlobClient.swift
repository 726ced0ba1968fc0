import BlobProtocol
import CaRT
import DrayFabric
import DrayRuntime

/// `blob-client ATTACH-FILE`: shows what calls can do, and stops the server.
@main
struct BlobClient {
    static func main() async throws {
        guard CommandLine.arguments.count == 2 else {
            fatalError("usage: blob-client ATTACH-FILE")
        }
        let servers = try AttachFile.read(CommandLine.arguments[1])
        guard let first = servers.members.first?.addresses.first else { fatalError("no server") }

        let world = World.libfabric()
        var options = ContextOptions(world: world)
        options.groupName = servers.name
        // On the interface that leads to the servers, as they read and write our memory.
        let address = world.fabric.listenAddress(toReach: first)
        try await Context.run(at: address, options: options, in: world) { context in
            try context.group.attach(servers)
            let client = Client(context: context, server: .rank(0, tag: 0))
            try await client.putAndGet()
            try await client.watch()
            try await client.fail()
            _ = try await context.call(BlobProtocol.stop, EmptyMessage(), to: client.server)
            print("stopped the server")
        }
    }
}

/// Confined to the context's xstream, as the context is.
struct Client {
    let context: Context
    let server: Destination

    /// A payload there, and a bulk transfer back.
    func putAndGet() async throws {
        let bytes = (0..<1_000_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        let source = IOBuffer(copying: bytes)
        // More than the eager limit: the server fetches it, and nobody has to know.
        let info = try await context.call(
            BlobProtocol.put, BlobName("large"), to: server,
            payload: UnsafeRawBufferPointer(source.bytes))
        print("put \(info.size) bytes")

        let target = IOBuffer(count: bytes.count)
        let handle = try context.expose(target, access: .remoteWrite)
        // Whatever becomes of the call, the server is done with the memory when it returns.
        let got = try await context.call(
            BlobProtocol.get, BlobPlace("large", memory: handle.descriptor), to: server,
            exposing: [handle])
        context.withdraw(handle)
        print("got \(got.size) bytes, \(target.array(0..<bytes.count) == bytes ? "equal" : "not")")
    }

    /// An answer that comes when another call makes it true; and cancellation.
    func watch() async throws {
        let (context, server) = (context, server)
        context.xstream.spawn {
            _ = try? await context.call(BlobProtocol.put, BlobName("news"), to: server)
        }
        let info = try await context.call(BlobProtocol.watch, BlobName("news"), to: server)
        print("news came: \(info.size) bytes")

        let task = context.xstream.spawnCancellable {
            do throws(RPCError) {
                _ = try await context.call(BlobProtocol.watch, BlobName("nothing"), to: server)
            } catch {
                print("cancelled: \(error)")
            }
        }
        await context.xstream.sleep(for: .milliseconds(50))
        task.cancel()
        await task.value
    }

    /// Errors are typed: those of calls, and those of the application.
    func fail() async throws {
        do throws(RPCError) {
            _ = try await context.call(
                BlobProtocol.watch, BlobName("never"), to: server,
                deadline: .after(.milliseconds(100)))
        } catch {
            print("deadline: \(error)")
        }
        let handle = try context.expose(IOBuffer(count: 1), access: .remoteWrite)
        defer { context.withdraw(handle) }
        do throws(RPCError) {
            _ = try await context.call(
                BlobProtocol.get, BlobPlace("missing", memory: handle.descriptor), to: server,
                exposing: [handle])
        } catch {
            guard case .application(BlobProtocol.notFound, let message) = error else { throw error }
            print("not found: \(message)")
        }
    }
}
