internal import CaRT
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime

/// Comparing the replicas of objects.
extension ClientCore {
    /// How long a value that differs is left alone before it is looked at once more: a change that
    /// was committed has reached every replica by then.
    private static let secondLookPause: Duration = .milliseconds(250)
    /// How often a second look begins again because the versions it wants are gone.
    private static let secondLooksMax = 5

    /// Compares all replicas of an object.
    func verify(_ object: DrayObject) async throws(DrayError) -> VerificationReport {
        let layout = try layout(of: object)
        var report = VerificationReport()
        report.objects = 1
        for group in 0..<layout.groupCount {
            let members = Array(layout.members(ofGroup: group))
            try await verify(object, group: group, members, into: &report)
        }
        return report
    }

    private func verify(
        _ object: DrayObject, group: Int, _ members: [TargetAddress],
        into report: inout VerificationReport
    ) async throws(DrayError) {
        let comparison = ReplicaComparison(object.id, group: group, members: members)
        report.groups += 1
        report.replicas += UInt64(members.count)
        var after: [UInt8]?
        repeat {
            var request = ObjectInspectRequest()
            request.target = target(of: object)
            request.group = UInt16(group)
            request.afterDkey = after
            request.limit = UInt32(ObjectLimits.pageMax)
            request.epoch = object.container.epoch ?? 0
            let pages = try await inspectAll(request, object, members)
            after = ReplicaComparison.bound(pages)
            let result = comparison.compare(pages, through: after)
            report.values += result.values
            report.bytes += result.bytes
            guard !result.differences.isEmpty else { continue }
            var dkeys: [[UInt8]] = []
            for difference in result.differences where difference.dkey != dkeys.last {
                dkeys.append(difference.dkey)
            }
            await xstream.sleep(for: ClientCore.secondLookPause)
            for dkey in dkeys {
                request.dkey = dkey
                let again = try await lookAgain(request, object, comparison, members)
                for difference in again { report.add(difference) }
            }
        } while after != nil
    }

    /// Looks at one dkey once more, at one epoch in all replicas: however often it is changed
    /// meanwhile, what still differs is wrong.
    private func lookAgain(
        _ request: ObjectInspectRequest, _ object: DrayObject, _ comparison: ReplicaComparison,
        _ members: [TargetAddress]
    ) async throws(DrayError) -> [VerificationDifference] {
        for attempt in 1... {
            do throws(DrayError) {
                // The leader waits for what it leads: then every change up to the epoch it gives is
                // with the other members.
                var request = request
                request.epoch = object.container.epoch ?? 0
                var pages = [try await inspect(request, object, at: members[0])]
                request.epoch = pages[0].epoch
                for member in members.dropFirst() {
                    pages.append(try await inspect(request, object, at: member))
                }
                return comparison.compare(pages, through: nil).differences
            } catch {
                // At the container's own epoch it would be too old again.
                guard case .application(let code, _) = error.cause,
                    code == ServiceCode.tooOld.rawValue, object.container.epoch == nil,
                    attempt < ClientCore.secondLooksMax
                else { throw error }
            }
        }
        preconditionFailure("the loop has no end")
    }

    /// A page of each member, asked at once.
    private func inspectAll(
        _ request: ObjectInspectRequest, _ object: DrayObject, _ members: [TargetAddress]
    ) async throws(DrayError) -> [ObjectInspectReply] {
        try await gather(members) { (core, member) throws(DrayError) in
            try await core.inspect(request, object, at: member)
        }
    }

    private func inspect(
        _ request: ObjectInspectRequest, _ object: DrayObject, at member: TargetAddress
    ) async throws(DrayError) -> ObjectInspectReply {
        try await retrying(
            "\(subject(object)), target \(member.rank).\(member.target)", engine: member.rank,
            until: operationEnd(in: object.container), epoch: object.container.epoch
        ) { (deadline) async throws(RPCError) -> ObjectInspectReply in
            try await context.call(
                ObjectProtocol.inspect, request, to: .rank(member.rank, tag: member.tag),
                deadline: deadline)
        }
    }

    // MARK: - Objects of a container

    /// A page of the objects that any target has, merged. Objects beyond the end of any target's
    /// page are left for the next call, since that target may have smaller ones.
    func listObjects(
        _ container: Container, after: ObjectID?, limit: Int
    ) async throws(DrayError) -> (objects: [ObjectID], more: Bool) {
        let pool = container.pool.record
        var request = ObjectListRequest()
        request.pool = pool.id
        request.container = container.id
        request.mapVersion = pool.map.version
        request.capability = container.capability
        request.after = after
        request.limit = UInt32(clamping: min(limit, ObjectLimits.pageMax))
        request.epoch = container.epoch ?? 0
        let (message, what) = (request, "container \(pool.label)/\(container.label)")
        let (end, epoch) = (operationEnd(in: container), container.epoch)
        let pages = try await gather(pool.map.targets) { (core, target) throws(DrayError) in
            try await core.retrying(
                "\(what), target \(target.rank).\(target.target)", engine: target.rank, until: end,
                epoch: epoch
            ) { (deadline) async throws(RPCError) -> ObjectListReply in
                try await core.context.call(
                    ObjectProtocol.listObjects, message, to: .rank(target.rank, tag: target.tag),
                    deadline: deadline)
            }
        }
        var objects = Set<ObjectID>()
        for page in pages { objects.formUnion(page.objects) }
        let bound = pages.filter(\.more).compactMap(\.objects.last).min()
        var page = objects.sorted()
        if let bound { page.removeAll { $0 > bound } }
        let hasMore = bound != nil || page.count > limit
        return (Array(page.prefix(limit)), hasMore)
    }

    /// Compares all replicas of all objects of a container, some objects at a time. `progress` gets
    /// what was done so far.
    func verify(
        _ container: Container, progress: ((VerificationReport) -> Void)?
    ) async throws(DrayError) -> VerificationReport {
        var total = VerificationReport()
        var after: ObjectID?
        while true {
            let page = try await listObjects(container, after: after, limit: ObjectLimits.pageMax)
            let run = VerificationRun(page.objects, total, progress)
            let lanes = min(Container.verifiedAtOnce, page.objects.count)
            _ = try await gather(Array(0..<lanes)) { (core, _) throws(DrayError) in
                await core.work(run, container)
            }
            if let failure = run.failure { throw failure }
            total = run.report
            guard page.more, let last = page.objects.last else { return total }
            after = last
            guard !Task.isCancelled else {
                throw DrayError(DrayError.Code.cancelled, "container \(container.label): cancelled")
            }
        }
    }

    private func work(_ run: VerificationRun, _ container: Container) async {
        while let object = run.next() {
            do throws(DrayError) {
                run.finish(try await verify(container.object(object)))
            } catch {
                run.fail(error)
            }
        }
    }
}

/// One page of a container's verification. Confined to the client's xstream.
private final class VerificationRun {
    private var objects: ArraySlice<ObjectID>
    private(set) var report: VerificationReport
    private(set) var failure: DrayError?
    private let progress: ((VerificationReport) -> Void)?

    init(
        _ objects: [ObjectID], _ report: VerificationReport,
        _ progress: ((VerificationReport) -> Void)?
    ) {
        self.objects = objects[...]
        self.report = report
        self.progress = progress
    }

    /// The next object; nil when there is none, or something went wrong.
    func next() -> ObjectID? { failure == nil ? objects.popFirst() : nil }

    func finish(_ part: VerificationReport) {
        report.add(part)
        progress?(report)
    }

    func fail(_ error: DrayError) {
        if failure == nil { failure = error }
    }
}
