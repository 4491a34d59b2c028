/* Memory: ECC, remapped rows, recovery action. */
#include "board.h"

void start_memory(void) {}

int load_memory(const char *line) {
    (void)line;
    return 0;
}
