// Counts the allocations of each thread. A program that links this has its own malloc, which hands
// on to the C library's.
#pragma once
#include <stdint.h>

/// How often the calling thread has asked for memory.
uint64_t dray_thread_allocations(void);
