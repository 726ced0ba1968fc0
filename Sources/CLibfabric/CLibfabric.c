#define _GNU_SOURCE 1
#include "CLibfabric.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static bool is_shared_memory(const char *provider) { return strcmp(provider, "shm") == 0; }

/// Whether the provider is one for RDMA adapters.
static bool is_verbs(const char *provider) { return strncmp(provider, "verbs", 5) == 0; }

const char *dray_fabric_error_words(int error) { return fi_strerror(error); }

/// The address of a socket in the abstract namespace; returns its size, or 0 when the name is too
/// long.
static socklen_t abstract_address(
    struct sockaddr_un *address, const char *purpose, const char *name) {
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    int length = snprintf(
        address->sun_path + 1, sizeof address->sun_path - 1, "dray-%s/%s", purpose, name);
    if (length < 0 || (size_t)length >= sizeof address->sun_path - 1) return 0;
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

/// Takes the name of a shared-memory endpoint for this process: a socket in the abstract
/// namespace, which the kernel releases when the process ends in whatever way.
static int claim(const char *purpose, const char *name) {
    struct sockaddr_un address;
    socklen_t size = abstract_address(&address, purpose, name);
    if (size == 0) return -ENAMETOOLONG;
    int descriptor = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0) return -errno;
    if (bind(descriptor, (struct sockaddr *)&address, size) != 0) {
        int error = errno;
        close(descriptor);
        return -error;
    }
    return descriptor;
}

/// Who has this one has the name: it is taken before the endpoint is opened.
static int claim_name(const char *name) { return claim("fabric", name); }

/// Who has this one can be written to: it is taken when the endpoint is open. It is the bell of
/// the endpoint, too.
static int claim_readiness(const char *name) { return claim("fabric-ready", name); }

/// Rings the endpoint of that name. Returns whether it is open and its process alive.
static bool ring(const struct dray_fabric_endpoint *endpoint, const char *name) {
    struct sockaddr_un address;
    socklen_t size = abstract_address(&address, "fabric-ready", name);
    if (size == 0) return false;
    if (sendto(
            endpoint->ready_descriptor, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL,
            (struct sockaddr *)&address, size) == 1)
        return true;
    // Nobody has the name; or else it was rung often enough.
    return errno != ECONNREFUSED;
}

bool dray_fabric_is_open(const struct dray_fabric_endpoint *endpoint, const char *name) {
    return ring(endpoint, name);
}

#define FILE_PREFIX "dray."
#define NONCE_DIGITS 16

/// Reads `dray.NAME.NONCE`; false when `file` is something else.
static bool name_of_file(const char *file, char *name, size_t capacity) {
    size_t length = strlen(file), prefix = strlen(FILE_PREFIX);
    if (length < prefix + 1 + 1 + NONCE_DIGITS || strncmp(file, FILE_PREFIX, prefix) != 0)
        return false;
    const char *nonce = file + length - NONCE_DIGITS;
    if (nonce[-1] != '.' || strspn(nonce, "0123456789abcdef") != NONCE_DIGITS) return false;
    size_t size = length - prefix - 1 - NONCE_DIGITS;
    if (size >= capacity) return false;
    memcpy(name, file + prefix, size);
    name[size] = 0;
    return true;
}

/// Finds the file of `name`.
static bool find_file(const char *name, char *file, size_t capacity) {
    DIR *directory = opendir("/dev/shm");
    if (!directory) return false;
    bool result = false;
    struct dirent *entry;
    while ((entry = readdir(directory))) {
        char found[160];
        if (!name_of_file(entry->d_name, found, sizeof found)) continue;
        if (strcmp(found, name) != 0 || strlen(entry->d_name) >= capacity) continue;
        strcpy(file, entry->d_name);
        result = true;
    }
    closedir(directory);
    return result;
}

void dray_fabric_sweep_shared_memory(void) {
    DIR *directory = opendir("/dev/shm");
    if (!directory) return;
    struct dirent *entry;
    while ((entry = readdir(directory))) {
        char name[160];
        if (!name_of_file(entry->d_name, name, sizeof name)) continue;
        // A file is there only while its name is claimed: whoever gets the claim knows that the
        // owner is dead.
        int claim = claim_name(name);
        if (claim < 0) continue;
        shm_unlink(entry->d_name);
        close(claim);
    }
    closedir(directory);
}

/// Removes what killed processes left under our name, which we have claimed.
static void remove_stale_files(const char *name) {
    char file[256];
    for (int round = 0; round < 64 && find_file(name, file, sizeof file); round++)
        if (shm_unlink(file) != 0) return;
}

uint64_t dray_fabric_coarse_time(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

int dray_fabric_resolve(
    struct dray_fabric_endpoint *endpoint, struct dray_fabric_named_peer *peer) {
    peer->checked = dray_fabric_coarse_time();
    if (!ring(endpoint, peer->name)) {
        // Not to be touched again: its holder may have died with a lock in its memory.
        peer->resolved = false;
        return FI_ECONNREFUSED;
    }
    char file[256];
    if (peer->resolved) {
        struct stat status;
        snprintf(file, sizeof file, "/dev/shm/%s", peer->file_name);
        if (stat(file, &status) == 0) return 0;
        peer->resolved = false;
    }
    if (!find_file(peer->name, file, sizeof file)) return FI_ECONNREFUSED;
    // The former holder stays known to the provider, which would give its place, with its state,
    // to the next.
    fi_addr_t address = FI_ADDR_NOTAVAIL;
    dray_fabric_enter(endpoint);
    int count = fi_av_insert(endpoint->peers, file, 1, &address, 0, NULL);
    dray_fabric_leave(endpoint);
    if (count != 1) return FI_ENOMEM;
    strcpy(peer->file_name, file);
    peer->address = address;
    peer->resolved = true;
    return 0;
}

// The shared-memory provider has nothing to wait on, so its endpoints have bells. Who does anything
// with a peer rings it first, once for each tick of the coarse clock, and learns by that whether it
// lives; who was rung, or has had anything to do, looks for a while, and then sleeps until the bell
// rings. A tick is 10 ms at most, and whoever was stopped between the bell and what he does rings
// again; so does, in each tick, whoever has an operation that has not ended, for the peer may have
// to take part in it. So nothing comes to a sleeper without the bell.

/// How long an endpoint is looked at after it was rung: much longer than a tick.
#define STIRRED_MILLISECONDS 50

bool dray_fabric_may_sleep(struct dray_fabric_endpoint *endpoint) {
    uint64_t now = dray_fabric_coarse_time();
    char byte;
    while (recv(endpoint->ready_descriptor, &byte, 1, MSG_DONTWAIT) >= 0) endpoint->stirred = now;
    return endpoint->pending == 0 && now >= endpoint->stirred + STIRRED_MILLISECONDS;
}

void dray_fabric_ring_pending(struct dray_fabric_endpoint *endpoint, uint64_t now) {
    endpoint->pending_rung = now;
    for (uint32_t index = 0; index < DRAY_SHARED_MEMORY_PEERS_MAX; index++) {
        struct dray_fabric_named_peer *peer = &endpoint->named_peers[index];
        if (peer->pending > 0 && peer->checked != now) ring(endpoint, peer->name);
    }
}

// The shared-memory provider takes spin locks in memory that processes share. One that is killed
// while it has such a lock never gives it back, and whoever wants it next spins for ever, inside
// the provider, where nothing can be done about it. A process that does nothing any more, and seems
// to live, is worse than one that has ended: that is noticed, and started again with new memory. So
// a thread looks whether a call of the provider takes so much processor time as none does.

#define WATCHED_MAX 1024
#define WATCH_PAUSE 250000 /* microseconds */

/// One endpoint that is looked after.
struct watched {
    const struct dray_fabric_endpoint *endpoint;
    /// Measures the processor time of the endpoint's thread.
    clockid_t clock;
    /// What was seen last, and the time when that was new.
    uint64_t entries;
    uint64_t since;
};

static pthread_mutex_t watch_lock = PTHREAD_MUTEX_INITIALIZER;
static struct watched watched[WATCHED_MAX];
static bool watching;

static uint64_t milliseconds(clockid_t clock) {
    struct timespec time;
    if (clock_gettime(clock, &time) != 0) return 0;
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

static void look_after(struct watched *place) {
    uint64_t entries = __atomic_load_n(&place->endpoint->entries, __ATOMIC_ACQUIRE);
    uint64_t now = milliseconds(place->clock);
    if (entries != place->entries || entries % 2 == 0) {
        place->entries = entries;
        place->since = now;
    } else if (now >= place->since + DRAY_STALL_MILLISECONDS) {
        dprintf(
            STDERR_FILENO,
            "dray: ofi+shm://%s: a process that was killed has left shared memory locked; this one "
            "can only end\n",
            place->endpoint->name);
        _exit(DRAY_STALLED_STATUS);
    }
}

static void *watch(void *argument) {
    (void)argument;
    while (true) {
        usleep(WATCH_PAUSE);
        pthread_mutex_lock(&watch_lock);
        for (int index = 0; index < WATCHED_MAX; index++)
            if (watched[index].endpoint) look_after(&watched[index]);
        pthread_mutex_unlock(&watch_lock);
    }
    return NULL;
}

/// Looks after an endpoint of the calling thread from now on.
static int begin_watch(const struct dray_fabric_endpoint *endpoint) {
    pthread_mutex_lock(&watch_lock);
    int error = FI_ENOSPC;
    for (int index = 0; index < WATCHED_MAX && error == FI_ENOSPC; index++) {
        if (watched[index].endpoint) continue;
        error = pthread_getcpuclockid(pthread_self(), &watched[index].clock);
        if (!error) watched[index].endpoint = endpoint;
    }
    if (!error && !watching) {
        pthread_t thread;
        error = pthread_create(&thread, NULL, watch, NULL);
        if (!error) pthread_detach(thread);
        watching = !error;
    }
    pthread_mutex_unlock(&watch_lock);
    return error;
}

static void end_watch(const struct dray_fabric_endpoint *endpoint) {
    pthread_mutex_lock(&watch_lock);
    for (int index = 0; index < WATCHED_MAX; index++)
        if (watched[index].endpoint == endpoint) watched[index].endpoint = NULL;
    pthread_mutex_unlock(&watch_lock);
}

/// Others hold the claim of a name for a moment when they look whether anybody has it: longer where
/// they are interrupted in that moment.
#define CLAIM_ATTEMPTS 250
#define CLAIM_PAUSE 1000 /* microseconds */

/// What libfabric reads once, before it does anything else, unless the user has said otherwise.
static void set_defaults(void) {
    // The layer over RDMA adapters makes one completion queue for all connections of an endpoint,
    // of so many times this many entries (1,024) that small adapters refuse it. It is no limit to
    // the number of peers: what finds no room in the queue is told to try again.
    setenv("FI_UNIVERSE_SIZE", "128", 0);
    // The layer over connections cuts larger messages into pieces, and libfabric 1.17 runs round in
    // circles, for ever, when a connection ends before the last piece is there. So what we send
    // fits into one.
    setenv("FI_OFI_RXM_BUFFER_SIZE", DRAY_LAYER_MESSAGE_SIZE, 0);
    setenv("FI_OFI_RXM_SAR_LIMIT", DRAY_LAYER_MESSAGE_SIZE, 0);
    // Receives that all connections share: the memory they take, which RDMA adapters lock, does not
    // grow with the peers. Memory comes in blocks of 1,024; the other half of the first one takes
    // the place of receives whose messages nobody has taken yet. Whoever finds none free waits.
    setenv("FI_OFI_RXM_USE_SRX", "1", 0);
    setenv("FI_OFI_RXM_MSG_RX_SIZE", "512", 0);
    // A registration would live on in a cache after its end, and a part of memory that is
    // registered already would get the key, and the rights, of the whole.
    setenv("FI_MR_CACHE_MAX_COUNT", "0", 0);
    // The only way to end a connection: see `renew`.
    setenv("FI_AV_REMOVE_CLEANUP", "1", 0);
}

/// Before the first call of libfabric.
static void set_up(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, set_defaults);
}

/// Registered memory is locked: lets this process lock as much as it may.
static void raise_locked_memory_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_MEMLOCK, &limit);
}

uint64_t dray_fabric_locked_memory_max(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return UINT64_MAX;
    return limit.rlim_cur;
}

static struct fi_info *make_hints(const char *provider) {
    struct fi_info *hints = fi_allocinfo();
    if (!hints) return NULL;
    hints->caps = FI_MSG | FI_RMA | FI_READ | FI_WRITE | FI_SEND | FI_RECV | FI_REMOTE_READ |
                  FI_REMOTE_WRITE;
    hints->mode = FI_CONTEXT | FI_CONTEXT2;
    hints->ep_attr->type = FI_EP_RDM;
    hints->domain_attr->threading = FI_THREAD_DOMAIN;
    hints->domain_attr->control_progress = FI_PROGRESS_MANUAL;
    hints->domain_attr->data_progress = FI_PROGRESS_MANUAL;
    hints->domain_attr->resource_mgmt = FI_RM_ENABLED;
    hints->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY;
    // With virtual addresses the shared-memory provider reads and writes the peer's memory
    // directly and looks at no key. Without, the peer checks.
    if (is_shared_memory(provider)) hints->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_ALLOCATED;
    // Without an address to listen on: any that IPv4 has.
    if (is_verbs(provider)) hints->addr_format = FI_SOCKADDR_IN;
    hints->fabric_attr->prov_name = strdup(provider);
    return hints;
}

/// Leaves the first entry that is on `domain`: not every provider looks at the hint.
static int choose_domain(struct fi_info **info, const char *domain) {
    struct fi_info *chosen = NULL;
    for (struct fi_info *entry = *info; entry && !chosen; entry = entry->next)
        if (strcmp(entry->domain_attr->name, domain) == 0) chosen = fi_dupinfo(entry);
    fi_freeinfo(*info);
    *info = chosen;
    return chosen ? 0 : -FI_ENODATA;
}

static int find_provider(
    const char *provider, const char *domain, const char *node, const char *service,
    struct fi_info **info) {
    struct fi_info *hints = make_hints(provider);
    if (!hints) return FI_ENOMEM;
    if (domain) hints->domain_attr->name = strdup(domain);
    uint64_t flags = node || service ? FI_SOURCE : 0;
    set_up();
    if (is_verbs(provider)) raise_locked_memory_limit();
    uint32_t version = FI_VERSION(FI_MAJOR_VERSION, FI_MINOR_VERSION);
    int result = fi_getinfo(version, node, service, flags, hints, info);
    if (result == -FI_ENODATA && is_verbs(provider) && node) {
        // It says the same of ports that are taken, of foreign addresses and without an adapter.
        if (fi_getinfo(version, node, NULL, flags, hints, info) == 0) result = -FI_EADDRINUSE;
        else if (fi_getinfo(version, NULL, NULL, 0, hints, info) == 0) result = -FI_EADDRNOTAVAIL;
        if (result != -FI_ENODATA) fi_freeinfo(*info);
        *info = NULL;
    }
    if (result == 0 && domain) result = choose_domain(info, domain);
    fi_freeinfo(hints);
    return -result;
}

uint64_t dray_fabric_message_size_max(const struct dray_fabric_endpoint *endpoint) {
    uint64_t size = endpoint->info->ep_attr->max_msg_size;
    if (!endpoint->is_verbs) return size;
    const char *text = getenv("FI_OFI_RXM_BUFFER_SIZE");
    uint64_t whole = text ? strtoull(text, NULL, 10) : 0;
    return whole > 0 && whole < size ? whole : size;
}

int dray_fabric_list(struct fi_info **list) {
    set_up();
    int result = fi_getinfo(
        FI_VERSION(FI_MAJOR_VERSION, FI_MINOR_VERSION), NULL, NULL, 0, NULL, list);
    return -result;
}

void dray_fabric_free_list(struct fi_info *list) { fi_freeinfo(list); }

struct fi_info *dray_fabric_read_offer(struct fi_info *entry, struct dray_fabric_offer *offer) {
    *offer = (struct dray_fabric_offer){
        .provider = entry->fabric_attr->prov_name,
        .fabric = entry->fabric_attr->name,
        .domain = entry->domain_attr->name,
        .address = entry->src_addr,
        .address_length = entry->src_addr ? entry->src_addrlen : 0,
        .message_size_max = entry->ep_attr->max_msg_size,
        .library_version = fi_version(),
        .has_socket_address = entry->addr_format == FI_SOCKADDR ||
                              entry->addr_format == FI_SOCKADDR_IN ||
                              entry->addr_format == FI_SOCKADDR_IN6,
        .is_reliable_datagram = entry->ep_attr->type == FI_EP_RDM,
        .is_connected = entry->ep_attr->type == FI_EP_MSG,
        .has_remote_memory = entry->caps & FI_RMA,
    };
    return entry->next;
}

/// Whether the provider is the native one for TCP. Its fi_trywait does nothing, so its wait
/// descriptor, once readable, would stay so; a wait set of our own takes wake-ups back.
static bool has_idle_trywait(const struct dray_fabric_endpoint *endpoint) {
    const char *provider = endpoint->info->fabric_attr->prov_name;
    return strcmp(provider, "net") == 0 || strcmp(provider, "tcp") == 0;
}

static int open_completions(struct dray_fabric_endpoint *endpoint) {
    struct fi_cq_attr attributes = {
        .size = 4096,
        .format = FI_CQ_FORMAT_MSG,
        .wait_obj = FI_WAIT_FD,
    };
    struct fi_wait_attr wait_attributes = {.wait_obj = FI_WAIT_FD};
    if (has_idle_trywait(endpoint) &&
        fi_wait_open(endpoint->fabric, &wait_attributes, &endpoint->wait) == 0) {
        attributes.wait_obj = FI_WAIT_SET;
        attributes.wait_set = endpoint->wait;
    }
    int result = fi_cq_open(endpoint->domain, &attributes, &endpoint->completions, NULL);
    if (result == 0) {
        result = fi_control(&endpoint->completions->fid, FI_GETWAIT, &endpoint->wait_descriptor);
        if (result == 0) return 0;
        fi_close(&endpoint->completions->fid);
        endpoint->completions = NULL;
    }
    if (endpoint->wait) fi_close(&endpoint->wait->fid);
    endpoint->wait = NULL;
    endpoint->wait_descriptor = -1;
    attributes.wait_obj = FI_WAIT_NONE;
    attributes.wait_set = NULL;
    return -fi_cq_open(endpoint->domain, &attributes, &endpoint->completions, NULL);
}

static int open_objects(struct dray_fabric_endpoint *endpoint) {
    int result = fi_fabric(endpoint->info->fabric_attr, &endpoint->fabric, NULL);
    if (result) return -result;
    result = fi_domain(endpoint->fabric, endpoint->info, &endpoint->domain, NULL);
    if (result) return -result;
    struct fi_av_attr attributes = {.type = endpoint->info->domain_attr->av_type};
    result = fi_av_open(endpoint->domain, &attributes, &endpoint->peers, NULL);
    if (result) return -result;
    result = open_completions(endpoint);
    if (result) return result;
    result = fi_endpoint(endpoint->domain, endpoint->info, &endpoint->endpoint, NULL);
    if (result) return -result;
    if (endpoint->claim_descriptor >= 0) {
        remove_stale_files(endpoint->name);
        result = fi_setname(
            &endpoint->endpoint->fid, endpoint->full_name, strlen(endpoint->full_name) + 1);
        if (result) return -result;
    }
    result = fi_ep_bind(endpoint->endpoint, &endpoint->peers->fid, 0);
    if (result) return -result;
    result = fi_ep_bind(
        endpoint->endpoint, &endpoint->completions->fid, FI_TRANSMIT | FI_RECV);
    if (result) return -result;
    result = fi_enable(endpoint->endpoint);
    if (result || !endpoint->named_peers) return -result;
    endpoint->ready_descriptor = claim_readiness(endpoint->name);
    return endpoint->ready_descriptor < 0 ? -endpoint->ready_descriptor : begin_watch(endpoint);
}

static void close_fid(struct fid *fid) {
    if (fid) fi_close(fid);
}

static void free_endpoint(struct dray_fabric_endpoint *endpoint) {
    if (endpoint->domain) close_fid(&endpoint->domain->fid);
    if (endpoint->fabric) close_fid(&endpoint->fabric->fid);
    if (endpoint->info) fi_freeinfo(endpoint->info);
    free(endpoint->named_peers);
    free(endpoint->peer_states);
    free(endpoint->contexts);
    free(endpoint->free_contexts);
    free(endpoint);
}

static void close_objects(struct dray_fabric_endpoint *endpoint) {
    if (endpoint->endpoint) close_fid(&endpoint->endpoint->fid);
    if (endpoint->completions) close_fid(&endpoint->completions->fid);
    if (endpoint->wait) close_fid(&endpoint->wait->fid);
    if (endpoint->peers) close_fid(&endpoint->peers->fid);
    endpoint->wait = NULL;
    endpoint->endpoint = NULL;
    endpoint->completions = NULL;
    endpoint->peers = NULL;
}

static int prepare(
    struct dray_fabric_endpoint *endpoint, const char *provider, const char *domain,
    const char *node, const char *service, uint64_t nonce) {
    endpoint->contexts = calloc(DRAY_CONTEXTS_MAX, sizeof *endpoint->contexts);
    endpoint->free_contexts = calloc(DRAY_CONTEXTS_MAX, sizeof *endpoint->free_contexts);
    if (!endpoint->contexts || !endpoint->free_contexts) return FI_ENOMEM;
    if (is_shared_memory(provider)) {
        if (!node || strlen(node) > DRAY_NAME_MAX) return FI_EINVAL;
        strcpy(endpoint->name, node);
        snprintf(
            endpoint->full_name, sizeof endpoint->full_name, FILE_PREFIX "%s.%016llx", node,
            (unsigned long long)nonce);
        endpoint->named_peers = calloc(
            DRAY_SHARED_MEMORY_PEERS_MAX, sizeof *endpoint->named_peers);
        if (!endpoint->named_peers) return FI_ENOMEM;
        for (int attempt = 0; attempt < CLAIM_ATTEMPTS; attempt++) {
            endpoint->claim_descriptor = claim_name(endpoint->name);
            if (endpoint->claim_descriptor != -EADDRINUSE) break;
            usleep(CLAIM_PAUSE);
        }
        if (endpoint->claim_descriptor < 0) return -endpoint->claim_descriptor;
        node = endpoint->full_name;
    }
    endpoint->is_layered = strstr(provider, "ofi_rxm") != NULL;
    endpoint->is_verbs = is_verbs(provider);
    return find_provider(provider, domain, node, service, &endpoint->info);
}

int dray_fabric_open(
    const char *provider, const char *domain, const char *node, const char *service,
    uint64_t nonce, struct dray_fabric_endpoint **result) {
    struct dray_fabric_endpoint *endpoint = calloc(1, sizeof *endpoint);
    if (!endpoint) return FI_ENOMEM;
    endpoint->wait_descriptor = -1;
    endpoint->claim_descriptor = -1;
    endpoint->ready_descriptor = -1;
    int error = prepare(endpoint, provider, domain, node, service, nonce);
    if (!error) error = open_objects(endpoint);
    if (error) {
        if (endpoint->named_peers) end_watch(endpoint);
        close_objects(endpoint);
        if (endpoint->ready_descriptor >= 0) close(endpoint->ready_descriptor);
        if (endpoint->claim_descriptor >= 0) close(endpoint->claim_descriptor);
        free_endpoint(endpoint);
        return error;
    }
    *result = endpoint;
    return 0;
}

/// Takes the posted receives back, and lets what has begun come to an end. The layer over RDMA
/// adapters would fetch large messages into them over connections that it has just closed.
static void settle(struct dray_fabric_endpoint *endpoint) {
    for (uint32_t index = 0; index < endpoint->context_count; index++)
        if (endpoint->contexts[index].kind == DRAY_RECEIVED)
            fi_cancel(&endpoint->endpoint->fid, &endpoint->contexts[index]);
    struct dray_fabric_completion completions[DRAY_COMPLETIONS_MAX];
    for (int round = 0, idle = 0; round < 2 * (int)DRAY_CONTEXTS_MAX && idle < 3; round++)
        idle = dray_fabric_poll(endpoint, completions, DRAY_COMPLETIONS_MAX) == 0 ? idle + 1 : 0;
}

/// Endpoints that are closed and stay in memory: whoever looks for leaks finds them here.
static _Atomic(struct dray_fabric_endpoint *) kept_endpoints;

static void keep(struct dray_fabric_endpoint *endpoint) {
    endpoint->next_kept = atomic_load(&kept_endpoints);
    while (!atomic_compare_exchange_weak(&kept_endpoints, &endpoint->next_kept, endpoint)) {
    }
}

void dray_fabric_close(struct dray_fabric_endpoint *endpoint) {
    endpoint->closed = true;
    if (endpoint->named_peers) {
        // The shared-memory provider never forgets the regions of its own process: other endpoints
        // of the process would write to unmapped memory. So the region stays, without its file.
        end_watch(endpoint);
        close(endpoint->ready_descriptor);
        shm_unlink(endpoint->full_name);
        close(endpoint->claim_descriptor);
        keep(endpoint);
        return;
    }
    if (endpoint->is_verbs) settle(endpoint);
    close_objects(endpoint);
    if (endpoint->regions == 0) free_endpoint(endpoint);
}

long dray_fabric_address(struct dray_fabric_endpoint *endpoint, void *bytes, size_t capacity) {
    size_t length = capacity;
    if (endpoint->named_peers) {
        length = strlen(endpoint->name);
        memcpy(bytes, endpoint->name, length);
        return (long)length;
    }
    int result = fi_getname(&endpoint->endpoint->fid, bytes, &length);
    if (result) return result;
    return length <= capacity ? (long)length : -FI_ETOOSMALL;
}

static int insert_name(
    struct dray_fabric_endpoint *endpoint, const char *name, uint64_t *peer) {
    struct dray_fabric_named_peer *unused = NULL;
    for (uint32_t index = 0; index < DRAY_SHARED_MEMORY_PEERS_MAX; index++) {
        struct dray_fabric_named_peer *place = &endpoint->named_peers[index];
        if (strcmp(place->name, name) == 0) {
            unused = place;
            break;
        }
        if (!place->name[0] && !unused) unused = place;
    }
    if (!unused) return FI_ENOMEM;
    // A name keeps its place for good, as it does with the provider.
    strcpy(unused->name, name);
    unused->uses += 1;
    *peer = (uint64_t)(unused - endpoint->named_peers);
    return 0;
}

/// Makes room for the state of `peer`.
static int reserve_state(struct dray_fabric_endpoint *endpoint, uint64_t peer) {
    if (peer < endpoint->peer_states_count) return 0;
    if (peer >= UINT32_MAX / 2) return FI_ENOMEM;
    uint64_t count = peer < 64 ? 64 : peer * 2;
    struct dray_fabric_peer_state *states =
        realloc(endpoint->peer_states, count * sizeof *endpoint->peer_states);
    if (!states) return FI_ENOMEM;
    memset(
        states + endpoint->peer_states_count, 0,
        (count - endpoint->peer_states_count) * sizeof *states);
    endpoint->peer_states = states;
    endpoint->peer_states_count = count;
    return 0;
}

int dray_fabric_insert(
    struct dray_fabric_endpoint *endpoint, const void *address, uint64_t *peer) {
    if (endpoint->named_peers) return insert_name(endpoint, address, peer);
    fi_addr_t result = FI_ADDR_NOTAVAIL;
    int count = fi_av_insert(endpoint->peers, address, 1, &result, 0, NULL);
    if (count < 0) return -count;
    if (count != 1 || result == FI_ADDR_NOTAVAIL) return FI_EADDRNOTAVAIL;
    if (endpoint->is_layered) {
        int error = reserve_state(endpoint, result);
        if (error) {
            fi_av_remove(endpoint->peers, &result, 1, 0);
            return error;
        }
        endpoint->peer_states[result].uses += 1;
        endpoint->peer_states[result].inserted += 1;
    }
    *peer = result;
    return 0;
}

/// Ends the connection to a peer, which stays known: the next operation makes another one. Returns
/// whether it did.
///
/// A failed operation leaves the queue of an RDMA connection in a state in which everything else
/// fails too, and libfabric 1.17 does nothing about that.
static bool renew(struct dray_fabric_endpoint *endpoint, fi_addr_t peer) {
    endpoint->peer_states[peer].generation += 1;
    uint8_t address[256];
    size_t length = sizeof address;
    if (fi_av_lookup(endpoint->peers, peer, address, &length) != 0 || length > sizeof address)
        return false;
    // Known once more, and once less: only the latter ends the connection.
    fi_addr_t again = FI_ADDR_NOTAVAIL;
    if (fi_av_insert(endpoint->peers, address, 1, &again, 0, NULL) != 1) return false;
    fi_av_remove(endpoint->peers, &again, 1, 0);
    return true;
}

bool dray_fabric_disconnect(struct dray_fabric_endpoint *endpoint, uint64_t peer) {
    // Without room for completions, which stay for the next poll: only progress.
    dray_fabric_enter(endpoint);
    fi_cq_read(endpoint->completions, NULL, 0);
    dray_fabric_leave(endpoint);
    return endpoint->is_layered && renew(endpoint, peer);
}

void dray_fabric_remove(struct dray_fabric_endpoint *endpoint, uint64_t peer) {
    if (endpoint->named_peers) {
        endpoint->named_peers[peer].uses -= 1;
        return;
    }
    fi_addr_t address = peer;
    if (endpoint->is_layered) {
        // Each removal ends the connection, which others may still use.
        struct dray_fabric_peer_state *state = &endpoint->peer_states[peer];
        state->uses -= 1;
        if (state->uses > 0) return;
        for (; state->inserted > 1; state->inserted--)
            fi_av_remove(endpoint->peers, &address, 1, 0);
        state->inserted = 0;
        state->generation += 1;
    }
    fi_av_remove(endpoint->peers, &address, 1, 0);
}

int dray_fabric_register(
    struct dray_fabric_endpoint *endpoint, void *start, size_t length, bool remote_read,
    bool remote_write, uint64_t wished_key, struct fid_mr **region, uint64_t *key,
    uint64_t *remote_address, void **descriptor) {
    int mode = endpoint->info->domain_attr->mr_mode;
    *region = NULL;
    *key = 0;
    *descriptor = NULL;
    *remote_address = mode & FI_MR_VIRT_ADDR ? (uint64_t)(uintptr_t)start : 0;
    // Memory for local use only concerns few providers.
    if (!remote_read && !remote_write && !(mode & FI_MR_LOCAL)) {
        endpoint->regions += 1;
        return 0;
    }
    uint64_t access = FI_SEND | FI_RECV | FI_READ | FI_WRITE;
    if (remote_read) access |= FI_REMOTE_READ;
    if (remote_write) access |= FI_REMOTE_WRITE;
    size_t key_size = endpoint->info->domain_attr->mr_key_size;
    if (mode & FI_MR_PROV_KEY) wished_key = 0;
    else if (key_size < 8) wished_key &= ((uint64_t)1 << (8 * key_size)) - 1;
    int result = fi_mr_reg(
        endpoint->domain, start, length, access, 0, wished_key, 0, region, NULL);
    if (result) return -result;
    *key = fi_mr_key(*region);
    if (mode & FI_MR_LOCAL) *descriptor = fi_mr_desc(*region);
    endpoint->regions += 1;
    return 0;
}

void dray_fabric_deregister(struct dray_fabric_endpoint *endpoint, struct fid_mr *region) {
    if (region) fi_close(&region->fid);
    endpoint->regions -= 1;
    if (endpoint->closed && !endpoint->named_peers && endpoint->regions == 0)
        free_endpoint(endpoint);
}

int dray_fabric_poll_error(
    struct dray_fabric_endpoint *endpoint, struct dray_fabric_completion *completion) {
    struct fi_cq_err_entry entry = {0};
    ssize_t count = fi_cq_readerr(endpoint->completions, &entry, 0);
    if (count != 1) return 0;
    struct dray_fabric_context *context = entry.op_context;
    if (!context || context->kind == DRAY_UNUSED) return 0;
    completion->token = context->token;
    completion->kind = context->kind;
    completion->length = 0;
    completion->error = entry.err > 0 ? entry.err : FI_EIO;
    // What was under way on a connection that was ended since says nothing of its successor.
    if (endpoint->is_verbs && context->kind != DRAY_RECEIVED &&
        endpoint->peer_states[context->peer].uses > 0 &&
        endpoint->peer_states[context->peer].generation == context->generation)
        renew(endpoint, context->peer);
    dray_fabric_give_context(endpoint, context);
    return 1;
}
