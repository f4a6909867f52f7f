/* Uses libcuda and closes it again, twice. */
#include "zoo.h"

int main(void) {
    for (int round = 0; round < 2; round++) {
        zoo_open();
        struct zoo zoo = zoo_primary(0);
        zoo_work(&zoo, BF16, 200, 1000);
        if (dlclose(zoo_libcuda) != 0) return 3;
        zoo_sleep_ms(100);
    }
    zoo_truth();
    return 0;
}
