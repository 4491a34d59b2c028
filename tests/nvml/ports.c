/* Counters of NVLinks that move. Lines:
 *
 *   port_fields               (the counters from NVLink 5 on are there, and 0)
 *   port_error GPU LINK FIELD N                    (of these; FIELD as in NVML_FI_DEV_NVLINK_COUNT_*)
 *   link_rate GPU LINK COUNTER PER_S               (COUNTER as in link_errors, or a field)
 *
 * Rates are per second since the file was read.
 */
#include "board.h"

#include <stdio.h>
#include <string.h>

#define MOVING 64

static struct { unsigned gpu, link, counter; unsigned long long value; double rate; } moving[MOVING];
static unsigned moving_count, port_fields;
static const unsigned FIELDS[] = {206, 207, 208, 209, 210, 211, 212, 213, 214, 215, 219, 221, 294, 295};

void start_ports(void) { moving_count = port_fields = 0; }

int load_ports(const char *line) {
    unsigned g, link, counter;
    unsigned long long value = 0;
    double rate = 0;
    if (!strncmp(line, "port_fields", 11)) return port_fields = 1;
    if (sscanf(line, "port_error %u %u %u %llu", &g, &link, &counter, &value) != 4 &&
        sscanf(line, "link_rate %u %u %u %lf", &g, &link, &counter, &rate) != 4)
        return 0;
    if (moving_count == MOVING) return 0;
    moving[moving_count].gpu = g, moving[moving_count].link = link, moving[moving_count].counter = counter;
    return moving[moving_count].value = value, moving[moving_count++].rate = rate, 1;
}

unsigned long long port_moved(unsigned g, unsigned link, unsigned counter) {
    double sum = 0;
    for (unsigned i = 0; i < moving_count; i++)
        if (moving[i].gpu == g && moving[i].link == link && moving[i].counter == counter)
            sum += (double)moving[i].value + moving[i].rate * (now_ms() - board.read_at) / 1e3;
    return (unsigned long long)sum;
}
int port_field(unsigned g, unsigned link, unsigned field, unsigned long long *out) {
    for (unsigned i = 0; port_fields && link < board.links && i < sizeof FIELDS / sizeof *FIELDS; i++)
        if (FIELDS[i] == field) return *out = port_moved(g, link, field), 1;
    return 0;
}
