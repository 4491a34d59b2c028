/* What the stand-in for libnvidia-ml.so.1 answers from; board.c reads it from a text file. */
#ifndef STAND_IN_BOARD_H
#define STAND_IN_BOARD_H

#include <stdint.h>

#define OK 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define INSUFFICIENT_SIZE 7
#define DRIVER_NOT_LOADED 9
#define GPU_IS_LOST 15
#define VERSION_MISMATCH 25
#define GPUS 16
#define LINKS 36
#define COUNTERS 5
#define INSTANCES 8
#define FAILS 32
#define NEVER 9999
#define NOBODY 0xffu

struct board {
    char driver[80], name[96];
    unsigned count, mig, processes, power_limit, sm_clock, memory_clock, links, nvlink_version, p2p;
    unsigned long long memory, reasons;
    int major, minor;
    unsigned ancestor[GPUS][GPUS];
    unsigned char down[GPUS][LINKS], peer[GPUS][LINKS];
    unsigned remote_kind, bonds[GPUS], switchless;
    unsigned counters; /* 0: per link, 1: as fields, and the calls per link answer 0, 2: as fields only */
    unsigned long long errors[GPUS][LINKS][COUNTERS];
    unsigned fabric_state[GPUS], fabric_status[GPUS], fabric_mask[GPUS], clique[GPUS], fabric_version;
    unsigned pcie[GPUS][4];
    int numa[GPUS];
    unsigned compute_mode[GPUS], holder[GPUS];
    struct { unsigned gpu, pid; unsigned long long bytes; } contexts[FAILS];
    unsigned context_count, utilisation[GPUS], power[GPUS]; /* percent, mW */
    unsigned char off_bus[GPUS];
    char holder_name[GPUS][64];
    unsigned long long instance[GPUS][INSTANCES];
    unsigned instances[GPUS];
    struct { char function[64]; int code; } fails[FAILS];
    int fail_count;
    struct { unsigned gpu, link, field; unsigned long long value; } fields[FAILS];
    int field_count;
    unsigned temperature;
    struct { double watts, swing, period, wrap, from, to, lost; int loses; } energy[GPUS];
    double read_at;
};

extern struct board board;

int load(const char *path);
double now_ms(void);
/* One line of the file, which the module reads (1) or does not know (0); and what it answers before it read any. */
int load_memory(const char *line), load_ports(const char *line), load_software(const char *line), load_clocks(const char *line),
    load_pcie(const char *line);
void start_memory(void), start_ports(void), start_software(void), start_clocks(void), start_pcie(void);
/* A field that moves (1), or one that the module does not know (0). */
int clocks_field(unsigned g, unsigned field, unsigned long long *out), pcie_field(unsigned g, unsigned field, unsigned long long *out);
unsigned sm_clock_of(unsigned g), temperature_of(unsigned g), enforced_limit_of(unsigned g);
unsigned long long reasons_of(unsigned g);
/* Fields of nvmlDeviceGetFieldValues that another file answers (1) or does not have (0), and how far a counter has moved. */
int memory_field(unsigned gpu, unsigned field, unsigned long long *out);
int port_field(unsigned gpu, unsigned link, unsigned field, unsigned long long *out);
unsigned long long port_moved(unsigned gpu, unsigned link, unsigned counter);
/* The code with which a call has to fail, or OK; does not return for NEVER. */
int failing(const char *function);
/* The code with which opening a GPU has to fail, or OK. */
int opening(unsigned gpu);

#define ANSWER(...)                       \
    do {                                  \
        int failed = failing(__func__);   \
        if (failed) return failed;        \
        __VA_ARGS__;                      \
        return OK;                        \
    } while (0)

/* A handle is the GPU's index plus one, so that it is never NULL, and above that the instance's place plus one. */
#define HANDLE(gpu, place) ((void *)(uintptr_t)((gpu) + 1 + 256 * (place)))
#define G(handle) ((unsigned)(((uintptr_t)(handle)&255) - 1))
#define PLACE(handle) ((unsigned)((uintptr_t)(handle) >> 8))

#endif
