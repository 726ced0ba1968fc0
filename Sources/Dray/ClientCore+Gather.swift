internal import DrayRuntime

/// Asking many at once.
extension ClientCore {
    /// Runs `body` for all of `inputs` at once and gives the results in their order. Cancelling the
    /// caller cancels all.
    ///
    /// - Throws: when all have ended, the error of the first that has failed.
    func gather<Input, Value>(
        _ inputs: [Input],
        _ body: @escaping (ClientCore, Input) async throws(DrayError) -> Value
    ) async throws(DrayError) -> [Value] {
        if inputs.count == 1 { return [try await body(self, inputs[0])] }
        let gather = Gather<Result<Value, DrayError>>(count: inputs.count)
        let tasks = inputs.enumerated().map { index, input in
            xstream.spawnCancellable {
                do throws(DrayError) {
                    gather.finish(index, with: .success(try await body(self, input)))
                } catch {
                    gather.finish(index, with: .failure(error))
                }
            }
        }
        let results = await withTaskCancellationHandler {
            await gather.results()
        } onCancel: {
            for task in tasks { task.cancel() }
        }
        var values: [Value] = []
        for result in results { values.append(try result.get()) }
        return values
    }
}
