#define _GNU_SOURCE 1
#include "CUring.h"
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

struct dray_ring {
    struct io_uring ring;
    // Signalled on completion while armed. The ring's own descriptor will not do: with deferred
    // task work nothing wakes a poll of it (seen on 6.18).
    int event;
    bool armed;
    // Whether there is a table of registered buffers.
    bool has_table;
};

// Newest first: deferred task work spares interrupts of the xstream; older kernels have fewer.
static const unsigned setups[] = {
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
    0,
};

int dray_ring_create(uint32_t entries, int descriptor, struct dray_ring **out) {
    struct dray_ring *ring = calloc(1, sizeof *ring);
    if (ring == NULL) return ENOMEM;
    int result = -EINVAL;
    for (unsigned i = 0; i < sizeof setups / sizeof setups[0] && result == -EINVAL; i++) {
        struct io_uring_params parameters;
        memset(&parameters, 0, sizeof parameters);
        parameters.flags = setups[i];
        result = io_uring_queue_init_params(entries, &ring->ring, &parameters);
    }
    if (result < 0) {
        free(ring);
        return -result;
    }
    ring->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    result = ring->event < 0 ? -errno : io_uring_register_files(&ring->ring, &descriptor, 1);
    if (result == 0) result = io_uring_register_eventfd(&ring->ring, ring->event);
    if (result == 0) result = io_uring_cq_eventfd_toggle(&ring->ring, false);
    if (result < 0) {
        dray_ring_destroy(ring);
        return -result;
    }
    *out = ring;
    return 0;
}

void dray_ring_destroy(struct dray_ring *ring) {
    io_uring_queue_exit(&ring->ring);
    if (ring->event >= 0) close(ring->event);
    free(ring);
}

int dray_ring_arm(struct dray_ring *ring) {
    ring->armed = true;
    io_uring_cq_eventfd_toggle(&ring->ring, true);
    // First the flag, then the look: the kernel posts first and looks at the flag then.
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    bool pending = io_uring_cq_ready(&ring->ring) > 0 ||
        (__atomic_load_n(ring->ring.sq.kflags, __ATOMIC_RELAXED) &
         (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW));
    return pending ? -1 : ring->event;
}

static void disarm(struct dray_ring *ring) {
    uint64_t count;
    ring->armed = false;
    io_uring_cq_eventfd_toggle(&ring->ring, false);
    // Empty already, or emptied here: both are fine.
    ssize_t ignored = read(ring->event, &count, sizeof count);
    (void)ignored;
}

static inline bool finish(struct io_uring_sqe *sqe, uint64_t slot) {
    sqe->flags |= IOSQE_FIXED_FILE;
    sqe->user_data = slot;
    return true;
}

int dray_ring_register(struct dray_ring *ring, int32_t number, void *buffer, uint64_t length) {
    int result;
    if (!ring->has_table) {
        result = io_uring_register_buffers_sparse(&ring->ring, DRAY_RING_BUFFERS);
        if (result < 0) return -result;
        ring->has_table = true;
    }
    struct iovec vector = {.iov_base = buffer, .iov_len = length};
    __u64 tag = 0;
    result = io_uring_register_buffers_update_tag(
        &ring->ring, (unsigned)number, &vector, &tag, 1);
    if (result == 1) return 0;
    return result < 0 ? -result : EINVAL;
}

bool dray_ring_read(
    struct dray_ring *ring, void *buffer, uint32_t length, uint64_t offset, int32_t number,
    uint64_t slot) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->ring);
    if (sqe == NULL) return false;
    if (number < 0)
        io_uring_prep_read(sqe, 0, buffer, length, offset);
    else
        io_uring_prep_read_fixed(sqe, 0, buffer, length, offset, number);
    return finish(sqe, slot);
}

static void prepare_write(
    struct io_uring_sqe *sqe, const void *buffer, uint32_t length, uint64_t offset,
    int32_t number) {
    if (number < 0)
        io_uring_prep_write(sqe, 0, buffer, length, offset);
    else
        io_uring_prep_write_fixed(sqe, 0, buffer, length, offset, number);
}

bool dray_ring_write(
    struct dray_ring *ring, const void *buffer, uint32_t length, uint64_t offset, int32_t number,
    bool durable, uint64_t slot) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->ring);
    if (sqe == NULL) return false;
    prepare_write(sqe, buffer, length, offset, number);
    if (durable) sqe->rw_flags = RWF_DSYNC;
    return finish(sqe, slot);
}

bool dray_ring_flush(struct dray_ring *ring, uint64_t slot) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->ring);
    if (sqe == NULL) return false;
    io_uring_prep_fsync(sqe, 0, IORING_FSYNC_DATASYNC);
    return finish(sqe, slot);
}

bool dray_ring_write_and_flush(
    struct dray_ring *ring, const void *buffer, uint32_t length, uint64_t offset, int32_t number,
    uint64_t slot) {
    if (io_uring_sq_space_left(&ring->ring) < 2) return false;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->ring);
    prepare_write(sqe, buffer, length, offset, number);
    finish(sqe, DRAY_RING_SILENT);
    sqe->flags |= IOSQE_IO_LINK;
    return dray_ring_flush(ring, slot);
}

int dray_ring_submit(struct dray_ring *ring) {
    if (ring->ring.flags & IORING_SETUP_DEFER_TASKRUN)
        return io_uring_submit_and_get_events(&ring->ring);
    return io_uring_submit(&ring->ring);
}

bool dray_ring_has_work(const struct dray_ring *ring) {
    return __atomic_load_n(ring->ring.sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_TASKRUN;
}

uint32_t dray_ring_queued(const struct dray_ring *ring) { return io_uring_sq_ready(&ring->ring); }

uint32_t dray_ring_reap(struct dray_ring *ring, struct dray_ring_completion *out, uint32_t max) {
    struct io_uring_cqe *cqes[256];
    if (ring->armed) disarm(ring);
    if (max > 256) max = 256;
    unsigned count = io_uring_peek_batch_cqe(&ring->ring, cqes, max);
    unsigned reported = 0;
    for (unsigned i = 0; i < count; i++) {
        if (cqes[i]->user_data == DRAY_RING_SILENT) continue;
        out[reported].slot = cqes[i]->user_data;
        out[reported].result = cqes[i]->res;
        reported++;
    }
    io_uring_cq_advance(&ring->ring, count);
    return reported;
}

int dray_file_open(const char *path, int flags) {
    int descriptor = open(path, flags | O_CLOEXEC);
    return descriptor < 0 ? -errno : descriptor;
}

int dray_file_open_direct(const char *path) { return dray_file_open(path, O_RDWR | O_DIRECT); }

int dray_file_create(const char *path) {
    int descriptor = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return descriptor < 0 ? -errno : descriptor;
}

int dray_file_reserve(int descriptor, uint64_t size) {
    int result;
    do {
        result = fallocate(descriptor, 0, 0, (off_t)size);
    } while (result < 0 && errno == EINTR);
    return result < 0 ? errno : 0;
}

int dray_file_size(int descriptor, uint64_t *size, bool *block_device) {
    struct stat status;
    if (fstat(descriptor, &status) < 0) return errno;
    *block_device = S_ISBLK(status.st_mode);
    if (*block_device) return ioctl(descriptor, BLKGETSIZE64, size) < 0 ? errno : 0;
    if (!S_ISREG(status.st_mode)) return S_ISDIR(status.st_mode) ? EISDIR : ENOTBLK;
    *size = (uint64_t)status.st_size;
    return 0;
}

// Reads the start of an attribute of the queue of the device that holds a file system.
static bool read_queue(dev_t device, const char *name, char *value, size_t size) {
    // Of a partition, the queue is that of the whole device.
    const char *const forms[] = {
        "/sys/dev/block/%u:%u/queue/%s", "/sys/dev/block/%u:%u/../queue/%s"};
    for (unsigned i = 0; i < 2; i++) {
        char path[96];
        snprintf(path, sizeof path, forms[i], major(device), minor(device), name);
        int descriptor = open(path, O_RDONLY | O_CLOEXEC);
        if (descriptor < 0) continue;
        ssize_t count = read(descriptor, value, size - 1);
        close(descriptor);
        if (count <= 0) return false;
        value[count] = 0;
        return true;
    }
    return false;
}

bool dray_file_durable_write_flushes(int descriptor) {
    struct stat status;
    struct statfs system;
    char value[32];
    if (fstat(descriptor, &status) < 0 || !S_ISREG(status.st_mode)) return false;
    if (fstatfs(descriptor, &system) < 0) return false;
    if (system.f_type != EXT4_SUPER_MAGIC && system.f_type != XFS_SUPER_MAGIC) return false;
    if (!read_queue(status.st_dev, "write_cache", value, sizeof value)) return false;
    if (strncmp(value, "write back", 10) != 0) return false;
    if (!read_queue(status.st_dev, "fua", value, sizeof value)) return false;
    return value[0] == '0';
}

int dray_file_unwritten(
    int descriptor, uint64_t offset, uint64_t length, uint64_t *gap, uint64_t *gap_length) {
    enum { extents = 32 };
    // As long as a header and its extents.
    union {
        struct fiemap map;
        char bytes[sizeof(struct fiemap) + extents * sizeof(struct fiemap_extent)];
    } query;
    uint64_t end = offset + length;
    *gap_length = 0;
    while (offset < end) {
        memset(&query, 0, sizeof query);
        query.map.fm_start = offset;
        query.map.fm_length = end - offset;
        query.map.fm_extent_count = extents;
        if (ioctl(descriptor, FS_IOC_FIEMAP, &query.map) < 0) return errno;
        const struct fiemap_extent *found = query.map.fm_extents;
        uint64_t before = offset;
        for (uint32_t i = 0; i < query.map.fm_mapped_extents; i++) {
            uint64_t start = found[i].fe_logical, last = start + found[i].fe_length;
            if (last <= offset) continue;
            if (start > offset) break;
            if (found[i].fe_flags & FIEMAP_EXTENT_UNWRITTEN) {
                *gap = offset;
                *gap_length = (last < end ? last : end) - offset;
                return 0;
            }
            offset = last;
        }
        if (offset >= end || query.map.fm_mapped_extents == extents) {
            if (offset == before) return EIO;
            continue;
        }
        // A hole, up to the next extent.
        *gap = offset;
        *gap_length = end - offset;
        for (uint32_t i = query.map.fm_mapped_extents; i-- > 0;)
            if (found[i].fe_logical > offset) *gap_length = found[i].fe_logical - offset;
        return 0;
    }
    return 0;
}

int dray_file_lock(int descriptor) {
    return flock(descriptor, LOCK_EX | LOCK_NB) < 0 ? errno : 0;
}

int64_t dray_file_write(
    int descriptor, const void *buffer, uint64_t length, uint64_t offset, bool durable) {
    struct iovec vector = {.iov_base = (void *)buffer, .iov_len = length};
    ssize_t result = pwritev2(descriptor, &vector, 1, (off_t)offset, durable ? RWF_DSYNC : 0);
    return result < 0 ? -errno : result;
}

int64_t dray_file_read(int descriptor, void *buffer, uint64_t length, uint64_t offset) {
    ssize_t result = pread(descriptor, buffer, length, (off_t)offset);
    return result < 0 ? -errno : result;
}

int64_t dray_file_flush(int descriptor) { return fdatasync(descriptor) < 0 ? -errno : 0; }

uint64_t dray_file_system_free(int descriptor) {
    struct statvfs status;
    if (fstatvfs(descriptor, &status) < 0) return 0;
    return (uint64_t)status.f_bavail * status.f_frsize;
}
