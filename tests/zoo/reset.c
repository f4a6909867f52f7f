/* Resets its device between two rounds of work, as some test suites do; with "release", lets each round's reference go instead. */
#include "zoo.h"

int main(int argc, char **argv) {
    int release = argc > 1 && strcmp(argv[1], "release") == 0;
    zoo_open();
    for (int round = 0; round < 2; round++) {
        struct zoo zoo = zoo_primary(0);
        zoo_work(&zoo, BF16, 500, 1000);
        if (release) {
            ZOO_CHECK(cuDevicePrimaryCtxRelease_v2(0));
        } else if (round == 0) {
            ZOO_CHECK(cuDevicePrimaryCtxReset_v2(0));
        }
        zoo_sleep_ms(300);
    }
    zoo_truth();
    return 0;
}
