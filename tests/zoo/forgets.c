/* Forgets its environment before it starts CUDA: forgets all|variable. */
#define _GNU_SOURCE
#include "zoo.h"

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    const char *libraries = getenv("LD_LIBRARY_PATH");
    if (strcmp(argv[1], "all") == 0) {
        clearenv();
        if (libraries != NULL) setenv("LD_LIBRARY_PATH", libraries, 1);
    } else {
        unsetenv("CUDA_INJECTION64_PATH");
    }
    zoo_open();
    struct zoo zoo = zoo_primary(0);
    zoo_work(&zoo, BF16, 50, 1000);
    zoo_truth();
    return 7;
}
