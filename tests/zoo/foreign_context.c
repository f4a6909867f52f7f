/* Launches in a context of its own making (cuCtxCreate); with "both", in the primary one too. Runs for 2.5 s. */
#include "zoo.h"

int main(int argc, char **argv) {
    zoo_open();
    struct zoo primary, own = {0};
    int both = argc > 1 && strcmp(argv[1], "both") == 0;
    if (both) {
        primary = zoo_primary(0);
        zoo_work(&primary, BF16, 300, 1000);
    }
    int device;
    ZOO_CHECK(cuDeviceGet(&device, 0));
    ZOO_CHECK(cuCtxCreate_v2(&own.context, 0, device));
    zoo_kernels(&own);
    for (int i = 0; i < 1250; i++) {
        zoo_launch(&own, FP8, 132, 100, NULL);
        usleep(2000);
    }
    ZOO_CHECK(cuCtxSynchronize());
    if (both) {
        ZOO_CHECK(cuCtxSetCurrent(primary.context));
        zoo_work(&primary, BF16, 300, 1000);
    }
    ZOO_CHECK(cuCtxDestroy_v2(own.context));
    zoo_truth();
    return 0;
}
