/* Energy. Power is WATTS + SWING sin(2 pi t / PERIOD), t being CLOCK_MONOTONIC; the counter is its integral in mJ as of
 * the last whole 100 ms. It may start again from 0, stand still for a while (with or without its loss made up afterwards),
 * and be gone from a moment on; these moments are in ms after the file was read. */
#include "board.h"

#include <math.h>

#define TICK_MS 100.0

static double integral(unsigned g, double t) {
    double turn = 2 * M_PI / board.energy[g].period;
    return board.energy[g].watts * t - board.energy[g].swing / turn * cos(turn * t);
}

int nvmlDeviceGetTotalEnergyConsumption(void *h, unsigned long long *out) {
    unsigned g = G(h);
    double real = now_ms(), t = floor(real / TICK_MS) * TICK_MS, wrap = board.read_at + board.energy[g].wrap;
    double from = board.read_at + board.energy[g].from, to = board.read_at + board.energy[g].to;
    double value = integral(g, t);
    if (board.energy[g].period <= 0) return NOT_SUPPORTED;
    if (board.energy[g].lost > 0 && real >= board.read_at + board.energy[g].lost) return GPU_IS_LOST;
    if (t >= from && t < to) value = integral(g, from);
    else if (t >= to && board.energy[g].loses) value -= integral(g, to) - integral(g, from);
    if (board.energy[g].wrap > 0 && t >= wrap) value -= integral(g, wrap);
    ANSWER(*out = (unsigned long long)value);
}
