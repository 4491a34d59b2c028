/* PCIe of the GPUs. More lines of the file:
 *
 *   pcie_at GPU MS GEN WIDTH       (the link from MS after the file was read on; before: `pcie`, `pcie_gpu`)
 *   pcie_max GPU GEN WIDTH         (what this GPU and its slot can do together; others: `pcie`)
 *   pcie_errors GPU FIELD PER_S    (94: replays, 95, 173 to 183: of nvmlDeviceGetFieldValues)
 *   pcie_errors_before GPU FIELD N (what had been counted when the file was read)
 */
#include "board.h"

#include <stdio.h>
#include <string.h>

#define STEPS 4
#define FIELDS 13

static struct {
    struct { double from; unsigned generation, width; } steps[GPUS][STEPS];
    unsigned count[GPUS];
    double rate[GPUS][FIELDS];
    unsigned long long before[GPUS][FIELDS];
} pcie;

void start_pcie(void) { memset(&pcie, 0, sizeof pcie); }

static unsigned place(unsigned field) {
    return field == 94 || field == 95 ? field - 94 : field >= 173 && field <= 183 ? field - 171 : FIELDS;
}

int load_pcie(const char *line) {
    unsigned g, a, b;
    unsigned long long count;
    double number;
    if (sscanf(line, "pcie_at %u %lf %u %u", &g, &number, &a, &b) == 4 && g < GPUS && pcie.count[g] < STEPS) {
        pcie.steps[g][pcie.count[g]].from = number;
        pcie.steps[g][pcie.count[g]].generation = a, pcie.steps[g][pcie.count[g]++].width = b;
        return 1;
    }
    if (sscanf(line, "pcie_max %u %u %u", &g, &a, &b) == 3 && g < GPUS)
        return board.pcie[g][2] = a, board.pcie[g][3] = b, 1;
    if (sscanf(line, "pcie_errors %u %u %lf", &g, &a, &number) == 3 && g < GPUS && place(a) < FIELDS)
        return pcie.rate[g][place(a)] = number, 1;
    if (sscanf(line, "pcie_errors_before %u %u %llu", &g, &a, &count) == 3 && g < GPUS && place(a) < FIELDS)
        return pcie.before[g][place(a)] = count, 1;
    return 0;
}

static unsigned long long counted(unsigned g, unsigned where) {
    return pcie.before[g][where] + (unsigned long long)(pcie.rate[g][where] * (now_ms() - board.read_at) / 1e3);
}

int pcie_field(unsigned g, unsigned field, unsigned long long *out) {
    if (place(field) == FIELDS) return 0;
    return *out = counted(g, place(field)), 1;
}

static unsigned now_of(unsigned g, int width) {
    unsigned found = board.pcie[g][width];
    for (unsigned i = 0; i < pcie.count[g]; i++)
        if (now_ms() - board.read_at >= pcie.steps[g][i].from)
            found = width ? pcie.steps[g][i].width : pcie.steps[g][i].generation;
    return found;
}

int nvmlDeviceGetCurrPcieLinkGeneration(void *h, unsigned *out) { ANSWER(*out = now_of(G(h), 0)); }
int nvmlDeviceGetCurrPcieLinkWidth(void *h, unsigned *out) { ANSWER(*out = now_of(G(h), 1)); }
int nvmlDeviceGetMaxPcieLinkGeneration(void *h, unsigned *out) { ANSWER(*out = board.pcie[G(h)][2]); }
int nvmlDeviceGetMaxPcieLinkWidth(void *h, unsigned *out) { ANSWER(*out = board.pcie[G(h)][3]); }
int nvmlDeviceGetPcieReplayCounter(void *h, unsigned *out) { ANSWER(*out = (unsigned)counted(G(h), 0)); }
