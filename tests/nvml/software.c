/* Versions and modes.
 *
 *   persistence GPU 0|1       virtualization GPU MODE (of NVML)           vbios GPU TEXT
 *   gsp TEXT                  (firmware of all GPUs; - : this board has none; by default the driver's version)
 *   inforom TEXT              cuda 13000
 *   opening GPU CODE          (it is counted, and opening it fails; 9999: no answer, ever)
 */
#include "board.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct {
    unsigned persistence[GPUS], virtualization[GPUS];
    int opening[GPUS], cuda;
    char vbios[GPUS][32], gsp[64], inforom[32];
} software;

void start_software(void) {
    memset(&software, 0, sizeof software);
    for (unsigned g = 0; g < GPUS; g++) {
        software.persistence[g] = 1;
        snprintf(software.vbios[g], sizeof software.vbios[g], "96.00.A5.00.01");
    }
    software.cuda = 13000;
    snprintf(software.inforom, sizeof software.inforom, "G520.0200.00.05");
}

int load_software(const char *line) {
    unsigned g, value;
    int code;
    char text[64];
    if (sscanf(line, "persistence %u %u", &g, &value) == 2 && g < GPUS) return software.persistence[g] = value, 1;
    if (sscanf(line, "virtualization %u %u", &g, &value) == 2 && g < GPUS) return software.virtualization[g] = value, 1;
    if (sscanf(line, "opening %u %d", &g, &code) == 2 && g < GPUS) return software.opening[g] = code, 1;
    if (sscanf(line, "vbios %u %31s", &g, text) == 2 && g < GPUS)
        return snprintf(software.vbios[g], sizeof software.vbios[g], "%.31s", text), 1;
    return sscanf(line, "gsp %63s", software.gsp) == 1 || sscanf(line, "inforom %31s", software.inforom) == 1 ||
           sscanf(line, "cuda %d", &software.cuda) == 1;
}

int opening(unsigned gpu) {
    while (software.opening[gpu] == NEVER) pause();
    return software.opening[gpu];
}

int nvmlDeviceGetPersistenceMode(void *h, unsigned *out) { ANSWER(*out = software.persistence[G(h)]); }
int nvmlDeviceGetVirtualizationMode(void *h, unsigned *out) { ANSWER(*out = software.virtualization[G(h)]); }
int nvmlDeviceGetVbiosVersion(void *h, char *out, unsigned n) { ANSWER(snprintf(out, n, "%s", software.vbios[G(h)])); }
int nvmlDeviceGetInforomImageVersion(void *h, char *out, unsigned n) {
    (void)h;
    ANSWER(snprintf(out, n, "%s", software.inforom));
}
/* The caller gives 64 bytes. */
int nvmlDeviceGetGspFirmwareVersion(void *h, char *out) {
    (void)h;
    if (!strcmp(software.gsp, "-")) return NOT_SUPPORTED;
    ANSWER(snprintf(out, 64, "%.63s", software.gsp[0] ? software.gsp : board.driver));
}
int nvmlSystemGetCudaDriverVersion_v2(int *out) { ANSWER(*out = software.cuda); }
