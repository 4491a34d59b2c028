/* The wiring: NVLink, fabric, PCI. A link of a board without NVLink is not supported, one beyond the last is invalid. */
#include "board.h"

#include <stdio.h>
#include <string.h>

#define P2P_NVLINK 2
#define P2P_NOT_SUPPORTED 5
#define IS_GPU 0
#define BUS(gpu) (0x1b + 8 * (gpu))

static int no_link(const char *function, unsigned link) {
    int failed = failing(function);
    if (failed) return failed;
    if (!board.links) return NOT_SUPPORTED;
    return link >= board.links ? INVALID_ARGUMENT : OK;
}
#define NEEDS_LINK(link)                             \
    do {                                             \
        int missing = no_link(__func__, link);       \
        if (missing) return missing;                 \
    } while (0)

/* NVLinks of a split GPU are switched off, and a bond ends at both ends. */
static int is_up(unsigned gpu, unsigned link) {
    if (board.mig || board.down[gpu][link]) return 0;
    return !board.switchless || board.peer[gpu][link] != NOBODY || board.remote_kind != 2;
}

int nvmlDeviceGetNvLinkState(void *h, unsigned link, unsigned *out) {
    NEEDS_LINK(link);
    ANSWER(*out = (unsigned)is_up(G(h), link));
}
int nvmlDeviceGetNvLinkVersion(void *h, unsigned link, unsigned *out) {
    (void)h;
    NEEDS_LINK(link);
    ANSWER(*out = board.nvlink_version);
}
int nvmlDeviceGetNvLinkErrorCounter(void *h, unsigned link, unsigned counter, unsigned long long *out) {
    NEEDS_LINK(link);
    if (counter >= COUNTERS) return INVALID_ARGUMENT;
    if (board.counters == 2) return NOT_SUPPORTED;
    ANSWER(*out = board.counters ? 0 : board.errors[G(h)][link][counter] + port_moved(G(h), link, counter));
}
int nvmlDeviceGetNvLinkRemoteDeviceType(void *h, unsigned link, unsigned *out) {
    NEEDS_LINK(link);
    if (!is_up(G(h), link)) return NOT_SUPPORTED;
    ANSWER(*out = board.peer[G(h)][link] == NOBODY ? board.remote_kind : IS_GPU);
}

/* PCI: old bus id 16, domain, bus, device, device id, subsystem id 4 each, bus id 32. */
static void pci(unsigned char *out, unsigned bus) {
    memset(out, 0, 68);
    snprintf((char *)out, 16, "0000:%02X:00.0", bus);
    memcpy(out + 20, &bus, 4);
    snprintf((char *)out + 36, 32, "00000000:%02X:00.0", bus);
}
int nvmlDeviceGetPciInfo_v3(void *h, void *out) { ANSWER(pci(out, BUS(G(h)))); }
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *h, unsigned link, void *out) {
    NEEDS_LINK(link);
    if (!is_up(G(h), link)) return NOT_SUPPORTED;
    ANSWER(pci(out, board.peer[G(h)][link] == NOBODY ? 0xf0 : BUS(board.peer[G(h)][link])));
}

static int joined(unsigned a, unsigned b) {
    if (!board.switchless) return board.links > 0;
    for (unsigned link = 0; link < board.links; link++)
        if (board.peer[a][link] == b && is_up(a, link)) return 1;
    return 0;
}
int nvmlDeviceGetP2PStatus(void *a, void *b, unsigned index, unsigned *out) {
    ANSWER(*out = board.mig || (index == P2P_NVLINK && !joined(G(a), G(b))) ? P2P_NOT_SUPPORTED : board.p2p);
}
int nvmlDeviceGetTopologyCommonAncestor(void *a, void *b, unsigned *out) { ANSWER(*out = board.ancestor[G(a)][G(b)]); }

/* Version 4, cluster 16, status 4, clique 4, state 4, mask 4, and from version 3 a summary. The caller states its version,
 * with the size of its struct in the low bytes. */
int nvmlDeviceGetGpuFabricInfoV(void *h, void *out) {
    unsigned char *bytes = out;
    unsigned g = G(h), version;
    int failed = failing(__func__);
    if (failed) return failed;
    memcpy(&version, bytes, 4);
    if (version >> 24 > board.fabric_version || (version & 0xffffff) != (version >> 24 == 2 ? 36u : 40u))
        return VERSION_MISMATCH;
    ANSWER(memcpy(bytes + 20, &board.fabric_status[g], 4), memcpy(bytes + 28, &board.fabric_state[g], 4),
           memcpy(bytes + 32, &board.fabric_mask[g], 4), memcpy(bytes + 24, &board.clique[g], 4));
}

int nvmlDeviceGetMemoryAffinity(void *h, unsigned words, unsigned long *out, unsigned scope) {
    int failed = failing(__func__);
    if (failed || words == 0 || scope != 0) return failed ? failed : INVALID_ARGUMENT;
    memset(out, 0, words * sizeof *out);
    out[board.numa[G(h)] / 64] |= 1UL << (board.numa[G(h)] % 64);
    return OK;
}

/* NVLink counts of newer boards. A field value: id 4, scope 4, timestamp 8, latency 8, type 4, return 4, value 8. */
int nvmlDeviceGetFieldValues(void *h, int n, void *out) {
    int failed = failing(__func__);
    if (failed) return failed;
    for (int i = 0; i < n; i++) {
        unsigned char *item = (unsigned char *)out + 40 * i;
        unsigned id, scope, type = 3 /* unsigned long long */, answer = NOT_SUPPORTED;
        unsigned long long value;
        memcpy(&id, item, 4), memcpy(&scope, item + 4, 4);
        if (memory_field(G(h), id, &value) || port_field(G(h), scope, id, &value) || clocks_field(G(h), id, &value) ||
            pcie_field(G(h), id, &value))
            memcpy(item + 32, &value, 8), answer = OK;
        for (int f = 0; f < board.field_count; f++)
            if (board.fields[f].gpu == G(h) && board.fields[f].link == scope && board.fields[f].field == id) {
                memcpy(item + 32, &board.fields[f].value, 8);
                answer = OK;
            }
        memcpy(item + 24, &type, 4), memcpy(item + 28, &answer, 4);
    }
    return OK;
}
