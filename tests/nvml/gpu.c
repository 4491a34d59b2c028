/* A stand-in for libnvidia-ml.so.1: answers the calls that the project makes, from a text file (board.c).
 *
 * The exported symbol runbook_stand_in_nvml marks it: whatever is read through it is simulated.
 */
#include "board.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int runbook_stand_in_nvml = 1;

int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { (void)code; return "an error of the stand-in"; }

int nvmlSystemGetDriverVersion(char *out, unsigned n) { ANSWER(snprintf(out, n, "%s", board.driver)); }
int nvmlDeviceGetCount_v2(unsigned *out) { ANSWER(*out = board.count); }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **out) {
    if (i >= board.count) return INVALID_ARGUMENT;
    if (board.off_bus[i]) return GPU_IS_LOST;
    int failed = opening(i);
    if (failed) return failed;
    ANSWER(*out = HANDLE(i, 0));
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **out) {
    const char *last = strrchr(uuid, '-'); /* GPU-stand-in-3 is GPU 3 */
    if (!last) return INVALID_ARGUMENT;
    return nvmlDeviceGetHandleByIndex_v2((unsigned)atoi(last + 1), out);
}
int nvmlDeviceGetUUID(void *h, char *out, unsigned n) {
    if (PLACE(h)) ANSWER(snprintf(out, n, "MIG-stand-in-%u-%u", G(h), PLACE(h) - 1));
    ANSWER(snprintf(out, n, "GPU-stand-in-%u", G(h)));
}
int nvmlDeviceGetName(void *h, char *out, unsigned n) { (void)h; ANSWER(snprintf(out, n, "%s", board.name)); }
int nvmlDeviceGetMemoryInfo(void *h, unsigned long long *out) {
    unsigned long long total = PLACE(h) ? board.instance[G(h)][PLACE(h) - 1] : board.memory;
    ANSWER(out[0] = total, out[1] = total, out[2] = 0);
}
int nvmlDeviceGetCudaComputeCapability(void *h, int *major, int *minor) {
    (void)h;
    ANSWER(*major = board.major, *minor = board.minor);
}
int nvmlDeviceGetClockInfo(void *h, int kind, unsigned *out) {
    ANSWER(*out = kind == 2 ? board.memory_clock : sm_clock_of(G(h)));
}
int nvmlDeviceGetEnforcedPowerLimit(void *h, unsigned *out) { ANSWER(*out = enforced_limit_of(G(h))); }
int nvmlDeviceGetUtilizationRates(void *h, unsigned *out) { ANSWER(out[0] = board.utilisation[G(h)], out[1] = 0); }
int nvmlDeviceGetPowerUsage(void *h, unsigned *out) { ANSWER(*out = board.power[G(h)]); }
int nvmlDeviceGetCurrentClocksEventReasons(void *h, unsigned long long *out) { ANSWER(*out = reasons_of(G(h))); }
int nvmlDeviceGetTemperature(void *h, int sensor, unsigned *out) { (void)sensor; ANSWER(*out = temperature_of(G(h))); }
int nvmlDeviceGetComputeMode(void *h, unsigned *out) { ANSWER(*out = board.compute_mode[G(h)]); }

/* A process: pid 4 and 4 of padding, memory 8, GPU instance 4, compute instance 4. */
int nvmlDeviceGetComputeRunningProcesses_v3(void *h, unsigned *count, void *out) {
    int failed = failing(__func__);
    unsigned g = G(h), there = board.processes + !!board.holder[g], room = *count, at = there;
    for (unsigned i = 0; i < board.context_count; i++) there += board.contexts[i].gpu == g;
    if (failed) return failed;
    *count = there;
    if (room < there || (there && !out)) return INSUFFICIENT_SIZE;
    if (there) memset(out, 0, (size_t)24 * there);
    if (board.holder[g]) memcpy((char *)out + (size_t)24 * board.processes, &board.holder[g], 4);
    for (unsigned i = 0; i < board.context_count; i++) {
        if (board.contexts[i].gpu != g) continue;
        memcpy((char *)out + (size_t)24 * at, &board.contexts[i].pid, 4);
        memcpy((char *)out + (size_t)24 * at++ + 8, &board.contexts[i].bytes, 8);
    }
    return OK;
}
int nvmlSystemGetProcessName(unsigned pid, char *out, unsigned n) {
    for (unsigned g = 0; g < GPUS; g++)
        if (pid && board.holder[g] == pid) ANSWER(snprintf(out, n, "%s", board.holder_name[g]));
    return NOT_FOUND;
}

/* MIG came with compute capability 8.0. */
int nvmlDeviceGetMigMode(void *h, unsigned *now, unsigned *next) {
    (void)h;
    if (board.major < 8) return NOT_SUPPORTED;
    ANSWER(*now = *next = board.mig);
}
int nvmlDeviceGetMaxMigDeviceCount(void *h, unsigned *out) { (void)h; ANSWER(*out = board.mig ? INSTANCES - 1 : 0); }
int nvmlDeviceGetMigDeviceHandleByIndex(void *h, unsigned place, void **out) {
    if (place >= board.instances[G(h)]) return NOT_FOUND;
    ANSWER(*out = HANDLE(G(h), place + 1));
}
int nvmlDeviceGetGpuInstanceId(void *h, unsigned *out) {
    if (!PLACE(h)) return INVALID_ARGUMENT;
    ANSWER(*out = PLACE(h) + 6); /* ids of GPU instances seldom begin at 0 */
}
int nvmlDeviceGetComputeInstanceId(void *h, unsigned *out) {
    if (!PLACE(h)) return INVALID_ARGUMENT;
    ANSWER(*out = 0);
}
