/* Works on two devices at once, the second of which it begins to use later, for 500 turns: two_devices [TURNS] */
#include "zoo.h"

int main(int argc, char **argv) {
    int turns = argc > 1 ? atoi(argv[1]) : 500;
    zoo_open();
    int devices;
    ZOO_CHECK(cuDeviceGetCount(&devices));
    if (devices < 2) return 3;
    struct zoo first = zoo_primary(0);
    zoo_work(&first, BF16, 300, 1000);
    struct zoo second = zoo_primary(1);
    for (int i = 0; i < turns; i++) {
        ZOO_CHECK(cuCtxSetCurrent(first.context));
        zoo_launch(&first, BF16, 132, 100, NULL);
        ZOO_CHECK(cuCtxSetCurrent(second.context));
        zoo_launch(&second, FP8, 132, 100, NULL);
        usleep(1000);
    }
    ZOO_CHECK(cuCtxSynchronize());
    zoo_truth();
    return 0;
}
