import Glibc

/// What DRAY_FUZZ_TARGET names.
private let target: FuzzTarget = {
    guard let target = FuzzTarget(rawValue: variable("DRAY_FUZZ_TARGET") ?? "") else {
        let names = FuzzTarget.allCases.map(\.rawValue).joined(separator: ", ")
        print("DRAY_FUZZ_TARGET is none of \(names)")
        exit(2)
    }
    return target
}()

private func variable(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

/// Writes the corpus of the target into the directory that DRAY_FUZZ_CORPUS names: what its samples
/// make, what once did harm, and what DRAY_FUZZ_KEPT has.
@_cdecl("LLVMFuzzerInitialize")
public func initialize(
    _ count: UnsafeMutablePointer<Int32>, _ arguments: UnsafeMutableRawPointer
) -> Int32 {
    guard let directory = variable("DRAY_FUZZ_CORPUS") else { return 0 }
    var inputs = target.corpus + FuzzFindings.inputs(of: target)
    if let path = variable("DRAY_FUZZ_KEPT") { inputs += KeptInputs.read(path) }
    for (index, input) in inputs.enumerated() {
        guard let file = fopen("\(directory)/seed-\(index)", "w") else {
            print("\(directory) cannot be written")
            exit(2)
        }
        fwrite(input, 1, input.count, file)
        fclose(file)
    }
    return 0
}

/// libFuzzer's way in.
@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ start: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    target.run(UnsafeRawBufferPointer(start: start, count: count))
    return 0
}
