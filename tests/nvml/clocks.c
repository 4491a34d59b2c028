/* Clocks, temperatures, power limits and the time for which clocks were held back. Lines of the file:
 *
 *   reasons_at GPU MS BITS       (nvmlClocksEventReasons from MS after the file was read on; before: `reasons`)
 *   sm_clock_at GPU MS MHZ       (the SM clock from then on; before: `clocks`)
 *   max_clocks SM MEMORY         (MHz; without it the maximum is the current clock of `clocks`)
 *   violation GPU WHAT NS_PER_S  (WHAT: a policy of nvmlDeviceGetViolationStatus, or a field of 269 to 271)
 *   violation_before GPU WHAT NS (what had been counted when the file was read)
 *   violation_fields 0           (the fields are not supported; the calls are)
 *   violations 0                 (neither is)
 *   limits GPU DEFAULT MIN MAX   limit GPU SET ENFORCED    (mW; without them all are `power_limit`)
 *   temp GPU CORE MEMORY         threshold WHICH CELSIUS   margin GPU N
 *   app_clock GPU NOW DEFAULT    (MHz)
 */
#include "board.h"

#include <stdio.h>
#include <string.h>

#define STEPS 8
#define COUNTS 16
#define THRESHOLDS 8

struct steps { unsigned count; double from[STEPS]; unsigned long long value[STEPS]; };
static struct {
    struct steps reasons[GPUS], sm[GPUS];
    unsigned max_sm, max_memory, no_fields, no_calls, threshold[THRESHOLDS];
    double rate[GPUS][COUNTS];
    unsigned long long before[GPUS][COUNTS];
    unsigned standard[GPUS], least[GPUS], most[GPUS], set[GPUS], enforced[GPUS], has_margin[GPUS];
    unsigned core[GPUS], memory[GPUS], app_now[GPUS], app_default[GPUS];
    int margin[GPUS];
} clocks;

void start_clocks(void) { memset(&clocks, 0, sizeof clocks); }

/* Policies 0 to 11 count under their numbers; fields 269 to 271 after them. */
static unsigned place(unsigned what) { return what >= 269 && what <= 271 ? what - 269 + 12 : what < 12 ? what : COUNTS; }

static int add(struct steps *steps, double from, unsigned long long value) {
    if (steps->count == STEPS) return 0;
    steps->from[steps->count] = from, steps->value[steps->count++] = value;
    return 1;
}
static unsigned long long at(const struct steps *steps, unsigned long long before) {
    double now = now_ms() - board.read_at;
    for (unsigned i = 0; i < steps->count; i++) if (now >= steps->from[i]) before = steps->value[i];
    return before;
}

static int load_limits(const char *line) {
    unsigned g, a, b, c;
    int n;
    if (sscanf(line, "limits %u %u %u %u", &g, &a, &b, &c) == 4 && g < GPUS)
        return clocks.standard[g] = a, clocks.least[g] = b, clocks.most[g] = c, 1;
    if (sscanf(line, "limit %u %u %u", &g, &a, &b) == 3 && g < GPUS)
        return clocks.set[g] = a, clocks.enforced[g] = b, 1;
    if (sscanf(line, "temp %u %u %u", &g, &a, &b) == 3 && g < GPUS) return clocks.core[g] = a, clocks.memory[g] = b, 1;
    if (sscanf(line, "threshold %u %u", &a, &b) == 2 && a < THRESHOLDS) return clocks.threshold[a] = b, 1;
    if (sscanf(line, "margin %u %d", &g, &n) == 2 && g < GPUS) return clocks.margin[g] = n, clocks.has_margin[g] = 1;
    if (sscanf(line, "app_clock %u %u %u", &g, &a, &b) == 3 && g < GPUS)
        return clocks.app_now[g] = a, clocks.app_default[g] = b, 1;
    return 0;
}

int load_clocks(const char *line) {
    unsigned g, what, off;
    unsigned long long value;
    double from;
    if (sscanf(line, "reasons_at %u %lf %llu", &g, &from, &value) == 3 && g < GPUS)
        return add(&clocks.reasons[g], from, value);
    if (sscanf(line, "sm_clock_at %u %lf %llu", &g, &from, &value) == 3 && g < GPUS)
        return add(&clocks.sm[g], from, value);
    if (sscanf(line, "max_clocks %u %u", &clocks.max_sm, &clocks.max_memory) == 2) return 1;
    if (sscanf(line, "violation %u %u %lf", &g, &what, &from) == 3 && g < GPUS && place(what) < COUNTS)
        return clocks.rate[g][place(what)] = from, 1;
    if (sscanf(line, "violation_before %u %u %llu", &g, &what, &value) == 3 && g < GPUS && place(what) < COUNTS)
        return clocks.before[g][place(what)] = value, 1;
    if (sscanf(line, "violation_fields %u", &off) == 1) return clocks.no_fields = !off, 1;
    if (sscanf(line, "violations %u", &off) == 1) return clocks.no_fields = clocks.no_calls = !off, 1;
    return load_limits(line);
}

static unsigned long long counted(unsigned g, unsigned where) {
    return clocks.before[g][where] + (unsigned long long)(clocks.rate[g][where] * (now_ms() - board.read_at) / 1e3);
}

/* Fields 74 to 81 are the policies 0 to 11 with a gap; 82 is the temperature of the memory. */
int clocks_field(unsigned g, unsigned field, unsigned long long *out) {
    if (field == 82 && clocks.memory[g]) return *out = clocks.memory[g], 1;
    if (clocks.no_fields) return 0;
    if (field >= 74 && field <= 79) return *out = counted(g, field - 74), 1;
    if (field >= 269 && field <= 271) return *out = counted(g, place(field)), 1;
    return 0;
}

/* Reference time 8, violation time 8. */
int nvmlDeviceGetViolationStatus(void *h, unsigned policy, unsigned long long *out) {
    if (clocks.no_calls) return NOT_SUPPORTED;
    if (policy >= 12) return INVALID_ARGUMENT;
    ANSWER(out[0] = (unsigned long long)(now_ms() * 1e3), out[1] = counted(G(h), policy));
}

unsigned sm_clock_of(unsigned g) { return (unsigned)at(&clocks.sm[g], board.sm_clock); }
unsigned long long reasons_of(unsigned g) { return at(&clocks.reasons[g], board.reasons); }
unsigned temperature_of(unsigned g) { return clocks.core[g] ? clocks.core[g] : board.temperature; }
unsigned enforced_limit_of(unsigned g) { return clocks.enforced[g] ? clocks.enforced[g] : board.power_limit; }

int nvmlDeviceGetMaxClockInfo(void *h, int kind, unsigned *out) {
    (void)h;
    ANSWER(*out = kind == 2 ? (clocks.max_memory ? clocks.max_memory : board.memory_clock)
                            : (clocks.max_sm ? clocks.max_sm : board.sm_clock));
}
#define LIMIT(own) (clocks.own[G(h)] ? clocks.own[G(h)] : board.power_limit)
#define NEEDS_A_LIMIT(own) \
    if (!LIMIT(own)) return NOT_SUPPORTED
int nvmlDeviceGetPowerManagementLimit(void *h, unsigned *out) {
    NEEDS_A_LIMIT(set);
    ANSWER(*out = LIMIT(set));
}
int nvmlDeviceGetPowerManagementDefaultLimit(void *h, unsigned *out) {
    NEEDS_A_LIMIT(standard);
    ANSWER(*out = LIMIT(standard));
}
int nvmlDeviceGetPowerManagementLimitConstraints(void *h, unsigned *least, unsigned *most) {
    NEEDS_A_LIMIT(most);
    ANSWER(*least = clocks.least[G(h)], *most = LIMIT(most));
}
int nvmlDeviceGetTemperatureThreshold(void *h, unsigned which, unsigned *out) {
    (void)h;
    if (which >= THRESHOLDS || !clocks.threshold[which]) return NOT_SUPPORTED;
    ANSWER(*out = clocks.threshold[which]);
}
/* Version 4, margin 4; the caller states its version, with the size of its struct in the low bytes. */
int nvmlDeviceGetMarginTemperature(void *h, void *out) {
    unsigned version;
    memcpy(&version, out, 4);
    if (version != ((1u << 24) | 8u)) return VERSION_MISMATCH;
    if (!clocks.has_margin[G(h)]) return NOT_SUPPORTED;
    ANSWER(memcpy((char *)out + 4, &clocks.margin[G(h)], 4));
}
int nvmlDeviceGetApplicationsClock(void *h, int kind, unsigned *out) {
    if (kind == 2 || !clocks.app_now[G(h)]) return NOT_SUPPORTED;
    ANSWER(*out = clocks.app_now[G(h)]);
}
int nvmlDeviceGetDefaultApplicationsClock(void *h, int kind, unsigned *out) {
    if (kind == 2 || !clocks.app_default[G(h)]) return NOT_SUPPORTED;
    ANSWER(*out = clocks.app_default[G(h)]);
}
