/* Works, prints the truth, and becomes another program by exec: exec PROGRAM [ARGUMENTS]. */
#include "zoo.h"

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    zoo_open();
    struct zoo zoo = zoo_primary(0);
    zoo_work(&zoo, BF16, 400, 1000);
    zoo_truth();
    execv(argv[1], argv + 1);
    return 3;
}
