/* Trains in long steps, in form: long_steps STEPS PAUSE_US gemm|sgemm [marks]
 * A step is eleven bf16 launches, each PAUSE_US after the other, and then three of a product: its model's head. The first step is three times as long: it warms up. With `marks` it
 * is as long as the others, begins half a second after CUDA has, and the meter is told where steps end. */
#include "zoo.h"

enum { LAUNCHES = 11, HEAD = 3 };

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    int steps = atoi(argv[1]);
    long pause_us = atol(argv[2]);
    enum kernel head = strcmp(argv[3], "gemm") == 0 ? GEMM : SGEMM;
    int marks = argc > 4;
    int (*mark_step)(void);
    *(void **)&mark_step = dlsym(RTLD_DEFAULT, "flopsprof_mark_step");
    zoo_open();
    struct zoo zoo = zoo_primary(0);
    if (marks && pause_us > 0) zoo_sleep_ms(500);
    for (int i = 0; i < steps; i++) {
        zoo_work(&zoo, BF16, i == 0 && !marks ? 3 * LAUNCHES : LAUNCHES, pause_us);
        zoo_work(&zoo, head, HEAD, 0);
        if (marks && mark_step != NULL) mark_step();
    }
    zoo_truth();
    return 0;
}
