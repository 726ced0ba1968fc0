internal import Glibc

/// Settings of the C library's memory allocator, which it takes from the environment of a new
/// program only.
enum AllocatorSettings {
    private static let variable = "GLIBC_TUNABLES"

    /// How many freed pieces of each size a thread keeps for itself. The library's 7 are too few
    /// for an engine, which frees what a batch of requests took at once: the rest goes through a
    /// slower path both ways, a tenth of an engine's processor time.
    private static let settings = "glibc.malloc.tcache_count=512"

    /// Begins this program again, in the same process and with the same arguments, with the
    /// settings; does nothing when the environment has any, so also the second time. Call it
    /// before anything else.
    static func apply() {
        guard unsafe getenv(variable) == nil, unsafe setenv(variable, settings, 1) == 0 else {
            return
        }
        unsafe execv("/proc/self/exe", CommandLine.unsafeArgv)
        // It cannot be begun again: it goes on, a little slower.
    }
}
