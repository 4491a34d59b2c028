/* Versions, modes, persistence, processes. */
#include "board.h"

void start_software(void) {}

int load_software(const char *line) {
    (void)line;
    return 0;
}
