/* Reads the file that RUNBOOK_STAND_IN_NVML names, one `key value…` a line:
 *
 *   driver 580.95.05          count 8              name NVIDIA B200       memory 192265846784
 *   capability 10 0           mig 0                processes 0            power_limit 1000000
 *   clocks 1965 3996          reasons 0            links 18               nvlink_version 5
 *   link_down GPU LINK        link_errors GPU LINK COUNTER VALUE          p2p STATUS
 *   ancestor LEVEL            ancestor_pair A B LEVEL                     numa GPU NODE
 *   fabric STATE STATUS MASK  fabric_gpu GPU STATE STATUS MASK            fabric_version HIGHEST
 *   clique GPU ID             field GPU LINK FIELD VALUE (of nvmlDeviceGetFieldValues; others are not supported)
 *   pcie GEN WIDTH MAXGEN MAXWIDTH                 pcie_gpu GPU GEN WIDTH
 *   bond A B COUNT            (links that go from GPU to GPU; without any, all links go to switches)
 *   remote_kind KIND          (of the links that go nowhere named: 1 a CPU, 2 a switch, 255 unknown)
 *   counters KIND             (of board.h)         compute_mode GPU MODE
 *   holder GPU PID NAME       (a process on this GPU)                     instance GPU BYTES
 *   context GPU PID BYTES     (one more process, with the memory that it holds)
 *   utilisation GPU PERCENT   power GPU MILLIWATTS  off_bus GPU  (it is counted and cannot be opened)
 *   temperature 45            energy GPU WATTS SWING PERIOD_MS            energy_wrap GPU AT_MS
 *   energy_stall GPU FROM_MS TO_MS LOSES          energy_lost GPU AT_MS
 *   More lines are told at the head of memory.c, ports.c, software.c, clocks.c and pcie.c.
 *   fail FUNCTION CODE        (FUNCTION * is every call but Init, Shutdown and ErrorString; CODE 9999: no answer, ever)
 */
#include "board.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct board board;

double now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static void start(void) {
    memset(&board, 0, sizeof board);
    board.read_at = now_ms();
    for (unsigned a = 0; a < GPUS; a++) {
        for (unsigned b = 0; b < GPUS; b++) board.ancestor[a][b] = 40;
        board.fabric_state[a] = 3;
        for (unsigned b = 0; b < 4; b++) board.pcie[a][b] = b % 2 ? 16 : 5;
    }
    memset(board.peer, NOBODY, sizeof board.peer);
    board.sm_clock = board.memory_clock = 1000;
    board.remote_kind = 2;
    board.fabric_version = 3;
    start_memory(), start_ports(), start_software(), start_clocks(), start_pcie();
}

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

static int load_facts(const char *line) {
    return sscanf(line, "driver %79s", board.driver) == 1 || sscanf(line, "name %95[^\n]", board.name) == 1 ||
           sscanf(line, "count %u", &board.count) == 1 || sscanf(line, "memory %llu", &board.memory) == 1 ||
           sscanf(line, "capability %d %d", &board.major, &board.minor) == 2 ||
           sscanf(line, "mig %u", &board.mig) == 1 || sscanf(line, "processes %u", &board.processes) == 1 ||
           sscanf(line, "power_limit %u", &board.power_limit) == 1 ||
           sscanf(line, "clocks %u %u", &board.sm_clock, &board.memory_clock) == 2 ||
           sscanf(line, "reasons %llu", &board.reasons) == 1 ||
           sscanf(line, "temperature %u", &board.temperature) == 1;
}

static int load_use(const char *line) {
    char text[64];
    unsigned a, b;
    unsigned long long value;
    if (sscanf(line, "compute_mode %u %u", &a, &b) == 2 && a < GPUS) return board.compute_mode[a] = b, 1;
    if (sscanf(line, "holder %u %u %63s", &a, &b, text) == 3 && a < GPUS)
        return board.holder[a] = b, snprintf(board.holder_name[a], 64, "%s", text), 1;
    if (sscanf(line, "context %u %u %llu", &a, &b, &value) == 3 && a < GPUS && board.context_count < FAILS) {
        board.contexts[board.context_count].gpu = a, board.contexts[board.context_count].pid = b;
        return board.contexts[board.context_count++].bytes = value, 1;
    }
    if (sscanf(line, "off_bus %u", &a) == 1 && a < GPUS) return board.off_bus[a] = 1;
    if (sscanf(line, "utilisation %u %u", &a, &b) == 2 && a < GPUS) return board.utilisation[a] = b, 1;
    if (sscanf(line, "power %u %u", &a, &b) == 2 && a < GPUS) return board.power[a] = b, 1;
    if (sscanf(line, "instance %u %llu", &a, &value) == 2 && a < GPUS && board.instances[a] < INSTANCES)
        return board.instance[a][board.instances[a]++] = value, 1;
    return 0;
}

static int load_links(const char *line) {
    unsigned a, b, c;
    unsigned long long value;
    if (sscanf(line, "links %u", &board.links) == 1 || sscanf(line, "nvlink_version %u", &board.nvlink_version) == 1 ||
        sscanf(line, "p2p %u", &board.p2p) == 1 || sscanf(line, "remote_kind %u", &board.remote_kind) == 1 ||
        sscanf(line, "counters %u", &board.counters) == 1)
        return 1;
    if (sscanf(line, "link_down %u %u", &a, &b) == 2 && a < GPUS && b < LINKS) return board.down[a][b] = 1;
    if (sscanf(line, "link_errors %u %u %u %llu", &a, &b, &c, &value) == 4 && a < GPUS && b < LINKS && c < COUNTERS)
        return board.errors[a][b][c] = value, 1;
    if (sscanf(line, "bond %u %u %u", &a, &b, &c) == 3 && a < GPUS && b < GPUS) {
        for (board.switchless = 1; c; c--) {
            if (board.bonds[a] == LINKS || board.bonds[b] == LINKS) return 0;
            board.peer[a][board.bonds[a]++] = (unsigned char)b, board.peer[b][board.bonds[b]++] = (unsigned char)a;
        }
        return 1;
    }
    if (sscanf(line, "field %u %u %u %llu", &a, &b, &c, &value) == 4 && board.field_count < FAILS) {
        board.fields[board.field_count].gpu = a, board.fields[board.field_count].link = b;
        board.fields[board.field_count].field = c, board.fields[board.field_count++].value = value;
        return 1;
    }
    return 0;
}

static void set_fabric(unsigned gpu, unsigned state, unsigned status, unsigned mask) {
    board.fabric_state[gpu] = state, board.fabric_status[gpu] = status, board.fabric_mask[gpu] = mask;
}

static int load_place(const char *line) {
    unsigned a, b, c, d;
    if (sscanf(line, "fabric_version %u", &board.fabric_version) == 1) return 1;
    if (sscanf(line, "fabric_gpu %u %u %u %u", &a, &b, &c, &d) == 4 && a < GPUS) return set_fabric(a, b, c, d), 1;
    if (sscanf(line, "fabric %u %u %u", &b, &c, &d) == 3) {
        for (a = 0; a < GPUS; a++) set_fabric(a, b, c, d);
        return 1;
    }
    if (sscanf(line, "clique %u %u", &a, &b) == 2 && a < GPUS) return board.clique[a] = b, 1;
    if (sscanf(line, "ancestor_pair %u %u %u", &a, &b, &c) == 3 && a < GPUS && b < GPUS)
        return board.ancestor[a][b] = board.ancestor[b][a] = c, 1;
    if (sscanf(line, "ancestor %u", &c) == 1) {
        for (a = 0; a < GPUS; a++) for (b = 0; b < GPUS; b++) board.ancestor[a][b] = c;
        return 1;
    }
    if (sscanf(line, "pcie_gpu %u %u %u", &a, &b, &c) == 3 && a < GPUS)
        return board.pcie[a][0] = b, board.pcie[a][1] = c, 1;
    if (sscanf(line, "pcie %u %u %u %u", &a, &b, &c, &d) == 4) {
        for (unsigned g = 0; g < GPUS; g++)
            board.pcie[g][0] = a, board.pcie[g][1] = b, board.pcie[g][2] = c, board.pcie[g][3] = d;
        return 1;
    }
    if (sscanf(line, "numa %u %u", &a, &b) == 2 && a < GPUS) return board.numa[a] = (int)b, 1;
    return 0;
}

static int load_fail(const char *line) {
    char text[200];
    unsigned code;
    if (sscanf(line, "fail %199s %u", text, &code) != 2 || board.fail_count == FAILS) return 0;
    snprintf(board.fails[board.fail_count].function, 64, "%.63s", text);
    board.fails[board.fail_count++].code = (int)code;
    return 1;
}

int load(const char *path) {
    char line[256];
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    start();
    while (fgets(line, sizeof line, file)) {
        if (load_facts(line) || load_use(line) || load_links(line) || load_place(line) || load_energy(line) ||
            load_fail(line) || load_memory(line) || load_ports(line) || load_software(line) || load_clocks(line) ||
            load_pcie(line))
            continue;
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

int failing(const char *function) {
    for (int i = 0; i < board.fail_count; i++)
        if (!strcmp(board.fails[i].function, function) || !strcmp(board.fails[i].function, "*"))
            return with(board.fails[i].code);
    return OK;
}

int nvmlInitWithFlags(unsigned flags) {
    const char *path = getenv("RUNBOOK_STAND_IN_NVML");
    (void)flags;
    if (!path || !load(path)) return DRIVER_NOT_LOADED;
    for (int i = 0; i < board.fail_count; i++)
        if (!strcmp(board.fails[i].function, "nvmlInit")) return with(board.fails[i].code);
    return OK;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
