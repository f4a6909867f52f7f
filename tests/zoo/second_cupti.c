/* Loads a libcupti of its own while it works: the file in ZOO_CUPTI. */
#include "zoo.h"

int main(void) {
    zoo_open();
    struct zoo zoo = zoo_primary(0);
    zoo_work(&zoo, BF16, 400, 1000);
    if (dlopen(getenv("ZOO_CUPTI"), RTLD_NOW) == NULL) return 3;
    zoo_work(&zoo, BF16, 1000, 1000);
    zoo_truth();
    return 0;
}
