// What the shared-memory fabric asks of Linux: memory that processes share by descriptor, sockets
// that hand descriptors over and end with their process, and the memory of other processes.
//
// All calls return a negative error number on failure.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/// Descriptors that one message hands over.
#define DRAY_SHM_DESCRIPTORS_MAX 4

/// Lets processes of the same user read and write this one's memory, which some kernels
/// (`kernel.yama.ptrace_scope` 1) allow to none but parents otherwise.
void dray_shm_allow_peers(void);

/// Takes `name` in the abstract namespace of sockets, which the kernel gives back when the process
/// ends in whatever way, and listens there.
int dray_shm_listen(const char *name);

/// A connection to whoever has `name`; -ECONNREFUSED when nobody has, -EAGAIN when too many wait.
int dray_shm_connect(const char *name);

/// The next connection of a listening socket.
int dray_shm_accept(int listener);

/// Who is at the other end of a connection, as the kernel knows: its process, 0 if that is none of
/// this process's namespace, and its user.
int dray_shm_peer(int connection, pid_t *process, uid_t *user);

/// Sends one message with descriptors; 0 when it is out.
int dray_shm_send(
    int connection, const void *message, size_t length, const int *descriptors, int count);

/// The next message, of at most `capacity` bytes, and its descriptors, which the caller closes.
/// Returns the length; 0 when the other end is closed.
ssize_t dray_shm_receive(
    int connection, void *message, size_t capacity, int *descriptors, int *count);

/// New memory of `size` bytes, all zero, whose size nobody can change any more.
int dray_shm_make(size_t size);

/// A descriptor of the same memory through which it can only be read.
int dray_shm_read_only(int descriptor);

/// Whether a descriptor that came from elsewhere is memory of `size` bytes for good: 1 or 0.
int dray_shm_is_sound(int descriptor, size_t size);

/// Maps `size` bytes; NULL on failure.
void *dray_shm_map(int descriptor, size_t size, int is_writable);

/// Maps `head` bytes, and behind them `size` bytes twice in a row, so that what wraps around is in
/// one piece; NULL on failure. Unmap `head + 2 * size` bytes.
void *dray_shm_map_ring(int descriptor, size_t head, size_t size);

void dray_shm_unmap(void *start, size_t length);

/// Copies another process's memory to ours, or ours to the other's. Returns how many bytes.
ssize_t dray_shm_read(pid_t process, void *local, uint64_t remote, size_t length);
ssize_t dray_shm_write(pid_t process, const void *local, uint64_t remote, size_t length);

/// A set of descriptors that is itself one to wait for.
int dray_shm_make_set(void);
int dray_shm_add(int set, int descriptor, uint64_t token);

/// What is ready in the set, without waiting. Returns how many tokens.
int dray_shm_ready(int set, uint64_t *tokens, int capacity);

/// A bell: a descriptor that is readable from when it was rung until that is taken back.
int dray_shm_make_bell(void);
void dray_shm_ring(int bell);
void dray_shm_silence(int bell);

void dray_shm_close(int descriptor);
