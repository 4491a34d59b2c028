/* Counters of NVLinks and of PCIe that move. */
#include "board.h"

void start_ports(void) {}

int load_ports(const char *line) {
    (void)line;
    return 0;
}
