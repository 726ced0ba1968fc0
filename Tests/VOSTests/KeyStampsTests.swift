import Testing

@testable import VOS

/// What a transaction may write, and whether what it has read is still so.
@Suite struct KeyStampsTests {
    /// What is done first, at epoch 10.
    enum Past: CaseIterable {
        case wroteKey
        case punchedObject
        case readKey
        case listedKeys
    }

    /// What is asked then.
    enum Question: CaseIterable {
        case writeKey
        case writeOtherKey
        case punchObject
        case writeElsewhere
        case keyIsUnchanged
        case otherKeyIsUnchanged
        case listIsUnchanged
        case elsewhereIsUnchanged
    }

    /// Whether the past is in the way of somebody at epoch 10 or before.
    static let isInTheWay: [(past: Past, question: Question, answer: Bool)] = [
        (.wroteKey, .writeKey, true),
        (.wroteKey, .writeOtherKey, false),
        (.wroteKey, .punchObject, true),
        (.wroteKey, .writeElsewhere, false),
        (.wroteKey, .keyIsUnchanged, true),
        (.wroteKey, .otherKeyIsUnchanged, false),
        (.wroteKey, .listIsUnchanged, true),
        (.wroteKey, .elsewhereIsUnchanged, false),

        (.punchedObject, .writeKey, true),
        (.punchedObject, .writeOtherKey, true),
        (.punchedObject, .punchObject, true),
        (.punchedObject, .writeElsewhere, false),
        (.punchedObject, .keyIsUnchanged, true),
        (.punchedObject, .otherKeyIsUnchanged, true),
        (.punchedObject, .listIsUnchanged, true),
        (.punchedObject, .elsewhereIsUnchanged, false),

        (.readKey, .writeKey, true),
        (.readKey, .writeOtherKey, false),
        (.readKey, .punchObject, true),
        (.readKey, .writeElsewhere, false),
        (.readKey, .keyIsUnchanged, false),
        (.readKey, .otherKeyIsUnchanged, false),
        (.readKey, .listIsUnchanged, false),
        (.readKey, .elsewhereIsUnchanged, false),

        // Who has listed the keys must not miss a new one.
        (.listedKeys, .writeKey, true),
        (.listedKeys, .writeOtherKey, true),
        (.listedKeys, .punchObject, true),
        (.listedKeys, .writeElsewhere, false),
        (.listedKeys, .keyIsUnchanged, false),
        (.listedKeys, .otherKeyIsUnchanged, false),
        (.listedKeys, .listIsUnchanged, false),
        (.listedKeys, .elsewhereIsUnchanged, false),
    ]

    private func note(_ past: Past, at epoch: UInt64, in stamps: inout KeyStamps) {
        switch past {
        case .wroteKey: stamps.didWrite(object: 1, dkey: 100, at: epoch)
        case .punchedObject: stamps.didWrite(object: 1, dkey: nil, at: epoch)
        case .readKey: stamps.didRead(object: 1, dkey: 100, at: epoch)
        case .listedKeys: stamps.didRead(object: 1, dkey: nil, at: epoch)
        }
    }

    private func allows(_ question: Question, at epoch: UInt64, _ stamps: KeyStamps) -> Bool {
        switch question {
        case .writeKey: stamps.mayWrite(object: 1, dkey: 100, at: epoch)
        case .writeOtherKey: stamps.mayWrite(object: 1, dkey: 101, at: epoch)
        case .punchObject: stamps.mayWrite(object: 1, dkey: nil, at: epoch)
        case .writeElsewhere: stamps.mayWrite(object: 2, dkey: 102, at: epoch)
        case .keyIsUnchanged: stamps.isUnchanged(object: 1, dkey: 100, since: epoch)
        case .otherKeyIsUnchanged: stamps.isUnchanged(object: 1, dkey: 101, since: epoch)
        case .listIsUnchanged: stamps.isUnchanged(object: 1, dkey: nil, since: epoch)
        case .elsewhereIsUnchanged: stamps.isUnchanged(object: 2, dkey: nil, since: epoch)
        }
    }

    private func isWrite(_ question: Question) -> Bool {
        switch question {
        case .writeKey, .writeOtherKey, .punchObject, .writeElsewhere: true
        case .keyIsUnchanged, .otherKeyIsUnchanged, .listIsUnchanged, .elsewhereIsUnchanged: false
        }
    }

    @Test(arguments: isInTheWay.indices)
    func pastAndQuestion(index: Int) {
        let row = Self.isInTheWay[index]
        // An older thing that is noted later changes nothing.
        for (first, second) in [(10, 10), (10, 3), (3, 10)] as [(UInt64, UInt64)] {
            var stamps = KeyStamps()
            note(row.past, at: first, in: &stamps)
            note(row.past, at: second, in: &stamps)
            #expect(allows(row.question, at: 9, stamps) == !row.answer)
            // At the same epoch a write is too late, and a read is not.
            #expect(allows(row.question, at: 10, stamps) == !(row.answer && isWrite(row.question)))
            #expect(allows(row.question, at: 11, stamps))
        }
    }

    @Test func theTableIsComplete() {
        for past in Past.allCases {
            for question in Question.allCases {
                let count = Self.isInTheWay.count { $0.past == past && $0.question == question }
                #expect(count == 1)
            }
        }
    }

    /// After a restart nobody knows what was read or written.
    @Test(arguments: Question.allCases)
    func theFloorStandsForAll(question: Question) {
        var stamps = KeyStamps()
        stamps.floor = 20
        #expect(!allows(question, at: 19, stamps))
        #expect(!allows(question, at: 20, stamps))
        #expect(allows(question, at: 21, stamps))
    }

    /// Keys that share a slot are taken for one: too strict, never too lax.
    @Test func sharedSlotsAreStrict() {
        var stamps = KeyStamps()
        stamps.didWrite(object: 1, dkey: 100, at: 10)
        #expect(!stamps.mayWrite(object: 7, dkey: 100 + 4096, at: 10))
        #expect(!stamps.isUnchanged(object: 1 + 4096, dkey: nil, since: 9))
    }
}
