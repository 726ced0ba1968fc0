import DrayRuntime
import Glibc
import Testing

@Suite struct SimulationTests {
    /// A little cluster: tasks that yield, sleep, wake each other, and draw from their entropy.
    static func hash(seed: UInt64) -> UInt64 {
        let simulation = Simulation(seed: seed)
        var done = 0
        for node in 1...4 {
            let world = simulation.world(node: node)
            let xstream = world.makeXStream(name: "x\(node)")
            var entropy = world.entropy.fork("test")
            xstream.simulate {
                for step in 0..<100 {
                    await xstream.yield()
                    if step % 10 == 0 {
                        await xstream.sleep(for: .microseconds(Int(entropy.below(1_000))))
                    }
                    simulation.record("step", UInt64(node))
                }
                done += 1
            }
        }
        let finished = simulation.run(for: .seconds(10), until: { done == 4 })
        precondition(finished)
        simulation.finish()
        return simulation.eventHash
    }

    @Test(arguments: 1...20) func aSeedRepeats(seed: UInt64) {
        #expect(Self.hash(seed: seed) == Self.hash(seed: seed))
    }

    @Test func seedsDiffer() {
        #expect(Set((1...20).map { Self.hash(seed: $0) }).count == 20)
    }

    /// Each process seeds Swift's hashing at random: equal hashes in two of them show that no
    /// order of a dictionary gets into a run.
    @Test func aSeedRepeatsInAnotherProcess() async throws {
        var hashes: [String] = []
        var orders: Set<String> = []
        for _ in 0..<2 {
            let result = await #expect(
                processExitsWith: .success, observing: [\.standardOutputContent]
            ) {
                print("event hash:\(SimulationTests.hash(seed: 7)):\("dray".hashValue):")
            }
            let output = try #require(result).standardOutputContent
            let fields = String(decoding: output, as: UTF8.self).split(separator: ":")
            let start = try #require(fields.firstIndex { $0.hasSuffix("event hash") })
            hashes.append(String(fields[start + 1]))
            orders.insert(String(fields[start + 2]))
        }
        #expect(hashes == Array(repeating: "\(Self.hash(seed: 7))", count: 2))
        #expect(orders.count == 2, "the two processes hash alike, so this test shows nothing")
    }

    @Test func timersFireInOrderAtTheirVirtualTime() {
        let simulation = Simulation(seed: 3)
        let xstream = simulation.world(node: 1).makeXStream(name: "x")
        var fired: [Int] = []
        var late = false
        xstream.simulate {
            let start = xstream.now
            for delay in [500, 20, 300, 20, 1_000] {
                xstream.schedule(at: start + .milliseconds(delay)) {
                    fired.append(delay)
                    let lateness = xstream.now.since(start + .milliseconds(delay))
                    if lateness > .microseconds(10) { late = true }
                }
            }
            xstream.schedule(at: start + .milliseconds(100)) { fired.append(-1) }.cancel()
        }
        simulation.run(for: .seconds(2))
        #expect(fired == [20, 20, 300, 500, 1_000])
        #expect(!late)
    }

    /// A cluster that is idle for a day costs a handful of turns.
    @Test func virtualTimeJumps() {
        let simulation = Simulation(seed: 4)
        let xstream = simulation.world(node: 1).makeXStream(name: "x")
        var woke = false
        xstream.simulate {
            await xstream.sleep(for: .seconds(86_400))
            woke = true
        }
        let begin = simulation.now
        #expect(simulation.run(for: .seconds(90_000), until: { woke }))
        #expect(simulation.now.since(begin) >= .seconds(86_400))
        #expect(simulation.turnCount < 20)
    }

    @Test func aKilledProcessNeverRunsAgain() {
        let simulation = Simulation(seed: 5)
        let doomed = simulation.world(node: 1).makeXStream(name: "doomed")
        let other = simulation.world(node: 2).makeXStream(name: "other")
        var (doomedSteps, otherSteps) = (0, 0)
        doomed.simulate {
            while true {
                doomedSteps += 1
                await doomed.sleep(for: .milliseconds(1))
            }
        }
        other.simulate {
            while true {
                otherSteps += 1
                await other.sleep(for: .milliseconds(1))
            }
        }
        simulation.run(for: .milliseconds(10))
        let (doomedBefore, otherBefore) = (doomedSteps, otherSteps)
        #expect(doomedBefore > 5)
        simulation.kill(node: 1, incarnation: 0)
        #expect(simulation.isDead(Simulation.identity(node: 1, incarnation: 0)))
        #expect(!simulation.isDead(Simulation.identity(node: 1, incarnation: 1)))
        doomed.simulate { doomedSteps += 1 }
        // Its next incarnation lives.
        var restarted = false
        simulation.world(node: 1, incarnation: 1).makeXStream(name: "again")
            .simulate { restarted = true }
        simulation.run(for: .milliseconds(10))
        #expect(doomedSteps == doomedBefore)
        #expect(otherSteps > otherBefore + 5)
        #expect(restarted)
    }

    @Test func aPausedProcessKeepsItsEvents() {
        let simulation = Simulation(seed: 6)
        let xstream = simulation.world(node: 1).makeXStream(name: "x")
        var fired: [Int] = []
        xstream.simulate {
            for delay in [1, 5, 9] {
                xstream.schedule(at: xstream.now + .milliseconds(delay)) { fired.append(delay) }
            }
        }
        simulation.run(for: .milliseconds(2))
        simulation.pause(node: 1, incarnation: 0)
        xstream.simulate { fired.append(100) }
        simulation.run(for: .milliseconds(20))
        #expect(fired == [1])
        simulation.resume(node: 1, incarnation: 0)
        simulation.run(for: .milliseconds(1))
        #expect(fired.sorted() == [1, 5, 9, 100])
        #expect(fired.filter { $0 < 100 } == [1, 5, 9])
    }

    @Test func pausingAndResumingBetweenTurnsLosesNothing() {
        let simulation = Simulation(seed: 8)
        let xstream = simulation.world(node: 1).makeXStream(name: "x")
        var steps = 0
        xstream.simulate {
            for _ in 0..<100 {
                await xstream.yield()
                steps += 1
            }
        }
        for _ in 0..<300 {
            simulation.pause(node: 1, incarnation: 0)
            simulation.pause(node: 1, incarnation: 0)
            let before = steps
            simulation.run(for: .microseconds(5))
            #expect(steps == before)
            simulation.resume(node: 1, incarnation: 0)
            simulation.run(for: .microseconds(5))
        }
        #expect(steps == 100)
    }

    @Test func wallClocksOfNodesDiffer() {
        let simulation = Simulation(seed: 9)
        let behind = simulation.world(node: 1, wallOffset: -5_000_000)
        let straight = simulation.world(node: 2)
        #expect(straight.clock.wallNanoseconds - behind.clock.wallNanoseconds == 5_000_000)
        simulation.stepWallClock(node: 1, by: 7_000_000)
        #expect(behind.clock.wallNanoseconds - straight.clock.wallNanoseconds == 2_000_000)
        #expect(behind.clock.now == straight.clock.now)
        // The offset belongs to the machine: a restarted process sees the same clock.
        let again = simulation.world(node: 1, incarnation: 1)
        #expect(again.clock.wallNanoseconds == behind.clock.wallNanoseconds)
    }

    /// Secrets of simulated processes repeat with the seed, those of real ones never.
    @Test func secrets() {
        func secret(_ seed: UInt64, node: Int = 1, for purpose: String = "test") -> [UInt8] {
            Simulation(seed: seed).world(node: node).secretBytes(32, for: purpose)
        }
        #expect(secret(1) == secret(1) && secret(1).count == 32)
        let others = [secret(1), secret(2), secret(1, node: 2), secret(1, for: "another")]
        #expect(Set(others).count == 4)
        let world = World.real()
        #expect(world.secretBytes(32, for: "test") != world.secretBytes(32, for: "test"))
    }

    @Test func theHashDependsOnKindValueTimeAndOrder() {
        func hash(_ record: (Simulation) -> Void) -> UInt64 {
            let simulation = Simulation(seed: 1)
            record(simulation)
            return simulation.eventHash
        }
        let hashes = [
            hash { $0.record("a", 1) },
            hash { $0.record("b", 1) },
            hash { $0.record("a", 2) },
            hash {
                $0.record("a", 1)
                $0.record("b", 1)
            },
            hash {
                $0.record("b", 1)
                $0.record("a", 1)
            },
            hash {
                $0.run(for: .milliseconds(1))
                $0.record("a", 1)
            },
        ]
        #expect(Set(hashes).count == hashes.count)
        #expect(hash { $0.record("a", 1) } == hashes[0])
    }

    /// Anything that comes from another thread is a bug in the code under simulation.
    @Test func foreignThreadsAreCaught() async {
        await #expect(processExitsWith: .failure) {
            let simulation = Simulation(seed: 1)
            let xstream = simulation.world(node: 1).makeXStream(name: "x")
            xstream.simulate {
                await withCheckedContinuation { done in
                    startThread {
                        usleep(100_000)
                        done.resume()
                    }
                }
            }
            simulation.run(for: .seconds(1))
            waitForTrap()
        }
    }

    /// An endless task must not keep timers from firing.
    @Test func readyJobsDoNotStarveTimers() {
        let simulation = Simulation(seed: 10)
        let xstream = simulation.world(node: 1).makeXStream(name: "x")
        var stop = false
        xstream.simulate {
            xstream.schedule(at: xstream.now + .milliseconds(1)) { stop = true }
            func again() { if !stop { xstream.spawn { again() } } }
            again()
        }
        #expect(simulation.run(for: .milliseconds(10), until: { stop }))
    }
}
