internal import ArgumentParser
internal import Dray
internal import DrayPlacement
internal import DrayRuntime

extension ObjectCommand {
    struct Verify: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Compare all replicas of an object, or of all objects.",
            discussion: """
                Every replica is read down to its device. A line for each value or extent that \
                differs, says which target has what; exit status 8 when there is one. Objects \
                without replicas are read: what is damaged is found. Writes may go on meanwhile. \
                Every engine must answer: one that does not is named, and the exit status is 5.
                """)

        @Argument(help: "POOL/CONTAINER") var container: ContainerPath
        @Argument(help: "The object's id; all objects when it is left out.")
        var object: ObjectArgument?
        @Flag(name: .shortAndLong, help: "No progress bar and no summary.") var quiet = false
        @OptionGroup var time: TimeOptions
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let (path, object, quiet) = (container, object?.id, quiet || output.json)
            let time = time
            let what = object.map { "object \($0)" } ?? path.text
            let (report, duration) = try await cluster.withCluster {
                (cluster, world) async throws(CommandFailure) in
                let container = try await time.container(path, of: cluster)
                let start = world.clock.now
                let report = try await store(what) { () async throws(DrayError) in
                    if let object { return try await container.object(object).verify() }
                    return try await Verify.all(of: container, quiet: quiet)
                }
                if object != nil, report.values == 0 {
                    throw CommandFailure(
                        .notFound, what, "no replica has anything of it",
                        advice: "'dray object list \(path.text)' shows what is there")
                }
                return (report, world.clock.now.since(start))
            }
            if output.json {
                try Terminal.print(
                    try JSON.text(Report(report, seconds: HumanDuration(duration).seconds)))
            } else {
                for difference in report.differences {
                    try Terminal.print(Verify.line(difference))
                }
                if !self.quiet { try Terminal.print(Verify.summary(report, duration)) }
            }
            try finish(report.isEqual ? .success : .different)
        }

        /// Verifies a container with a progress bar.
        private static func all(
            of container: Container, quiet: Bool
        ) async throws(DrayError) -> VerificationReport {
            let cluster = container.pool.cluster
            let xstream = cluster.xstream
            return try await cluster.run { () async throws(DrayError) -> VerificationReport in
                let bar = XStreamBound(
                    ProgressBar("verify", unit: "objects", now: xstream.now, quiet: quiet),
                    to: xstream)
                defer { bar.value.clear() }
                return try await container.verify { report in
                    bar.value.update(
                        ProgressBar.Figures(files: report.objects, bytes: report.bytes),
                        now: xstream.now)
                }
            }
        }

        // MARK: - Text

        static func summary(_ report: VerificationReport, _ duration: Duration) -> String {
            let objects = report.objects == 1 ? "1 object" : "\(report.objects) objects"
            var text = "compared \(report.replicas) replicas of \(report.groups) groups of "
            text += "\(objects): \(report.values) values, \(Size(bytes: report.bytes)) in "
            text += "\(HumanDuration(duration))"
            let more = report.differenceCount - UInt64(report.differences.count)
            if report.isEqual {
                text += ", all equal"
            } else {
                text += ", \(report.differenceCount) differ"
                if more > 0 { text += " (\(more) are not listed)" }
            }
            return text
        }

        static func line(_ difference: VerificationDifference) -> String {
            var text = "object \(difference.object) group \(difference.group): "
            text += "dkey \(EscapedName.text(difference.dkey)) "
            text += "akey \(EscapedName.text(difference.akey))"
            if let extent = difference.extent {
                text += " bytes \(extent.lowerBound)..<\(extent.upperBound)"
            }
            let replicas = difference.replicas.map { replica in
                ObjectCommand.text(replica.target) + " " + Verify.text(replica.state)
            }
            return text + ": " + replicas.joined(separator: ", ")
        }

        private static func text(_ state: VerificationDifference.State) -> String {
            switch state {
            case .missing: "lacks it"
            case .present(let count, let epoch, let checksum):
                "has \(count) bytes of epoch \(epoch), CRC32C \(String(checksum, radix: 16))"
            case .corrupt(let count, let epoch): "is damaged (\(count) bytes of epoch \(epoch))"
            }
        }

        // MARK: - JSON

        struct Report: Encodable {
            var objects: UInt64
            var groups: UInt64
            var replicas: UInt64
            var values: UInt64
            var bytes: UInt64
            var seconds: Double
            var differenceCount: UInt64
            var differences: [Difference]

            init(_ report: VerificationReport, seconds: Double) {
                objects = report.objects
                groups = report.groups
                replicas = report.replicas
                values = report.values
                bytes = report.bytes
                self.seconds = seconds
                differenceCount = report.differenceCount
                differences = report.differences.map(Difference.init)
            }
        }

        struct Difference: Encodable {
            var object: String
            var group: Int
            var dkey: String?
            var dkey_base64: String?
            var akey: String?
            var akey_base64: String?
            /// Of an array.
            var offset: UInt64?
            var length: UInt64?
            var replicas: [Replica]

            init(_ difference: VerificationDifference) {
                object = difference.object.description
                group = difference.group
                let (dkey, akey) = (
                    JSONName(bytes: difference.dkey), JSONName(bytes: difference.akey)
                )
                self.dkey = dkey.text
                dkey_base64 = dkey.base64
                self.akey = akey.text
                akey_base64 = akey.base64
                offset = difference.extent?.lowerBound
                length = difference.extent.map { $0.upperBound - $0.lowerBound }
                replicas = difference.replicas.map(Replica.init)
            }
        }

        struct Replica: Encodable {
            var target: Target
            /// `missing`, `present` or `corrupt`.
            var state: String
            var bytes: UInt64?
            var epoch: UInt64?
            var checksum: UInt32?

            init(_ replica: VerificationDifference.Replica) {
                target = Target(replica.target)
                switch replica.state {
                case .missing: state = "missing"
                case .present(let count, let epoch, let checksum):
                    state = "present"
                    bytes = count
                    self.epoch = epoch
                    self.checksum = checksum
                case .corrupt(let count, let epoch):
                    state = "corrupt"
                    bytes = count
                    self.epoch = epoch
                }
            }
        }
    }
}
