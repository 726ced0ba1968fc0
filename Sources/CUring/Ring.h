// What a ring is: shared by the files of this target, and by nobody else.
#pragma once
#include "CUring.h"
#include <liburing.h>

struct dray_ring {
    struct io_uring ring;
    // Signalled on completion while armed. The ring's own descriptor will not do: with deferred
    // task work nothing wakes a poll of it (seen on 6.18).
    int event;
    bool armed;
    // Whether there is a table of registered buffers.
    bool has_table;
};

static inline bool finish(struct io_uring_sqe *sqe, uint64_t slot) {
    sqe->flags |= IOSQE_FIXED_FILE;
    sqe->user_data = slot;
    return true;
}
