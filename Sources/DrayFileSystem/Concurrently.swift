/// Runs `body` on every element, at most `FileSystem.inFlightMax` at a time, and returns the
/// results in the order of the elements. The first error ends it, once what runs has ended.
///
/// The tasks are children of the caller's and run where it runs.
func concurrently<Element: Sendable, Value: Sendable>(
    _ elements: [Element],
    _ body: @Sendable @escaping (Element) async throws(FileSystemError) -> Value
) async throws(FileSystemError) -> [Value] {
    typealias Outcome = (index: Int, result: Result<Value, FileSystemError>)
    let result = await withTaskGroup(of: Outcome.self) { group in
        var values = [Value?](repeating: nil, count: elements.count)
        var failure: FileSystemError?
        var next = 0
        while true {
            while next < elements.count, failure == nil, next < FileSystem.inFlightMax {
                let index = next
                let element = elements[index]
                group.addTask { (index, await attempt(element, body)) }
                next += 1
            }
            guard let outcome = await group.next() else { break }
            switch outcome.result {
            case .success(let value): values[outcome.index] = value
            case .failure(let error): failure = failure ?? error
            }
            guard next < elements.count, failure == nil else { continue }
            let index = next
            let element = elements[index]
            group.addTask { (index, await attempt(element, body)) }
            next += 1
        }
        if let failure { return Result<[Value], FileSystemError>.failure(failure) }
        return .success(values.compactMap { $0 })
    }
    return try result.get()
}

private func attempt<Element, Value>(
    _ element: Element, _ body: (Element) async throws(FileSystemError) -> Value
) async -> Result<Value, FileSystemError> {
    do throws(FileSystemError) {
        return .success(try await body(element))
    } catch {
        return .failure(error)
    }
}
