import DraySimulator
import Testing

@Suite struct CellArrayTests {
    typealias Operation = RecordedOperation<CellArrayModel.Action>

    private func certain(_ begin: Int, _ end: Int, _ action: CellArrayModel.Action) -> Operation {
        Operation(client: begin, action: action, begin: begin, end: end, isCertain: true)
    }

    private func unknown(_ begin: Int, _ action: CellArrayModel.Action) -> Operation {
        Operation(client: begin, action: action, begin: begin, end: nil, isCertain: false)
    }

    private func check(_ operations: [Operation]) -> CheckOutcome {
        checkLinearizability(operations, of: CellArrayModel.self)
    }

    @Test func overlappingWritesInEitherOrder() {
        for cells: [UInt32] in [[1, 2, 2], [1, 1, 2]] {
            #expect(
                check([
                    certain(0, 4, .write(1, 0..<2)), certain(1, 5, .write(2, 1..<3)),
                    certain(6, 7, .read(first: 0, cells)),
                    certain(8, 9, .read(first: 1, Array(cells[1...]))),
                ]) == .passed)
        }
    }

    @Test func aReadMayNotSeeHalfOfAWrite() {
        #expect(
            isViolated(
                check([
                    certain(0, 1, .write(1, 0..<4)), certain(2, 5, .write(2, 0..<4)),
                    certain(3, 4, .read(first: 0, [2, 2, 1, 1])),
                ])))
    }

    @Test func aReadMayNotSeeHalfOfAWriteOfUnknownOutcome() {
        #expect(
            isViolated(
                check([
                    certain(0, 1, .write(1, 0..<4)), unknown(2, .write(2, 0..<4)),
                    certain(3, 4, .read(first: 0, [2, 1, 1, 1])),
                ])))
    }

    @Test func readersMayNotSeeTwoWritesInDifferentOrders() {
        #expect(
            isViolated(
                check([
                    certain(0, 10, .write(1, 0..<1)), certain(1, 11, .write(2, 1..<2)),
                    certain(2, 4, .read(first: 0, [1, 0])), certain(5, 6, .read(first: 0, [0, 2])),
                ])))
    }

    @Test func aWriteOfUnknownOutcomeAppearsLateOrNever() {
        for cells: [UInt32] in [[1, 3], [1, 1]] {
            #expect(
                check([
                    certain(0, 1, .write(1, 0..<2)), unknown(2, .write(3, 1..<2)),
                    unknown(3, .write(4, 0..<2)), certain(4, 5, .read(first: 0, [1, 1])),
                    certain(6, 7, .read(first: 0, cells)),
                ]) == .passed)
        }
    }

    @Test func aWriteThatWasReplacedDoesNotComeBack() {
        #expect(
            isViolated(
                check([
                    unknown(0, .write(1, 0..<2)), certain(1, 2, .read(first: 0, [1, 1])),
                    certain(3, 4, .write(2, 0..<2)), certain(5, 6, .read(first: 0, [2, 2])),
                    certain(7, 8, .read(first: 0, [1, 2])),
                ])))
    }
}
