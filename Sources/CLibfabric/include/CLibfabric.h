// libfabric as DrayFabric needs it: opening an endpoint of any provider, and the calls of the
// message path, which are inline here because libfabric's own are (they go through tables of
// functions that Swift cannot see).
//
// Names of C types must be unique among all shim targets of the package: Swift keeps one
// description of a type for each name, and would take the size of another target's for this one's.
#pragma once
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/// What a completion reports; the values of `CompletionKind`.
enum { DRAY_SENT = 0, DRAY_RECEIVED = 1, DRAY_READ = 2, DRAY_WRITTEN = 3, DRAY_UNUSED = 4 };

/// The most operations one endpoint has under way; more are told to try again.
#define DRAY_CONTEXTS_MAX 8192u

/// The most completions one poll returns.
#define DRAY_COMPLETIONS_MAX 64

/// Remembers one operation. libfabric owns `provider` while the operation is under way.
struct dray_fabric_context {
    struct fi_context2 provider;
    uint64_t token;
    /// The peer that it is with, and over which of the connections there have been.
    fi_addr_t peer;
    uint32_t generation;
    uint32_t kind;
};

/// One finished operation. `error` is 0 or a positive libfabric error number.
struct dray_fabric_completion {
    uint64_t token;
    uint64_t length;
    uint32_t kind;
    int32_t error;
};

/// The longest name of a shared-memory endpoint: what a socket address holds.
#define DRAY_NAME_MAX 80

/// A peer on shared memory. The provider knows processes, not names that live on in the next
/// process, so the name is looked up again after its holder died.
struct dray_fabric_named_peer {
    /// How often the peer was inserted; 0 when the place is free.
    uint32_t uses;
    /// Whether `address` is the name's holder, as far as was known at `checked`.
    bool resolved;
    uint64_t checked;
    fi_addr_t address;
    /// Our operations with it that have not ended.
    uint32_t pending;
    char name[DRAY_NAME_MAX + 1];
    char file_name[256];
};

/// A peer of a provider that is layered over connections.
struct dray_fabric_peer_state {
    /// How often it was inserted and not removed.
    uint32_t uses;
    /// How often libfabric thinks so.
    uint32_t inserted;
    /// How many connections to it were ended.
    uint32_t generation;
};

/// What fits into one message of the layer over connections, in bytes. What is larger comes in
/// pieces, or is fetched by its receiver, who may no longer have the connection to fetch it over
/// and would use it all the same.
#define DRAY_LAYER_MESSAGE_SIZE "24576"

/// How a process ends in which the shared-memory provider waits for a lock that a killed process
/// has taken with it: EX_TEMPFAIL of sysexits.h.
#define DRAY_STALLED_STATUS 75

/// How much processor time one call of the shared-memory provider may take.
#define DRAY_STALL_MILLISECONDS 3000

/// The most peers that the shared-memory provider knows.
#define DRAY_SHARED_MEMORY_PEERS_MAX 256u

struct dray_fabric_endpoint {
    struct fi_info *info;
    struct fid_fabric *fabric;
    struct fid_domain *domain;
    struct fid_av *peers;
    struct fid_cq *completions;
    /// The wait set of `completions`; NULL where fi_trywait does its work.
    struct fid_wait *wait;
    struct fid_ep *endpoint;
    /// Readable when there is something to do; -1 when the provider has no such thing.
    int wait_descriptor;
    /// Holds the name of a shared-memory endpoint; -1 for other providers.
    int claim_descriptor;
    /// Says that a shared-memory endpoint is open, and is its bell; -1 for other providers.
    int ready_descriptor;
    /// When that was found rung last, or an operation ended last, in coarse time.
    uint64_t stirred;
    /// When the peers of pending operations were rung last, in coarse time.
    uint64_t pending_rung;
    /// The operations with peers that have not ended, on shared memory.
    uint32_t pending;
    /// Of a shared-memory endpoint that is closed: another one, closed before it.
    struct dray_fabric_endpoint *next_kept;
    bool closed;
    uint32_t regions;
    /// Of the contexts those that were ever taken; the memory of the others is not touched.
    uint32_t context_count;
    uint32_t free_count;
    struct dray_fabric_context *contexts;
    uint32_t *free_contexts;
    /// The peers of a shared-memory endpoint; NULL for other providers.
    struct dray_fabric_named_peer *named_peers;
    /// The peers of a layered endpoint, by what libfabric calls them; NULL for other providers.
    struct dray_fabric_peer_state *peer_states;
    uint64_t peer_states_count;
    bool is_layered;
    bool is_verbs;
    /// Odd while the provider of a shared-memory endpoint is at work.
    uint64_t entries;
    /// The name of a shared-memory endpoint, and what the provider calls it.
    char name[DRAY_NAME_MAX + 1];
    char full_name[DRAY_NAME_MAX + 32];
};

/// Opens an endpoint of `provider` on `domain`, bound to `node` and `service` (any may be NULL).
/// For shared memory `node` is the name of the endpoint, and `nonce` tells it from earlier holders
/// of that name. Returns 0 and the endpoint, or a positive error number.
int dray_fabric_open(
    const char *provider, const char *domain, const char *node, const char *service,
    uint64_t nonce, struct dray_fabric_endpoint **result);

/// Closes the endpoint. It is freed with its last region.
void dray_fabric_close(struct dray_fabric_endpoint *endpoint);

/// Removes the shared-memory files of processes that ended without closing their endpoints.
void dray_fabric_sweep_shared_memory(void);

/// The endpoint's own address, for shared memory its name; returns its length (at most `capacity`)
/// or a negative error.
long dray_fabric_address(struct dray_fabric_endpoint *endpoint, void *bytes, size_t capacity);

/// Adds a peer; returns 0 or a positive error number.
int dray_fabric_insert(struct dray_fabric_endpoint *endpoint, const void *address, uint64_t *peer);
void dray_fabric_remove(struct dray_fabric_endpoint *endpoint, uint64_t peer);

/// Takes what has arrived from a peer, and ends the connection to it where the provider lets us.
/// Returns whether it did: then nothing that the peer has begun reaches memory any more that is
/// deregistered next.
bool dray_fabric_disconnect(struct dray_fabric_endpoint *endpoint, uint64_t peer);

/// Rings a shared-memory peer, and finds out who has its name now; 0 or a positive error number.
int dray_fabric_resolve(
    struct dray_fabric_endpoint *endpoint, struct dray_fabric_named_peer *peer);

/// Whether the shared-memory endpoint of that name is open and its process alive. Rings it.
bool dray_fabric_is_open(const struct dray_fabric_endpoint *endpoint, const char *name);

/// Whether the owner of a shared-memory endpoint may sleep until its bell rings: nothing has
/// happened for a while and nothing is under way.
bool dray_fabric_may_sleep(struct dray_fabric_endpoint *endpoint);

/// Rings the peers of what is under way, which would not go on if they slept. `now` is the coarse
/// time.
void dray_fabric_ring_pending(struct dray_fabric_endpoint *endpoint, uint64_t now);

/// A time in some milliseconds, cheaply.
uint64_t dray_fabric_coarse_time(void);

/// Registers memory, if the provider wants that. Returns 0 or a positive error number.
int dray_fabric_register(
    struct dray_fabric_endpoint *endpoint, void *start, size_t length, bool remote_read,
    bool remote_write, uint64_t wished_key, struct fid_mr **region, uint64_t *key,
    uint64_t *remote_address, void **descriptor);
void dray_fabric_deregister(struct dray_fabric_endpoint *endpoint, struct fid_mr *region);

/// How many bytes this process may lock, as some providers do with registered memory; the largest
/// number when there is no limit.
uint64_t dray_fabric_locked_memory_max(void);

/// Fetches one failed operation; returns 1, or 0 when there was none.
int dray_fabric_poll_error(
    struct dray_fabric_endpoint *endpoint, struct dray_fabric_completion *completion);

/// What a provider offers on one interface of the machine, as fi_getinfo tells. The pointers are
/// valid until the list is freed.
struct dray_fabric_offer {
    const char *provider;
    const char *fabric;
    const char *domain;
    /// A socket address when `has_socket_address`, else the provider's own bytes; may be NULL.
    const void *address;
    size_t address_length;
    uint64_t message_size_max;
    /// 1.17 is 1 << 16 | 17.
    uint32_t library_version;
    bool has_socket_address;
    bool is_reliable_datagram;
    bool is_connected;
    bool has_remote_memory;
};

/// Lists all that the providers offer, whether Dray can use it or not. Returns 0 and a list to be
/// freed, or a positive error number.
int dray_fabric_list(struct fi_info **list);
void dray_fabric_free_list(struct fi_info *list);

/// Reads one entry, and returns the one after it; NULL at the end.
struct fi_info *dray_fabric_read_offer(struct fi_info *entry, struct dray_fabric_offer *offer);

/// Whether an endpoint tells by a descriptor that there is something to do.
static inline bool dray_fabric_can_wait(const struct dray_fabric_endpoint *endpoint) {
    return endpoint->wait_descriptor >= 0 || endpoint->ready_descriptor >= 0;
}

/// The largest message in bytes.
uint64_t dray_fabric_message_size_max(const struct dray_fabric_endpoint *endpoint);

/// The words for an error number, which are constant and static.
const char *dray_fabric_error_words(int error);

static inline uint32_t dray_fabric_address_format(const struct dray_fabric_endpoint *endpoint) {
    return endpoint->info->addr_format;
}

/// The most bytes that an RDMA adapter is asked to move at a time. It begins what takes longer than
/// its patience anew, and gives the connection up when that happens too often.
#define DRAY_VERBS_TRANSFER_SIZE_MAX ((uint64_t)1 << 20)

static inline uint64_t dray_fabric_transfer_size_max(const struct dray_fabric_endpoint *endpoint) {
    uint64_t size = endpoint->info->ep_attr->max_msg_size;
    return endpoint->is_verbs && size > DRAY_VERBS_TRANSFER_SIZE_MAX ? DRAY_VERBS_TRANSFER_SIZE_MAX
                                                                      : size;
}

static inline const char *dray_fabric_provider(const struct dray_fabric_endpoint *endpoint) {
    return endpoint->info->fabric_attr->prov_name;
}

static inline struct dray_fabric_context *dray_fabric_take_context(
    struct dray_fabric_endpoint *endpoint, uint64_t token, uint32_t kind) {
    uint32_t index;
    if (endpoint->free_count > 0)
        index = endpoint->free_contexts[--endpoint->free_count];
    else if (endpoint->context_count < DRAY_CONTEXTS_MAX)
        index = endpoint->context_count++;
    else
        return NULL;
    struct dray_fabric_context *context = &endpoint->contexts[index];
    context->token = token;
    context->kind = kind;
    return context;
}

/// A context for an operation with `peer`.
static inline struct dray_fabric_context *dray_fabric_take_context_for(
    struct dray_fabric_endpoint *endpoint, uint64_t token, uint32_t kind, fi_addr_t peer) {
    struct dray_fabric_context *context = dray_fabric_take_context(endpoint, token, kind);
    if (!context) return NULL;
    context->peer = peer;
    if (endpoint->peer_states) {
        context->generation = endpoint->peer_states[peer].generation;
    } else if (endpoint->named_peers) {
        endpoint->named_peers[peer].pending += 1;
        endpoint->pending += 1;
    }
    return context;
}

static inline void dray_fabric_give_context(
    struct dray_fabric_endpoint *endpoint, struct dray_fabric_context *context) {
    if (endpoint->named_peers && context->kind != DRAY_RECEIVED) {
        endpoint->named_peers[context->peer].pending -= 1;
        endpoint->pending -= 1;
    }
    context->kind = DRAY_UNUSED;
    endpoint->free_contexts[endpoint->free_count] = (uint32_t)(context - endpoint->contexts);
    endpoint->free_count += 1;
}

/// The result of a post: 0, or a positive error number after giving the context back.
static inline int dray_fabric_posted(
    struct dray_fabric_endpoint *endpoint, struct dray_fabric_context *context, ssize_t result) {
    if (__builtin_expect(result != 0, 0)) {
        dray_fabric_give_context(endpoint, context);
        return (int)-result;
    }
    return 0;
}

/// The provider begins to work: see `watch` in the implementation. Only the endpoint's own thread
/// writes.
static inline void dray_fabric_enter(struct dray_fabric_endpoint *endpoint) {
    if (endpoint->named_peers)
        __atomic_store_n(&endpoint->entries, endpoint->entries + 1, __ATOMIC_RELEASE);
}

/// The provider has done its work.
static inline void dray_fabric_leave(struct dray_fabric_endpoint *endpoint) {
    dray_fabric_enter(endpoint);
}

static inline int dray_fabric_receive(
    struct dray_fabric_endpoint *endpoint, void *buffer, size_t length, void *descriptor,
    uint64_t token) {
    struct dray_fabric_context *context = dray_fabric_take_context(endpoint, token, DRAY_RECEIVED);
    if (!context) return FI_EAGAIN;
    dray_fabric_enter(endpoint);
    ssize_t result =
        fi_recv(endpoint->endpoint, buffer, length, descriptor, FI_ADDR_UNSPEC, context);
    dray_fabric_leave(endpoint);
    return dray_fabric_posted(endpoint, context, result);
}

/// Turns a peer into what the provider calls it. Returns 0, or FI_ECONNREFUSED when nobody has
/// the peer's name.
static inline int dray_fabric_address_of(
    struct dray_fabric_endpoint *endpoint, uint64_t peer, fi_addr_t *address) {
    if (__builtin_expect(!endpoint->named_peers, 1)) {
        *address = peer;
        return 0;
    }
    struct dray_fabric_named_peer *named = &endpoint->named_peers[peer];
    if (!named->resolved || named->checked != dray_fabric_coarse_time()) {
        int error = dray_fabric_resolve(endpoint, named);
        if (error) return error;
    }
    *address = named->address;
    return 0;
}

static inline int dray_fabric_send(
    struct dray_fabric_endpoint *endpoint, const void *buffer, size_t length, void *descriptor,
    uint64_t peer, uint64_t token) {
    fi_addr_t target;
    int error = dray_fabric_address_of(endpoint, peer, &target);
    if (error) return error;
    struct dray_fabric_context *context =
        dray_fabric_take_context_for(endpoint, token, DRAY_SENT, peer);
    if (!context) return FI_EAGAIN;
    dray_fabric_enter(endpoint);
    ssize_t result = fi_send(endpoint->endpoint, buffer, length, descriptor, target, context);
    dray_fabric_leave(endpoint);
    return dray_fabric_posted(endpoint, context, result);
}

static inline int dray_fabric_read(
    struct dray_fabric_endpoint *endpoint, void *buffer, size_t length, void *descriptor,
    uint64_t peer, uint64_t address, uint64_t key, uint64_t token) {
    fi_addr_t target;
    int error = dray_fabric_address_of(endpoint, peer, &target);
    if (error) return error;
    struct dray_fabric_context *context =
        dray_fabric_take_context_for(endpoint, token, DRAY_READ, peer);
    if (!context) return FI_EAGAIN;
    dray_fabric_enter(endpoint);
    ssize_t result = fi_read(
        endpoint->endpoint, buffer, length, descriptor, target, address, key, context);
    dray_fabric_leave(endpoint);
    return dray_fabric_posted(endpoint, context, result);
}

static inline int dray_fabric_write(
    struct dray_fabric_endpoint *endpoint, const void *buffer, size_t length, void *descriptor,
    uint64_t peer, uint64_t address, uint64_t key, uint64_t token) {
    fi_addr_t target;
    int error = dray_fabric_address_of(endpoint, peer, &target);
    if (error) return error;
    struct dray_fabric_context *context =
        dray_fabric_take_context_for(endpoint, token, DRAY_WRITTEN, peer);
    if (!context) return FI_EAGAIN;
    struct iovec local = {.iov_base = (void *)(uintptr_t)buffer, .iov_len = length};
    struct fi_rma_iov remote = {.addr = address, .len = length, .key = key};
    struct fi_msg_rma message = {
        .msg_iov = &local,
        .desc = &descriptor,
        .iov_count = 1,
        .addr = target,
        .rma_iov = &remote,
        .rma_iov_count = 1,
        .context = context,
    };
    // The bytes must have arrived, not only left.
    dray_fabric_enter(endpoint);
    ssize_t result =
        fi_writemsg(endpoint->endpoint, &message, FI_COMPLETION | FI_DELIVERY_COMPLETE);
    dray_fabric_leave(endpoint);
    return dray_fabric_posted(endpoint, context, result);
}

/// Makes progress and fetches at most DRAY_COMPLETIONS_MAX completions; negative on errors.
static inline int dray_fabric_poll(
    struct dray_fabric_endpoint *endpoint, struct dray_fabric_completion *completions,
    int capacity) {
    struct fi_cq_msg_entry entries[DRAY_COMPLETIONS_MAX];
    uint64_t now = 0;
    if (endpoint->pending > 0) {
        // Peers were rung before, and look for a while: but this thread may have been stopped.
        now = dray_fabric_coarse_time();
        if (endpoint->pending_rung != now) dray_fabric_ring_pending(endpoint, now);
    }
    dray_fabric_enter(endpoint);
    ssize_t count = fi_cq_read(
        endpoint->completions, entries,
        (size_t)(capacity < DRAY_COMPLETIONS_MAX ? capacity : DRAY_COMPLETIONS_MAX));
    dray_fabric_leave(endpoint);
    if (count == -FI_EAGAIN) return 0;
    if (count == -FI_EAVAIL) return dray_fabric_poll_error(endpoint, completions);
    if (count < 0) return (int)count;
    if (endpoint->named_peers) endpoint->stirred = now ? now : dray_fabric_coarse_time();
    int filled = 0;
    for (ssize_t index = 0; index < count; index++) {
        struct dray_fabric_context *context = entries[index].op_context;
        // Some providers report a broken operation twice.
        if (!context || context->kind == DRAY_UNUSED) continue;
        completions[filled].token = context->token;
        completions[filled].kind = context->kind;
        completions[filled].length = context->kind == DRAY_RECEIVED ? entries[index].len : 0;
        completions[filled].error = 0;
        dray_fabric_give_context(endpoint, context);
        filled++;
    }
    return filled;
}

/// Whether the owner may block on `wait_descriptor` now: 0, or FI_EAGAIN when it must poll first.
static inline int dray_fabric_try_wait(struct dray_fabric_endpoint *endpoint) {
    // Timing out at once means that there is nothing, and that stale wake-ups are taken back.
    if (endpoint->wait)
        return fi_wait(endpoint->wait, 0) == -FI_ETIMEDOUT ? 0 : FI_EAGAIN;
    struct fid *fids[1] = {&endpoint->completions->fid};
    return (int)-fi_trywait(endpoint->fabric, fids, 1);
}
