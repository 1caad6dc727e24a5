/* A busy wait of a known length. Python calls it with the GIL (ctypes.PyDLL) or without (ctypes.CDLL). */
#include <time.h>

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec * 1e-3;
}

void spin_us(double us)
{
    const double end = now_us() + us;
    while (now_us() < end)
        ;
}
