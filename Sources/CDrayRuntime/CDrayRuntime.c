#define _GNU_SOURCE 1
#include "CDrayRuntime.h"
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>

_Thread_local void *dray_current_xstream_pointer __attribute__((tls_model("initial-exec")));

int dray_poll(struct pollfd *descriptors, unsigned long count, int64_t nanoseconds) {
    struct timespec limit, *limit_pointer = NULL;
    if (nanoseconds >= 0) {
        limit.tv_sec = nanoseconds / 1000000000;
        limit.tv_nsec = nanoseconds % 1000000000;
        limit_pointer = &limit;
    }
    return ppoll(descriptors, count, limit_pointer, NULL);
}

void dray_yield_processor(void) { sched_yield(); }

void dray_set_precise_timers(void) { prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0); }

void dray_name_thread(const char *name) { prctl(PR_SET_NAME, name, 0, 0, 0); }

void *dray_map_memory(uint64_t length) {
    void *address = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return address == MAP_FAILED ? NULL : address;
}

void *dray_map_huge_pages(uint64_t length) {
    uint64_t page = DRAY_HUGE_PAGE;
    char *address = dray_map_memory(length + page);
    if (address == NULL) return NULL;
    uint64_t before = (page - (uintptr_t)address % page) % page;
    if (before > 0) munmap(address, before);
    munmap(address + before + length, page - before);
    // Where the system has none, these are ordinary pages.
    madvise(address + before, length, MADV_HUGEPAGE);
    return address + before;
}

void dray_unmap_memory(void *address, uint64_t length) { munmap(address, length); }

int dray_make_wake_descriptor(void) { return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }

int dray_random_bytes(void *bytes, uint64_t count) {
    return getrandom(bytes, count, 0) == (ssize_t)count ? 0 : -1;
}
