internal import Glibc

/// What a process tells its harness, in a file that both have in memory: 64-bit words, each
/// written by one thread.
@safe struct TransportStatus: Sendable {
    /// Words at the beginning.
    enum Word: Int {
        /// All contexts have opened.
        case isOpen
        /// All calls have ended after the stop.
        case isDone
    }

    /// Replies that contexts had, by context and process, follow.
    private static let firstCount = 8
    private static let wordsMax = 512

    // SAFETY: the mapping is never undone, every access is within its words, and each word has one
    // writer; who reads may see it a little late.
    nonisolated(unsafe) private let words: UnsafeMutablePointer<UInt64>
    private let processes: Int

    /// Maps the file, which is made when it is not there.
    init(path: String, contexts: Int, processes: Int) throws(Failure) {
        precondition(
            TransportStatus.firstCount + contexts * processes <= TransportStatus.wordsMax)
        self.processes = processes
        let size = TransportStatus.wordsMax * 8
        let descriptor = unsafe open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0, ftruncate(descriptor, off_t(size)) == 0 else {
            throw Failure("\(path): \(unsafe String(cString: strerror(errno)))")
        }
        defer { close(descriptor) }
        let memory = unsafe mmap(
            nil, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)
        guard let memory = unsafe memory, unsafe memory != MAP_FAILED else {
            throw Failure("\(path): \(unsafe String(cString: strerror(errno)))")
        }
        unsafe words = memory.bindMemory(to: UInt64.self, capacity: TransportStatus.wordsMax)
    }

    subscript(word: Word) -> Bool {
        get { unsafe words[word.rawValue] != 0 }
        nonmutating set { unsafe words[word.rawValue] = newValue ? 1 : 0 }
    }

    /// The replies that a context has had from a process.
    subscript(context: Int, process: Int) -> Int {
        get { unsafe Int(words[TransportStatus.firstCount + context * processes + process]) }
        nonmutating set {
            unsafe words[TransportStatus.firstCount + context * processes + process] =
                UInt64(newValue)
        }
    }

    /// Everything is zero again.
    func clear() {
        for index in 0..<TransportStatus.wordsMax { unsafe words[index] = 0 }
    }
}
