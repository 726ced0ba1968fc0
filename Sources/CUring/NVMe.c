#define _GNU_SOURCE 1
#include "Ring.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/nvme_ioctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

// Opcodes of the base and NVM command set specifications.
enum {
    admin_get_log_page = 0x02,
    admin_identify = 0x06,
    io_flush = 0x00,
    io_write = 0x01,
    io_read = 0x02,
    io_dataset_management = 0x09,
};

enum { log_page_health = 0x02 };
enum { identify_size = 4096, identify_namespace = 0, identify_controller = 1 };
static const uint32_t forced_unit_access = 1u << 30;
static const uint32_t deallocate = 1u << 2;

static uint64_t number(const uint8_t *bytes, unsigned size) {
    uint64_t value = 0;
    for (unsigned i = size; i-- > 0;) value = value << 8 | bytes[i];
    return value;
}

// Copies a field of text without the spaces at its end.
static void text(char *to, const uint8_t *from, unsigned size) {
    while (size > 0 && (from[size - 1] == ' ' || from[size - 1] == 0)) size--;
    for (unsigned i = 0; i < size; i++) to[i] = from[i] >= 32 && from[i] < 127 ? from[i] : '?';
    to[size] = 0;
}

static int identify(int descriptor, uint32_t space, uint32_t what, void *page, int *status) {
    struct nvme_admin_cmd command = {
        .opcode = admin_identify,
        .nsid = space,
        .addr = (uint64_t)(uintptr_t)page,
        .data_len = identify_size,
        .cdw10 = what,
    };
    int result = ioctl(descriptor, NVME_IOCTL_ADMIN_CMD, &command);
    if (result < 0) return errno;
    *status = result;
    return result == 0 ? 0 : EPROTO;
}

int dray_nvme_identify(int descriptor, struct dray_nvme_namespace *space, int *status) {
    memset(space, 0, sizeof *space);
    *status = 0;
    int id = ioctl(descriptor, NVME_IOCTL_ID);
    if (id < 0) return errno;
    uint8_t *page = aligned_alloc(identify_size, identify_size);
    if (page == NULL) return ENOMEM;
    space->number = (uint32_t)id;
    int code = identify(descriptor, (uint32_t)id, identify_namespace, page, status);
    if (code == 0) {
        space->blocks = number(page, 8);
        // Four bits of the format's number, and two more above them.
        unsigned format = (page[26] & 15) | (page[26] >> 1 & 0x30);
        const uint8_t *entry = page + 128 + 4 * format;
        space->metadata_size = (uint32_t)number(entry, 2);
        space->block_size = entry[2] >= 9 && entry[2] <= 16 ? 1u << entry[2] : 0;
        code = identify(descriptor, 0, identify_controller, page, status);
    }
    if (code == 0) {
        text(space->serial, page + 4, 20);
        text(space->model, page + 24, 40);
        // In units of the controller's smallest page, which is 4 KiB or more.
        if (page[77] > 0 && page[77] < 32) space->transfer_max = 4096ull << page[77];
        space->deallocates = page[520] & 4;
        space->volatile_cache = page[525] & 1;
    }
    free(page);
    return code;
}

int dray_nvme_health(int descriptor, uint8_t *page, int *status) {
    memset(page, 0, dray_nvme_health_size);
    *status = 0;
    // Other devices may know a command of the same number.
    if (ioctl(descriptor, NVME_IOCTL_ID) < 0) return errno;
    struct nvme_admin_cmd command = {
        .opcode = admin_get_log_page,
        // Of the whole controller.
        .nsid = 0xffffffff,
        .addr = (uint64_t)(uintptr_t)page,
        .data_len = dray_nvme_health_size,
        // How many words of four bytes, less one.
        .cdw10 = log_page_health | (dray_nvme_health_size / 4 - 1) << 16,
    };
    int result = ioctl(descriptor, NVME_IOCTL_ADMIN_CMD, &command);
    if (result < 0) return errno;
    *status = result;
    return result == 0 ? 0 : EPROTO;
}

static uint64_t queue_number(const char *name, const char *attribute) {
    char path[128], value[32];
    snprintf(path, sizeof path, "/sys/class/block/%s/queue/%s", name, attribute);
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return 0;
    ssize_t count = read(descriptor, value, sizeof value - 1);
    close(descriptor);
    if (count <= 0) return 0;
    value[count] = 0;
    return strtoull(value, NULL, 10);
}

uint64_t dray_nvme_kernel_transfer_max(const char *name) {
    uint64_t bytes = queue_number(name, "max_hw_sectors_kb") << 10;
    // A buffer may lie on as many pages that are no neighbours, and on one more.
    uint64_t segments = queue_number(name, "max_segments");
    uint64_t scattered = segments > 1 ? (segments - 1) * 4096 : 0;
    if (bytes == 0 || scattered == 0) return bytes + scattered;
    return bytes < scattered ? bytes : scattered;
}

// The room for a command behind the entry's common part.
static struct nvme_uring_cmd *prepare(
    struct dray_ring *ring, uint8_t opcode, uint32_t space, const void *buffer, uint32_t length,
    uint64_t slot) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->ring);
    if (sqe == NULL) return NULL;
    memset(sqe, 0, 2 * sizeof *sqe);
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->cmd_op = NVME_URING_CMD_IO;
    finish(sqe, slot);
    struct nvme_uring_cmd *command = (struct nvme_uring_cmd *)sqe->cmd;
    command->opcode = opcode;
    command->nsid = space;
    command->addr = (uint64_t)(uintptr_t)buffer;
    command->data_len = length;
    return command;
}

static bool transfer(
    struct dray_ring *ring, uint8_t opcode, uint32_t space, const void *buffer, uint32_t length,
    uint64_t first, uint32_t count, uint32_t flags, uint64_t slot) {
    struct nvme_uring_cmd *command = prepare(ring, opcode, space, buffer, length, slot);
    if (command == NULL) return false;
    command->cdw10 = (uint32_t)first;
    command->cdw11 = (uint32_t)(first >> 32);
    // Counted from zero, in 16 bits.
    command->cdw12 = (count - 1) | flags;
    return true;
}

bool dray_nvme_read(
    struct dray_ring *ring, uint32_t space, void *buffer, uint32_t length, uint64_t first,
    uint32_t count, uint64_t slot) {
    return transfer(ring, io_read, space, buffer, length, first, count, 0, slot);
}

bool dray_nvme_write(
    struct dray_ring *ring, uint32_t space, const void *buffer, uint32_t length, uint64_t first,
    uint32_t count, bool durable, uint64_t slot) {
    uint32_t flags = durable ? forced_unit_access : 0;
    return transfer(ring, io_write, space, buffer, length, first, count, flags, slot);
}

bool dray_nvme_flush(struct dray_ring *ring, uint32_t space, uint64_t slot) {
    return prepare(ring, io_flush, space, NULL, 0, slot) != NULL;
}

bool dray_nvme_deallocate(
    struct dray_ring *ring, uint32_t space, const struct dray_nvme_range *range, uint64_t slot) {
    struct nvme_uring_cmd *command =
        prepare(ring, io_dataset_management, space, range, sizeof *range, slot);
    if (command == NULL) return false;
    // One range: counted from zero.
    command->cdw10 = 0;
    command->cdw11 = deallocate;
    return true;
}
