/* Contexts that come and go: contexts HOW. */
#include "probe.h"

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    wanted = argv[1];
    struct zoo zoo, own = {0};
    if (is("ten-thousand")) {
        /* Made, worked in, destroyed; the primary one works beside them. */
        zoo = begin();
        for (int i = 0; i < 10000; i++) {
            ZOO_CHECK(cuCtxCreate_v2(&own.context, 0, 0));
            ZOO_CHECK(cuCtxDestroy_v2(own.context));
        }
        ZOO_CHECK(cuCtxSetCurrent(zoo.context));
    } else if (is("ten-thousand-alone")) {
        /* There is none but those. */
        zoo_open();
        for (int i = 0; i < 10000; i++) {
            ZOO_CHECK(cuCtxCreate_v2(&own.context, 0, 0));
            if (i % 100 == 0) {
                zoo_kernels(&own);
                zoo_launch(&own, BF16, 1, 1, NULL);
                usleep(1000);
            }
            ZOO_CHECK(cuCtxDestroy_v2(own.context));
        }
        zoo_truth();
        probe("after all of them");
        return 0;
    } else if (is("retained-and-released")) {
        zoo_open();
        for (int i = 0; i < 10000; i++) {
            ZOO_CHECK(cuDevicePrimaryCtxRetain(&own.context, 0));
            if (i % 1000 != 0) {
                ZOO_CHECK(cuDevicePrimaryCtxRelease_v2(0));
                continue;
            }
            zoo_kernels(&own);
            zoo_work(&own, BF16, 20, 1000);
        }
        zoo_truth();
        probe("after all of them");
        return 0;
    } else if (is("reset-often")) {
        zoo_open();
        for (int i = 0; i < 300; i++) {
            zoo = zoo_primary(0);
            zoo_work(&zoo, BF16, 3, 500);
            ZOO_CHECK(cuDevicePrimaryCtxReset_v2(0));
        }
    } else if (is("reset-at-the-end")) {
        zoo = begin();
        finish(&zoo);
        ZOO_CHECK(cuDevicePrimaryCtxReset_v2(0));
        return 5;
    } else if (is("closed-and-opened")) {
        for (int i = 0; i < 20; i++) {
            zoo_open();
            zoo = zoo_primary(0);
            zoo_work(&zoo, BF16, 20, 1000);
            MUST(dlclose(zoo_libcuda) == 0);
        }
    } else {
        return 2;
    }
    zoo = begin();
    finish(&zoo);
    return 0;
}
