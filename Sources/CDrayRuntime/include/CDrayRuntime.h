// The few things that the execution stream needs and Swift cannot say: a thread-local pointer, a
// pause instruction, and system calls with variadic or feature-test-guarded declarations.
#pragma once
#include <poll.h>
#include <stdint.h>
#include <time.h>

// Initial-exec: one instruction to read, instead of a call. Eight bytes fit the space that the
// loader keeps for libraries that are opened later.
extern _Thread_local void *dray_current_xstream_pointer __attribute__((tls_model("initial-exec")));

/// The execution stream that the calling thread is running, or NULL.
static inline void *dray_current_xstream(void) { return dray_current_xstream_pointer; }
static inline void dray_set_current_xstream(void *xstream) {
    dray_current_xstream_pointer = xstream;
}

/// Hints to the processor that the caller spins.
static inline void dray_cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/// Nanoseconds of the given clock.
static inline uint64_t dray_clock_nanoseconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/// Polls `count` descriptors for at most `nanoseconds` (negative: without limit).
int dray_poll(struct pollfd *descriptors, unsigned long count, int64_t nanoseconds);

/// Gives the processor to another thread that wants it, if there is one.
void dray_yield_processor(void);

/// Lets the calling thread's timed waits end on time, not up to 50 microseconds later.
void dray_set_precise_timers(void);

/// Names the calling thread (15 bytes are kept).
void dray_name_thread(const char *name);

/// Maps `length` bytes of zeroed, page-aligned, private memory, or returns NULL.
void *dray_map_memory(uint64_t length);

/// 2 MiB.
#define DRAY_HUGE_PAGE 0x200000

/// The same for a multiple of DRAY_HUGE_PAGE, aligned to it, in huge pages where the system gives
/// them without being set up for it (`madvise`).
void *dray_map_huge_pages(uint64_t length);

void dray_unmap_memory(void *address, uint64_t length);

/// A descriptor that counts wake-ups: non-blocking, closed on exec. -1 when there is none.
int dray_make_wake_descriptor(void);

/// Fills `bytes` with the kernel's randomness; returns 0, or -1.
int dray_random_bytes(void *bytes, uint64_t count);
