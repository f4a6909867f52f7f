/* Clears its output three times while it works, and the evidence that is in it: clears LAUNCHES PAUSE_US. */
#define _GNU_SOURCE
#include "zoo.h"

#include <ftw.h>
#include <sys/stat.h>

static int removes(const char *path, const struct stat *at, int kind, struct FTW *where) {
    (void)at, (void)kind, (void)where;
    remove(path);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    int launches = atoi(argv[1]) / 4;
    const char *out = getenv("FLOPSPROF_OUT");
    zoo_open();
    struct zoo zoo = zoo_primary(0);
    for (int part = 0; part < 4; part++) {
        if (part > 0 && out != NULL) nftw(out, removes, 8, FTW_DEPTH | FTW_PHYS);
        zoo_work(&zoo, BF16, launches, atol(argv[2]));
    }
    zoo_truth();
    return 7;
}
