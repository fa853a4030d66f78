/* Waits on a schedule without the GIL: an open-loop sender must not hold up the receiver that it measures. */
#include "common.h"

void
wait_until(uint64_t deadline)
{
    while (now_ns() < deadline) {
    }
}
