#define _GNU_SOURCE 1
#include "CUring.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

bool dray_file_is_dax(int descriptor) {
    struct statx status;
    if (statx(descriptor, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &status) < 0) return false;
    return (status.stx_attributes_mask & status.stx_attributes & STATX_ATTR_DAX) != 0;
}

int dray_memory_map(int descriptor, uint64_t size, void **base, bool *synchronous) {
    int access = PROT_READ | PROT_WRITE;
    void *address = MAP_FAILED;
    *synchronous = false;
#if defined(__x86_64__)
    // Elsewhere, nothing here knows how to get stores out of the processor's caches.
    address = mmap(NULL, size, access, MAP_SHARED_VALIDATE | MAP_SYNC, descriptor, 0);
    *synchronous = address != MAP_FAILED;
    if (address == MAP_FAILED && errno != EOPNOTSUPP && errno != EINVAL) return errno;
#endif
    if (address == MAP_FAILED) address = mmap(NULL, size, access, MAP_SHARED, descriptor, 0);
    if (address == MAP_FAILED) return errno;
    *base = address;
    return 0;
}

int dray_memory_map_read_only(int descriptor, uint64_t size, void **base) {
    void *address = mmap(NULL, size, PROT_READ, MAP_SHARED, descriptor, 0);
    if (address == MAP_FAILED) return errno;
    *base = address;
    return 0;
}

void dray_memory_unmap(void *base, uint64_t size) { munmap(base, size); }

// Where to go on when a copy meets memory that cannot be used: bad cells, a file that was
// truncated, a file system without room.
static _Thread_local sigjmp_buf *volatile escape;
static _Thread_local uintptr_t volatile fault;
static struct sigaction former;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void on_bus_error(int signal_number, siginfo_t *info, void *context) {
    if (escape != NULL) {
        fault = (uintptr_t)info->si_addr;
        siglongjmp(*escape, 1);
    }
    // Nothing of ours: as it would have been without us.
    if (former.sa_flags & SA_SIGINFO) {
        former.sa_sigaction(signal_number, info, context);
    } else if (former.sa_handler != SIG_DFL && former.sa_handler != SIG_IGN) {
        former.sa_handler(signal_number);
    } else {
        signal(signal_number, SIG_DFL);
        raise(signal_number);
    }
}

static void install(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_bus_error;
    // Not blocked while it runs: it does not return.
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &former);
}

// Blocks are aligned, and whole.
static void stream(void *to, const void *from, uint64_t length) {
#if defined(__x86_64__)
    __m128i *target = to;
    const __m128i *source = from;
    for (uint64_t i = 0; i < length / sizeof *target; i += 4) {
        __m128i a = _mm_load_si128(source + i), b = _mm_load_si128(source + i + 1);
        __m128i c = _mm_load_si128(source + i + 2), d = _mm_load_si128(source + i + 3);
        _mm_stream_si128(target + i, a);
        _mm_stream_si128(target + i + 1, b);
        _mm_stream_si128(target + i + 2, c);
        _mm_stream_si128(target + i + 3, d);
    }
#else
    memcpy(to, from, length);
#endif
}

uint64_t dray_memory_copy(void *to, const void *from, uint64_t length, bool past_caches) {
    sigjmp_buf place;
    pthread_once(&once, install);
    if (sigsetjmp(place, 0) != 0) {
        escape = NULL;
        uint64_t in_target = fault - (uintptr_t)to, in_source = fault - (uintptr_t)from;
        if (in_target < length) return in_target;
        return in_source < length ? in_source : 0;
    }
    escape = &place;
    if (past_caches)
        stream(to, from, length);
    else
        memcpy(to, from, length);
    // The copy stays between the two.
    __asm__ volatile("" ::: "memory");
    escape = NULL;
    return length;
}

void dray_memory_fence(void) {
#if defined(__x86_64__)
    _mm_sfence();
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}
