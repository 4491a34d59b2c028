/* Memory: ECC, remapped rows, retired pages, recovery action. Lines:
 *
 *   memory_kind KIND           (of all GPUs: 0 none of it, 1 ECC and page retirement, as on V100, 2 ECC and row remapping,
 *                              as on A100, 3 also the recovery action and repairs, as with newer drivers, 4 remapped rows
 *                              that are all 0 and no ECC, as on GeForce boards)
 *   ecc_mode GPU CURRENT PENDING                   ecc GPU TYPE COUNTER LOCATION N (types, counters, locations of NVML)
 *   ecc_rate GPU TYPE LOCATION PER_S               remapped GPU COR UNC PENDING FAILURE
 *   remapped_rate GPU COR_PER_S UNC_PER_S          banks GPU MAX HIGH PARTIAL LOW NONE
 *   sram GPU THRESHOLD         sram_closed (no permission, as without root)
 *   retired GPU SINGLE DOUBLE PENDING              recovery GPU ACTION
 *   repair GPU CHANNEL TPC BANK                    unrepairable GPU
 *
 * Rates are per second since the file was read. On a split GPU nothing but the mode and the recovery action is told.
 */
#include "board.h"

#include <stdio.h>
#include <string.h>

#define NO_PERMISSION 4
#define TYPES 2
#define SCOPES 2
#define LOCATIONS 8
#define SRAM_VERSION 0x1000068u
#define RECOVERY_FIELD 230

static struct {
    unsigned kind, sram_closed, mode[GPUS][2], remapped[GPUS][4], banks[GPUS][5], threshold[GPUS], retired[GPUS][3];
    unsigned recovery[GPUS], repair[GPUS][3], unrepairable[GPUS];
    unsigned long long ecc[GPUS][TYPES][SCOPES][LOCATIONS];
    double ecc_rate[GPUS][TYPES][LOCATIONS], remapped_rate[GPUS][2];
} m;

void start_memory(void) {
    memset(&m, 0, sizeof m);
    for (unsigned g = 0; g < GPUS; g++) m.mode[g][0] = m.mode[g][1] = 1, m.banks[g][0] = 2560;
}

int load_memory(const char *line) {
    unsigned g, a, b, c, d, e;
    unsigned long long n;
    double x, y;
    if (sscanf(line, "memory_kind %u", &m.kind) == 1) return 1;
    if (!strncmp(line, "sram_closed", 11)) return m.sram_closed = 1;
    if (sscanf(line, "ecc_mode %u %u %u", &g, &a, &b) == 3 && g < GPUS) return m.mode[g][0] = a, m.mode[g][1] = b, 1;
    if (sscanf(line, "ecc %u %u %u %u %llu", &g, &a, &b, &c, &n) == 5 && g < GPUS && a < TYPES && b < SCOPES && c < LOCATIONS)
        return m.ecc[g][a][b][c] = n, 1;
    if (sscanf(line, "ecc_rate %u %u %u %lf", &g, &a, &c, &x) == 4 && g < GPUS && a < TYPES && c < LOCATIONS)
        return m.ecc_rate[g][a][c] = x, 1;
    if (sscanf(line, "remapped %u %u %u %u %u", &g, &a, &b, &c, &d) == 5 && g < GPUS)
        return m.remapped[g][0] = a, m.remapped[g][1] = b, m.remapped[g][2] = c, m.remapped[g][3] = d, 1;
    if (sscanf(line, "remapped_rate %u %lf %lf", &g, &x, &y) == 3 && g < GPUS)
        return m.remapped_rate[g][0] = x, m.remapped_rate[g][1] = y, 1;
    if (sscanf(line, "banks %u %u %u %u %u %u", &g, &a, &b, &c, &d, &e) == 6 && g < GPUS)
        return m.banks[g][0] = a, m.banks[g][1] = b, m.banks[g][2] = c, m.banks[g][3] = d, m.banks[g][4] = e, 1;
    if (sscanf(line, "sram %u %u", &g, &a) == 2 && g < GPUS) return m.threshold[g] = a, 1;
    if (sscanf(line, "retired %u %u %u %u", &g, &a, &b, &c) == 4 && g < GPUS)
        return m.retired[g][0] = a, m.retired[g][1] = b, m.retired[g][2] = c, 1;
    if (sscanf(line, "recovery %u %u", &g, &a) == 2 && g < GPUS) return m.recovery[g] = a, 1;
    if (sscanf(line, "repair %u %u %u %u", &g, &a, &b, &c) == 4 && g < GPUS)
        return m.repair[g][0] = a, m.repair[g][1] = b, m.repair[g][2] = c, 1;
    if (sscanf(line, "unrepairable %u", &g) == 1 && g < GPUS) return m.unrepairable[g] = 1;
    return 0;
}

static unsigned long long since_read(double per_second) {
    return (unsigned long long)(per_second * (now_ms() - board.read_at) / 1e3);
}
static int has_ecc(void) { return m.kind && m.kind != 4; }
static int counts(unsigned g) { return has_ecc() && m.mode[g][0] && !board.mig; }
static int remaps(void) { return m.kind >= 2 && !board.mig; }
#define NEEDS(condition)                             \
    do {                                             \
        int refused = failing(__func__);             \
        if (refused) return refused;                 \
        if (!(condition)) return NOT_SUPPORTED;      \
    } while (0)

int nvmlDeviceGetEccMode(void *h, unsigned *now, unsigned *next) {
    NEEDS(has_ecc());
    return *now = m.mode[G(h)][0], *next = m.mode[G(h)][1], OK;
}
static unsigned long long errors(unsigned g, unsigned type, unsigned scope, unsigned place) {
    return m.ecc[g][type][scope][place] + since_read(m.ecc_rate[g][type][place]);
}
int nvmlDeviceGetTotalEccErrors(void *h, unsigned type, unsigned scope, unsigned long long *out) {
    NEEDS(counts(G(h)) && type < TYPES && scope < SCOPES);
    for (unsigned place = *out = 0; place < LOCATIONS; place++) *out += errors(G(h), type, scope, place);
    return OK;
}
int nvmlDeviceGetMemoryErrorCounter(void *h, unsigned type, unsigned scope, unsigned place, unsigned long long *out) {
    NEEDS(counts(G(h)) && type < TYPES && scope < SCOPES && place < LOCATIONS);
    return *out = errors(G(h), type, scope, place), OK;
}
/* Version 4 and 4 of padding, 11 counters of 8 each, the flag 4, and 4 of padding. */
int nvmlDeviceGetSramEccErrorStatus(void *h, void *out) {
    unsigned version;
    NEEDS(m.kind >= 2 && m.kind != 4 && !board.mig);
    memcpy(&version, out, 4);
    if (version != SRAM_VERSION) return VERSION_MISMATCH;
    if (m.sram_closed) return NO_PERMISSION;
    memset((char *)out + 8, 0, 96);
    memcpy((char *)out + 96, &m.threshold[G(h)], 4);
    return OK;
}
int nvmlDeviceGetRemappedRows(void *h, unsigned *cor, unsigned *unc, unsigned *pending, unsigned *failure) {
    unsigned g = G(h);
    NEEDS(remaps());
    *cor = m.remapped[g][0] + (unsigned)since_read(m.remapped_rate[g][0]);
    *unc = m.remapped[g][1] + (unsigned)since_read(m.remapped_rate[g][1]);
    return *pending = m.remapped[g][2], *failure = m.remapped[g][3], OK;
}
int nvmlDeviceGetRowRemapperHistogram(void *h, void *out) {
    NEEDS(remaps());
    return memcpy(out, m.banks[G(h)], sizeof m.banks[0]), OK;
}
int nvmlDeviceGetRetiredPagesPendingStatus(void *h, unsigned *out) {
    NEEDS(m.kind == 1);
    return *out = m.retired[G(h)][2], OK;
}
int nvmlDeviceGetRetiredPages(void *h, unsigned cause, unsigned *count, unsigned long long *out) {
    unsigned room, there;
    NEEDS(m.kind == 1);
    if (cause > 1) return INVALID_ARGUMENT;
    room = *count, *count = there = m.retired[G(h)][cause];
    if (room < there || (there && !out)) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < there; i++) out[i] = 0x1000ull * (i + 1);
    return OK;
}
/* Version 4, channel 4, TPC 4. */
int nvmlDeviceGetRepairStatus(void *h, unsigned *out) {
    NEEDS(m.kind == 3);
    if (out[0] != 0x100000Cu) return VERSION_MISMATCH;
    return out[1] = m.repair[G(h)][0], out[2] = m.repair[G(h)][1], OK;
}
/* Active 4, inactive 4, pending 4, groups with spare banks 4, groups without 4. */
int nvmlDeviceGetBankRemapperStatus_v1(void *h, unsigned *out) {
    NEEDS(m.kind == 3);
    return memset(out, 0, 20), out[2] = m.repair[G(h)][2], OK;
}
int nvmlDeviceGetUnrepairableMemoryFlag_v1(void *h, unsigned *out) {
    NEEDS(m.kind == 3);
    if (out[0] != 0x1000008u) return VERSION_MISMATCH;
    return out[1] = m.unrepairable[G(h)], OK;
}
int memory_field(unsigned g, unsigned field, unsigned long long *out) {
    if (field != RECOVERY_FIELD || m.kind != 3) return 0;
    return *out = m.recovery[g], 1;
}
