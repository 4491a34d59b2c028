/* A stand-in for libnvidia-ml.so.1: answers the calls that the project makes, from a text file.
 *
 * RUNBOOK_STAND_IN_NVML names the file, one `key value…` a line:
 *
 *   driver 580.95.05          count 8              name NVIDIA B200       memory 192265846784
 *   capability 10 0           mig 0                processes 0            power_limit 1000000
 *   clocks 1965 3996          reasons 0            links 18               nvlink_version 5
 *   link_down GPU LINK        link_errors GPU LINK COUNTER VALUE          p2p STATUS
 *   ancestor LEVEL            ancestor_pair A B LEVEL                     numa GPU NODE
 *   fabric STATE STATUS MASK  fabric_gpu GPU STATE STATUS MASK
 *   clique GPU ID             field GPU LINK FIELD VALUE (of nvmlDeviceGetFieldValues; others are not supported)
 *   pcie GEN WIDTH MAXGEN MAXWIDTH                 pcie_gpu GPU GEN WIDTH
 *   temperature 45            energy GPU WATTS SWING PERIOD_MS            energy_wrap GPU AT_MS
 *   energy_stall GPU FROM_MS TO_MS LOSES          energy_lost GPU AT_MS
 *   fail FUNCTION CODE        (FUNCTION * is every call but Init, Shutdown and ErrorString; CODE 9999: no answer, ever)
 *
 * The exported symbol runbook_stand_in_nvml marks it: whatever is read through it is simulated.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define OK 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define DRIVER_NOT_LOADED 9
#define GPUS 16
#define LINKS 36
#define COUNTERS 5
#define FAILS 32
#define NEVER 9999

int runbook_stand_in_nvml = 1;

static struct {
    char driver[80], name[96];
    unsigned count, mig, processes, power_limit, sm_clock, memory_clock, links, nvlink_version, p2p;
    unsigned long long memory, reasons;
    int major, minor;
    unsigned ancestor[GPUS][GPUS];
    unsigned char down[GPUS][LINKS];
    unsigned long long errors[GPUS][LINKS][COUNTERS];
    unsigned fabric_state[GPUS], fabric_status[GPUS], fabric_mask[GPUS], clique[GPUS];
    unsigned pcie[GPUS][4];
    int numa[GPUS];
    struct { char function[64]; int code; } fails[FAILS];
    int fail_count;
    struct { unsigned gpu, link, field; unsigned long long value; } fields[FAILS];
    int field_count;
    unsigned temperature;
    struct { double watts, swing, period, wrap, from, to, lost; int loses; } energy[GPUS];
    double read_at;
} board;

static int load_energy(const char *line) {
    unsigned g;
    double x, y, z;
    int loses;
    if (sscanf(line, "energy %u %lf %lf %lf", &g, &x, &y, &z) == 4 && g < GPUS)
        return board.energy[g].watts = x, board.energy[g].swing = y, board.energy[g].period = z, 1;
    if (sscanf(line, "energy_wrap %u %lf", &g, &x) == 2 && g < GPUS) return board.energy[g].wrap = x, 1;
    if (sscanf(line, "energy_stall %u %lf %lf %d", &g, &x, &y, &loses) == 4 && g < GPUS)
        return board.energy[g].from = x, board.energy[g].to = y, board.energy[g].loses = loses, 1;
    if (sscanf(line, "energy_lost %u %lf", &g, &x) == 2 && g < GPUS) return board.energy[g].lost = x, 1;
    return 0;
}

static double now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static int load(const char *path) {
    char line[256], text[200];
    unsigned a, b, c, d;
    unsigned long long value;
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    memset(&board, 0, sizeof board);
    board.read_at = now_ms();
    for (a = 0; a < GPUS; a++) {
        for (b = 0; b < GPUS; b++) board.ancestor[a][b] = 40;
        board.fabric_state[a] = 3;
        for (b = 0; b < 4; b++) board.pcie[a][b] = b % 2 ? 16 : 5;
    }
    board.sm_clock = board.memory_clock = 1000;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "driver %79s", board.driver) == 1) continue;
        if (sscanf(line, "name %95[^\n]", board.name) == 1) continue;
        if (sscanf(line, "count %u", &board.count) == 1) continue;
        if (sscanf(line, "memory %llu", &board.memory) == 1) continue;
        if (sscanf(line, "capability %d %d", &board.major, &board.minor) == 2) continue;
        if (sscanf(line, "mig %u", &board.mig) == 1) continue;
        if (sscanf(line, "processes %u", &board.processes) == 1) continue;
        if (sscanf(line, "power_limit %u", &board.power_limit) == 1) continue;
        if (sscanf(line, "clocks %u %u", &board.sm_clock, &board.memory_clock) == 2) continue;
        if (sscanf(line, "reasons %llu", &board.reasons) == 1) continue;
        if (sscanf(line, "links %u", &board.links) == 1) continue;
        if (sscanf(line, "nvlink_version %u", &board.nvlink_version) == 1) continue;
        if (sscanf(line, "p2p %u", &board.p2p) == 1) continue;
        if (sscanf(line, "link_down %u %u", &a, &b) == 2 && a < GPUS && b < LINKS) { board.down[a][b] = 1; continue; }
        if (sscanf(line, "link_errors %u %u %u %llu", &a, &b, &c, &value) == 4 && a < GPUS && b < LINKS && c < COUNTERS) {
            board.errors[a][b][c] = value;
            continue;
        }
        if (sscanf(line, "ancestor_pair %u %u %u", &a, &b, &c) == 3 && a < GPUS && b < GPUS) {
            board.ancestor[a][b] = board.ancestor[b][a] = c;
            continue;
        }
        if (sscanf(line, "ancestor %u", &c) == 1) {
            for (a = 0; a < GPUS; a++) for (b = 0; b < GPUS; b++) board.ancestor[a][b] = c;
            continue;
        }
        if (sscanf(line, "fabric_gpu %u %u %u %u", &a, &b, &c, &d) == 4 && a < GPUS) {
            board.fabric_state[a] = b, board.fabric_status[a] = c, board.fabric_mask[a] = d;
            continue;
        }
        if (sscanf(line, "fabric %u %u %u", &b, &c, &d) == 3) {
            for (a = 0; a < GPUS; a++) board.fabric_state[a] = b, board.fabric_status[a] = c, board.fabric_mask[a] = d;
            continue;
        }
        if (sscanf(line, "field %u %u %u %llu", &a, &b, &c, &value) == 4 && board.field_count < FAILS) {
            board.fields[board.field_count].gpu = a, board.fields[board.field_count].link = b;
            board.fields[board.field_count].field = c, board.fields[board.field_count++].value = value;
            continue;
        }
        if (sscanf(line, "clique %u %u", &a, &b) == 2 && a < GPUS) { board.clique[a] = b; continue; }
        if (sscanf(line, "pcie_gpu %u %u %u", &a, &b, &c) == 3 && a < GPUS) {
            board.pcie[a][0] = b, board.pcie[a][1] = c;
            continue;
        }
        if (sscanf(line, "pcie %u %u %u %u", &a, &b, &c, &d) == 4) {
            for (unsigned g = 0; g < GPUS; g++)
                board.pcie[g][0] = a, board.pcie[g][1] = b, board.pcie[g][2] = c, board.pcie[g][3] = d;
            continue;
        }
        if (sscanf(line, "numa %u %u", &a, &b) == 2 && a < GPUS) { board.numa[a] = (int)b; continue; }
        if (sscanf(line, "temperature %u", &board.temperature) == 1) continue;
        if (load_energy(line)) continue;
        if (sscanf(line, "fail %199s %u", text, &a) == 2 && board.fail_count < FAILS) {
            snprintf(board.fails[board.fail_count].function, 64, "%.63s", text);
            board.fails[board.fail_count++].code = (int)a;
            continue;
        }
        if (line[0] != '\n' && line[0] != '#') {
            fprintf(stderr, "stand-in NVML: cannot read %s", line);
            abort();
        }
    }
    fclose(file);
    return 1;
}

static int with(int code) {
    while (code == NEVER) pause();
    return code;
}

static int failing(const char *function) {
    for (int i = 0; i < board.fail_count; i++)
        if (!strcmp(board.fails[i].function, function) || !strcmp(board.fails[i].function, "*"))
            return with(board.fails[i].code);
    return OK;
}

#define ANSWER(...)                       \
    do {                                  \
        int failed = failing(__func__);   \
        if (failed) return failed;        \
        __VA_ARGS__;                      \
        return OK;                        \
    } while (0)

/* A handle is the GPU's index plus one, so that it is never NULL. */
#define G(handle) ((unsigned)((uintptr_t)(handle)-1))

int nvmlInitWithFlags(unsigned flags) {
    const char *path = getenv("RUNBOOK_STAND_IN_NVML");
    (void)flags;
    if (!path || !load(path)) return DRIVER_NOT_LOADED;
    for (int i = 0; i < board.fail_count; i++)
        if (!strcmp(board.fails[i].function, "nvmlInit")) return with(board.fails[i].code);
    return OK;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { (void)code; return "an error of the stand-in"; }

int nvmlSystemGetDriverVersion(char *out, unsigned n) { ANSWER(snprintf(out, n, "%s", board.driver)); }
int nvmlDeviceGetCount_v2(unsigned *out) { ANSWER(*out = board.count); }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **out) {
    if (i >= board.count) return INVALID_ARGUMENT;
    ANSWER(*out = (void *)(uintptr_t)(i + 1));
}
int nvmlDeviceGetName(void *h, char *out, unsigned n) { (void)h; ANSWER(snprintf(out, n, "%s", board.name)); }
int nvmlDeviceGetMemoryInfo(void *h, unsigned long long *out) {
    (void)h;
    ANSWER(out[0] = board.memory, out[1] = board.memory, out[2] = 0);
}
int nvmlDeviceGetCudaComputeCapability(void *h, int *major, int *minor) {
    (void)h;
    ANSWER(*major = board.major, *minor = board.minor);
}
int nvmlDeviceGetClockInfo(void *h, int kind, unsigned *out) {
    (void)h;
    ANSWER(*out = kind == 2 ? board.memory_clock : board.sm_clock);
}
int nvmlDeviceGetEnforcedPowerLimit(void *h, unsigned *out) { (void)h; ANSWER(*out = board.power_limit); }
int nvmlDeviceGetMigMode(void *h, unsigned *now, unsigned *next) { (void)h; ANSWER(*now = *next = board.mig); }
int nvmlDeviceGetCurrentClocksEventReasons(void *h, unsigned long long *out) { (void)h; ANSWER(*out = board.reasons); }
int nvmlDeviceGetComputeRunningProcesses_v3(void *h, unsigned *count, void *out) {
    (void)h;
    if (board.processes == 0) ANSWER(*count = 0);
    if (!out) { *count = board.processes; return 7; /* insufficient size */ }
    ANSWER(memset(out, 0, (size_t)24 * board.processes), *count = board.processes);
}
int nvmlDeviceGetNvLinkState(void *h, unsigned link, unsigned *out) {
    if (link >= board.links) return INVALID_ARGUMENT;
    ANSWER(*out = !board.down[G(h)][link]);
}
int nvmlDeviceGetNvLinkVersion(void *h, unsigned link, unsigned *out) {
    (void)h;
    if (link >= board.links) return INVALID_ARGUMENT;
    ANSWER(*out = board.nvlink_version);
}
int nvmlDeviceGetNvLinkErrorCounter(void *h, unsigned link, unsigned counter, unsigned long long *out) {
    if (link >= board.links || counter >= COUNTERS) return INVALID_ARGUMENT;
    ANSWER(*out = board.errors[G(h)][link][counter]);
}
int nvmlDeviceGetTopologyCommonAncestor(void *a, void *b, unsigned *out) { ANSWER(*out = board.ancestor[G(a)][G(b)]); }
int nvmlDeviceGetP2PStatus(void *a, void *b, unsigned index, unsigned *out) {
    (void)a, (void)b;
    ANSWER(*out = index == 2 && board.links == 0 ? 5 : board.p2p);
}
int nvmlDeviceGetGpuFabricInfoV(void *h, void *out) {
    unsigned char *bytes = out; /* version 4, uuid 16, status 4, clique 4, state 4, mask 4 */
    unsigned g = G(h);
    ANSWER(memcpy(bytes + 20, &board.fabric_status[g], 4), memcpy(bytes + 28, &board.fabric_state[g], 4),
           memcpy(bytes + 32, &board.fabric_mask[g], 4), memcpy(bytes + 24, &board.clique[g], 4));
}
int nvmlDeviceGetCurrPcieLinkGeneration(void *h, unsigned *out) { ANSWER(*out = board.pcie[G(h)][0]); }
int nvmlDeviceGetCurrPcieLinkWidth(void *h, unsigned *out) { ANSWER(*out = board.pcie[G(h)][1]); }
int nvmlDeviceGetMaxPcieLinkGeneration(void *h, unsigned *out) { ANSWER(*out = board.pcie[G(h)][2]); }
int nvmlDeviceGetMaxPcieLinkWidth(void *h, unsigned *out) { ANSWER(*out = board.pcie[G(h)][3]); }
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
        memcpy(&id, item, 4), memcpy(&scope, item + 4, 4);
        for (int f = 0; f < board.field_count; f++)
            if (board.fields[f].gpu == G(h) && board.fields[f].link == scope && board.fields[f].field == id) {
                memcpy(item + 32, &board.fields[f].value, 8);
                answer = OK;
            }
        memcpy(item + 24, &type, 4), memcpy(item + 28, &answer, 4);
    }
    return OK;
}

/* Energy. Power is WATTS + SWING sin(2 pi t / PERIOD), t being CLOCK_MONOTONIC; the counter is its integral in mJ as of
 * the last whole 100 ms. It may start again from 0, stand still for a while (with or without its loss made up afterwards),
 * and be gone from a moment on; these moments are in ms after the file was read. */
#define TICK_MS 100.0
#define LOST 15 /* GPU is lost */

static double integral(unsigned g, double t) {
    double turn = 2 * M_PI / board.energy[g].period;
    return board.energy[g].watts * t - board.energy[g].swing / turn * cos(turn * t);
}

int nvmlDeviceGetTotalEnergyConsumption(void *h, unsigned long long *out) {
    unsigned g = G(h);
    double real = now_ms(), t = floor(real / TICK_MS) * TICK_MS, wrap = board.read_at + board.energy[g].wrap;
    double from = board.read_at + board.energy[g].from, to = board.read_at + board.energy[g].to;
    double value = integral(g, t);
    if (board.energy[g].period <= 0) return NOT_SUPPORTED;
    if (board.energy[g].lost > 0 && real >= board.read_at + board.energy[g].lost) return LOST;
    if (t >= from && t < to) value = integral(g, from);
    else if (t >= to && board.energy[g].loses) value -= integral(g, to) - integral(g, from);
    if (board.energy[g].wrap > 0 && t >= wrap) value -= integral(g, wrap);
    ANSWER(*out = (unsigned long long)value);
}
int nvmlDeviceGetTemperature(void *h, int sensor, unsigned *out) { (void)h, (void)sensor; ANSWER(*out = board.temperature); }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **out) {
    const char *last = strrchr(uuid, '-'); /* GPU-stand-in-3 is GPU 3 */
    if (!last) return INVALID_ARGUMENT;
    return nvmlDeviceGetHandleByIndex_v2((unsigned)atoi(last + 1), out);
}
