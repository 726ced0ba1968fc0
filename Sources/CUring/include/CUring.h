// What BIO needs of liburing and of system calls that Swift cannot say: the ring behind an opaque
// pointer (liburing's own functions are inline and use atomics), and variadic calls.
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct dray_ring;

/// What the completion of a write says that a flush follows: not to be waited for.
#define DRAY_RING_SILENT UINT64_MAX

/// A transfer that has ended: whose, and bytes or a negative errno.
struct dray_ring_completion {
    uint64_t slot;
    int32_t result;
};

/// Creates a ring with room for `entries` submissions (a write with a flush counts twice), for the
/// calling thread only, and registers `descriptor` as its file. With `commands`, it takes those of
/// NVMe. Returns 0, or an errno (EPERM and ENOSYS: io_uring is forbidden).
int dray_ring_create(
    uint32_t entries, int descriptor, bool commands, struct dray_ring **ring);
void dray_ring_destroy(struct dray_ring *ring);

/// Call before blocking: the descriptor that becomes readable with the next completion, or -1 when
/// there is one already. Until then, completions signal nothing. The next reap undoes it.
int dray_ring_arm(struct dray_ring *ring);

/// How many buffers a ring can have registered.
#define DRAY_RING_BUFFERS 256
/// A buffer that is not registered.
#define DRAY_RING_NO_BUFFER (-1)

/// Registers a buffer under a number below DRAY_RING_BUFFERS, not used before: its pages are looked
/// up and locked once, not for each transfer. Returns 0, or an errno (ENOMEM: the limit of locked
/// memory).
int dray_ring_register(struct dray_ring *ring, int32_t number, void *buffer, uint64_t length);

/// Queue a transfer with the registered file; false when the submission queue is full. `number` is
/// that of a registered buffer that holds all of `buffer`, or DRAY_RING_NO_BUFFER.
bool dray_ring_read(
    struct dray_ring *ring, void *buffer, uint32_t length, uint64_t offset, int32_t number,
    uint64_t slot);
bool dray_ring_write(
    struct dray_ring *ring, const void *buffer, uint32_t length, uint64_t offset, int32_t number,
    bool durable, uint64_t slot);
bool dray_ring_flush(struct dray_ring *ring, uint64_t slot);
/// A write, and a flush that begins when it has ended: the kernel needs no word from us between.
/// Only the flush reports; -ECANCELED means that the write failed or ended short.
bool dray_ring_write_and_flush(
    struct dray_ring *ring, const void *buffer, uint32_t length, uint64_t offset, int32_t number,
    uint64_t slot);

/// Gives a range of the file back to the file system or device: it reads as zeroes then.
bool dray_ring_discard(struct dray_ring *ring, uint64_t offset, uint64_t length, uint64_t slot);

/// Gives what is queued to the kernel. Returns how many, or a negative errno; what was refused
/// stays queued.
int dray_ring_submit(struct dray_ring *ring);

/// Whether completions wait that the kernel must be asked for: the next submission, or the next
/// look, brings them.
bool dray_ring_has_work(const struct dray_ring *ring);

/// How many submissions are queued.
uint32_t dray_ring_queued(const struct dray_ring *ring);

/// Takes up to `max` completions. Does not block.
uint32_t dray_ring_reap(
    struct dray_ring *ring, struct dray_ring_completion *completions, uint32_t max);

/// open(2) with O_CLOEXEC and `flags`; a descriptor or a negative errno.
int dray_file_open(const char *path, int flags);
int dray_file_open_direct(const char *path);
/// The class of a character device in the kernel's words ("nvme-generic", "dax") and its name
/// there. 0, an errno, or ENOTTY: it is no character device.
int dray_file_class(const char *path, char class_name[64], char name[64]);
/// Creates a file that must not exist (mode 0600).
int dray_file_create(const char *path);
/// Reserves the space of a file; 0 or an errno.
int dray_file_reserve(int descriptor, uint64_t size);
/// The size of a file or block device in bytes; 0 or an errno.
int dray_file_size(int descriptor, uint64_t *size, bool *block_device);
/// The first part of a range of a file that is reserved, or a hole, and has never been written:
/// `gap_length` is 0 when there is none. 0 or an errno (where the file system does not tell).
int dray_file_unwritten(
    int descriptor, uint64_t offset, uint64_t length, uint64_t *gap, uint64_t *gap_length);
/// Whether a write with RWF_DSYNC to a file opened with O_DIRECT does all that the write and
/// fdatasync(2) do: it flushes the whole device, and commits what the file system has to. True
/// only where that is known: of regular files in ext4 and XFS on a device with a volatile cache
/// and without FUA. (With FUA, or without a cache, the kernel makes just those bytes durable.)
bool dray_file_durable_write_flushes(int descriptor);
/// Takes the exclusive lock of an open file without waiting; 0 or an errno (EWOULDBLOCK).
int dray_file_lock(int descriptor);
/// pwrite(2), with RWF_DSYNC where `durable`; bytes or a negative errno.
int64_t dray_file_write(
    int descriptor, const void *buffer, uint64_t length, uint64_t offset, bool durable);
/// pread(2); bytes or a negative errno.
int64_t dray_file_read(int descriptor, void *buffer, uint64_t length, uint64_t offset);
/// fdatasync(2); 0 or a negative errno.
int64_t dray_file_flush(int descriptor);
/// Gives a range back, as dray_ring_discard; 0 or a negative errno.
int64_t dray_file_discard(int descriptor, uint64_t offset, uint64_t length);
/// Free bytes for an ordinary user in the file system of an open file.
uint64_t dray_file_system_free(int descriptor);

// NVMe: the commands of its I/O queues through a generic device (/dev/ngXnY), past the kernel's
// block layer. Names and numbers are those of the NVM Express base specification.

/// A namespace, as its controller describes it.
struct dray_nvme_namespace {
    uint32_t number;
    /// Bytes of a logical block, and how many there are.
    uint32_t block_size;
    uint64_t blocks;
    /// Bytes of metadata with each block.
    uint32_t metadata_size;
    /// The most bytes of one transfer; 0 when there is no limit.
    uint64_t transfer_max;
    bool volatile_cache;
    /// Whether blocks can be deallocated.
    bool deallocates;
    char model[41];
    char serial[21];
};

/// Identifies the namespace of an open generic device; 0 or an errno (ENOTTY: it is none), or
/// EPROTO with what the controller said in `status`.
int dray_nvme_identify(int descriptor, struct dray_nvme_namespace *space, int *status);

/// Bytes of the health log page.
enum { dray_nvme_health_size = 512 };

/// Reads the health log page (02h, "SMART / health information") of the controller of an open
/// device, generic or block, into `page`; returns as `dray_nvme_identify` does.
int dray_nvme_health(int descriptor, uint8_t *page, int *status);

/// The most bytes that the kernel takes in one command for the namespace called `name` (as
/// nvme0n1); 0 when it does not say.
uint64_t dray_nvme_kernel_transfer_max(const char *name);

/// Queue a command: `first` and `count` are in logical blocks, `count` at least 1. It completes
/// with 0, a negative errno, or the controller's status.
bool dray_nvme_read(
    struct dray_ring *ring, uint32_t space, void *buffer, uint32_t length, uint64_t first,
    uint32_t count, uint64_t slot);
/// With `durable`, the blocks are on the medium when it completes (forced unit access).
bool dray_nvme_write(
    struct dray_ring *ring, uint32_t space, const void *buffer, uint32_t length, uint64_t first,
    uint32_t count, bool durable, uint64_t slot);
bool dray_nvme_flush(struct dray_ring *ring, uint32_t space, uint64_t slot);

/// What `dray_nvme_deallocate` reads until it completes.
struct dray_nvme_range {
    uint32_t attributes;
    uint32_t count;
    uint64_t first;
};
bool dray_nvme_deallocate(
    struct dray_ring *ring, uint32_t space, const struct dray_nvme_range *range, uint64_t slot);

// Persistent memory: a file in a file system with direct access (DAX), or a DAX device, mapped.

/// Whether a mapping of the open file is the medium itself, without a page cache.
bool dray_file_is_dax(int descriptor);

/// Maps an open file for reading and writing. `synchronous`: what is stored past the processor's
/// caches and fenced is durable (MAP_SYNC); otherwise only fdatasync(2) makes it so. 0 or an errno.
int dray_memory_map(int descriptor, uint64_t size, void **base, bool *synchronous);
/// Maps a file that is open for reading. 0 or an errno.
int dray_memory_map_read_only(int descriptor, uint64_t size, void **base);
void dray_memory_unmap(void *base, uint64_t size);

/// Copies whole blocks to or from a mapping; with `past_caches`, stores go around the processor's
/// caches. Returns `length`, or where in it memory is that cannot be used.
uint64_t dray_memory_copy(void *to, const void *from, uint64_t length, bool past_caches);

/// What was stored past the caches before is durable when what comes after is done.
void dray_memory_fence(void);
