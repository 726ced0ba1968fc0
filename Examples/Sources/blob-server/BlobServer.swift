import BlobProtocol
import CaRT
import DrayRuntime

/// `blob-server ATTACH-FILE [ADDRESS]`: keeps byte strings by name, and says in the file where.
@main
struct BlobServer {
    static func main() async throws {
        guard CommandLine.arguments.count > 1 else {
            fatalError("usage: blob-server ATTACH-FILE [ADDRESS]")
        }
        let file = CommandLine.arguments[1]
        let address = CommandLine.arguments.dropFirst(2).first ?? "ofi+tcp://127.0.0.1"

        // The first and only member of the group "blobs".
        let world = World.libfabric()
        var options = ContextOptions(world: world)
        options.groupName = "blobs"
        options.rank = 0

        try await Context.run(at: address, options: options, in: world) { context in
            let member = Group.Member(
                rank: 0, incarnation: context.clock.now(), addresses: [context.address])
            try context.group.apply(.replace([member]), version: 1)
            Blobs().serve(context)
            try AttachFile.write(GroupSnapshot(context.group), to: file)
            print("listening at \(context.address)")
            await context.waitUntilClosed()
        }
        print("stopped")
    }
}

/// The state of the server: on the context's xstream, like all of its handlers.
final class Blobs {
    private var blobs: [String: [UInt8]] = [:]
    private var watchers: [(name: String, reply: DeferredReply<BlobInfo>)] = []

    func serve(_ context: Context) {
        // Short, and waits for nothing: needs no task.
        context.registerSynchronous(BlobProtocol.put) { name, request throws(RPCError) in
            // The payload is valid until the handler returns, so it is copied.
            let blob = [UInt8](request.payload)
            let info = BlobInfo(size: blob.count)
            self.blobs[name.text] = blob
            self.watchers.filter { $0.name == name.text }.forEach { $0.reply.reply(info) }
            self.watchers.removeAll { $0.name == name.text }
            return info
        }

        // Waits for the transfer, so it runs as a task.
        context.register(BlobProtocol.get) { place, request throws(RPCError) in
            guard let blob = self.blobs[place.name.text] else {
                throw .application(
                    code: BlobProtocol.notFound, message: "no blob \(place.name.text)")
            }
            // Pooled memory, which is registered already; then straight into the client's.
            let buffer = try request.context.makeBuffer(count: blob.count)
            buffer.bytes.copyBytes(from: blob)
            try await request.context.bulkPut(
                place.memory, from: buffer, range: 0..<blob.count, deadline: .at(request.deadline))
            return BlobInfo(size: blob.count)
        }

        // Answered by whoever puts the blob. No task waits meanwhile.
        context.registerDeferred(BlobProtocol.watch) { name, reply in
            if let blob = self.blobs[name.text] { return reply.reply(BlobInfo(size: blob.count)) }
            self.watchers.append((name.text, reply))
            // By its deadline, or because its task was cancelled.
            reply.request.onCancel { [weak self] in
                print("a client watches \(name.text) no more")
                self?.watchers.removeAll { $0.reply === reply }
            }
        }

        context.registerSynchronous(BlobProtocol.stop) { _, request in
            // Answers what is under way, this request too, before it closes.
            let context = request.context
            context.xstream.spawn { await context.close() }
            return EmptyMessage()
        }
    }
}
