import DrayRuntime
import Testing

@Suite struct XStreamTests {
    @Test func tasksStayOnTheirXStream() async {
        let world = World.real()
        let xstream = world.makeXStream(name: "test")
        let stayed = await xstream.run {
            var stayed = xstream.isCurrent
            for _ in 0..<10 {
                await xstream.yield()
                stayed = stayed && xstream.isCurrent
            }
            await xstream.sleep(for: .milliseconds(2))
            return stayed && xstream.isCurrent
        }
        #expect(stayed)
        xstream.stop()
    }

    @Test func costs() async {
        let world = World.real()
        let xstream = world.makeXStream(name: "costs")
        let figures = await xstream.run { () -> (Duration, Duration) in
            var start = xstream.now
            let count = 100_000
            var left = count
            await withUnsafeContinuation { (done: UnsafeContinuation<Void, Never>) in
                for _ in 0..<count {
                    xstream.spawn {
                        left -= 1
                        if left == 0 { done.resume() }
                    }
                }
            }
            let create = xstream.now.since(start) / count
            start = xstream.now
            for _ in 0..<count { await xstream.yield() }
            return (create, xstream.now.since(start) / count)
        }
        print("create + run \(figures.0), yield \(figures.1)")
        xstream.stop()
    }

    @Test(arguments: [1, 2, 3]) func simulationRepeats(seed: UInt64) {
        func hash() -> UInt64 {
            let simulation = Simulation(seed: seed)
            var done = 0
            for node in 1...4 {
                let xstream = simulation.world(node: node).makeXStream(name: "x\(node)")
                xstream.simulate {
                    for step in 0..<100 {
                        await xstream.yield()
                        if step % 10 == 0 { await xstream.sleep(for: .milliseconds(1)) }
                        simulation.record("step", UInt64(node))
                    }
                    done += 1
                }
            }
            let finished = simulation.run(for: .seconds(10), until: { done == 4 })
            #expect(finished)
            return simulation.eventHash
        }
        #expect(hash() == hash())
    }
}
