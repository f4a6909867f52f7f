/* Never uses CUDA. With an argument, opens libcuda and looks at it, and still makes no context. */
#include "zoo.h"

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) {
        int devices;
        zoo_open();
        ZOO_CHECK(cuDeviceGetCount(&devices));
        printf("%d devices\n", devices);
    }
    zoo_sleep_ms(50);
    printf("done\n");
    return 4;
}
