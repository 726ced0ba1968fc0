#define _GNU_SOURCE 1
#include "CSharedMemory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

static int result_of(int value) { return value < 0 ? -errno : value; }

/// Closes a descriptor after a call that failed, and gives that call's error.
static int give_up(int descriptor) {
    int error = errno;
    close(descriptor);
    return -error;
}

void dray_shm_allow_peers(void) { prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0); }

static socklen_t address_of(struct sockaddr_un *address, const char *name) {
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    int length =
        snprintf(address->sun_path + 1, sizeof address->sun_path - 1, "dray-shm/%s", name);
    if (length < 0 || (size_t)length >= sizeof address->sun_path - 1) return 0;
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

static int make_socket(void) {
    return result_of(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

int dray_shm_listen(const char *name) {
    struct sockaddr_un address;
    socklen_t size = address_of(&address, name);
    if (size == 0) return -ENAMETOOLONG;
    int descriptor = make_socket();
    if (descriptor < 0) return descriptor;
    if (bind(descriptor, (struct sockaddr *)&address, size) == 0 && listen(descriptor, 1024) == 0)
        return descriptor;
    return give_up(descriptor);
}

int dray_shm_connect(const char *name) {
    struct sockaddr_un address;
    socklen_t size = address_of(&address, name);
    if (size == 0) return -ENAMETOOLONG;
    int descriptor = make_socket();
    if (descriptor < 0) return descriptor;
    if (connect(descriptor, (struct sockaddr *)&address, size) == 0) return descriptor;
    return give_up(descriptor);
}

int dray_shm_accept(int listener) {
    return result_of(accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

int dray_shm_peer(int connection, pid_t *process, uid_t *user) {
    struct ucred credentials;
    socklen_t size = sizeof credentials;
    if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return -errno;
    *process = credentials.pid;
    *user = credentials.uid;
    return 0;
}

int dray_shm_send(
    int connection, const void *message, size_t length, const int *descriptors, int count) {
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int) * DRAY_SHM_DESCRIPTORS_MAX)];
    } control = {0};
    struct iovec part = {.iov_base = (void *)(uintptr_t)message, .iov_len = length};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    header.msg_control = control.bytes;
    header.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
    struct cmsghdr *first = CMSG_FIRSTHDR(&header);
    first->cmsg_level = SOL_SOCKET;
    first->cmsg_type = SCM_RIGHTS;
    first->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
    memcpy(CMSG_DATA(first), descriptors, sizeof(int) * (size_t)count);
    return sendmsg(connection, &header, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

ssize_t dray_shm_receive(
    int connection, void *message, size_t capacity, int *descriptors, int *count) {
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int) * DRAY_SHM_DESCRIPTORS_MAX)];
    } control;
    struct iovec part = {.iov_base = message, .iov_len = capacity};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    header.msg_control = control.bytes;
    header.msg_controllen = sizeof control.bytes;
    *count = 0;
    ssize_t length = recvmsg(connection, &header, MSG_CMSG_CLOEXEC);
    if (length < 0) return -errno;
    for (struct cmsghdr *one = CMSG_FIRSTHDR(&header); one; one = CMSG_NXTHDR(&header, one)) {
        if (one->cmsg_level != SOL_SOCKET || one->cmsg_type != SCM_RIGHTS) continue;
        int found = (int)((one->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(descriptors, CMSG_DATA(one), sizeof(int) * (size_t)found);
        *count = found;
    }
    return length;
}

int dray_shm_make(size_t size) {
    int descriptor = memfd_create("dray-shm", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (descriptor < 0) return -errno;
    if (ftruncate(descriptor, (off_t)size) == 0 &&
        fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        return descriptor;
    return give_up(descriptor);
}

int dray_shm_read_only(int descriptor) {
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    return result_of(open(path, O_RDONLY | O_CLOEXEC));
}

int dray_shm_is_sound(int descriptor, size_t size) {
    int seals = fcntl(descriptor, F_GET_SEALS);
    struct stat status;
    return seals >= 0 && (seals & F_SEAL_SHRINK) && fstat(descriptor, &status) == 0 &&
           status.st_size == (off_t)size;
}

void *dray_shm_map(int descriptor, size_t size, int is_writable) {
    int protection = is_writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *start = mmap(NULL, size, protection, MAP_SHARED, descriptor, 0);
    return start == MAP_FAILED ? NULL : start;
}

void *dray_shm_map_ring(int descriptor, size_t head, size_t size) {
    size_t total = head + 2 * size;
    char *start = mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return NULL;
    int protection = PROT_READ | PROT_WRITE;
    int flags = MAP_SHARED | MAP_FIXED;
    bool is_mapped =
        mmap(start, head + size, protection, flags, descriptor, 0) != MAP_FAILED &&
        mmap(start + head + size, size, protection, flags, descriptor, (off_t)head) != MAP_FAILED;
    if (is_mapped) return start;
    munmap(start, total);
    return NULL;
}

void dray_shm_unmap(void *start, size_t length) { munmap(start, length); }

ssize_t dray_shm_read(pid_t process, void *local, uint64_t remote, size_t length) {
    struct iovec ours = {.iov_base = local, .iov_len = length};
    struct iovec theirs = {.iov_base = (void *)(uintptr_t)remote, .iov_len = length};
    ssize_t count = process_vm_readv(process, &ours, 1, &theirs, 1, 0);
    return count < 0 ? -errno : count;
}

ssize_t dray_shm_write(pid_t process, const void *local, uint64_t remote, size_t length) {
    struct iovec ours = {.iov_base = (void *)(uintptr_t)local, .iov_len = length};
    struct iovec theirs = {.iov_base = (void *)(uintptr_t)remote, .iov_len = length};
    ssize_t count = process_vm_writev(process, &ours, 1, &theirs, 1, 0);
    return count < 0 ? -errno : count;
}

int dray_shm_make_set(void) { return result_of(epoll_create1(EPOLL_CLOEXEC)); }

int dray_shm_add(int set, int descriptor, uint64_t token) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.u64 = token};
    return result_of(epoll_ctl(set, EPOLL_CTL_ADD, descriptor, &event));
}

int dray_shm_ready(int set, uint64_t *tokens, int capacity) {
    struct epoll_event events[64];
    int count = epoll_wait(set, events, capacity < 64 ? capacity : 64, 0);
    if (count < 0) return errno == EINTR ? 0 : -errno;
    for (int index = 0; index < count; index++) tokens[index] = events[index].data.u64;
    return count;
}

int dray_shm_make_bell(void) { return result_of(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }

void dray_shm_ring(int bell) {
    uint64_t one = 1;
    // A full counter has rung long ago.
    ssize_t unused = write(bell, &one, sizeof one);
    (void)unused;
}

void dray_shm_silence(int bell) {
    uint64_t count;
    ssize_t unused = read(bell, &count, sizeof count);
    (void)unused;
}

void dray_shm_close(int descriptor) { close(descriptor); }
