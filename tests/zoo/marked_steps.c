/* Trains in steps of three lengths and marks each, and its batch of 2 rows of 100 and more, in form: marked_steps STEPS PAUSE_US [SECONDS]. A step is eight, ten or twelve bf16 launches and one fp8
 * launch at its end. Then it goes on for so many seconds, where the pause is 1 ms, and marks nothing. */
#include "zoo.h"

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    int (*mark_step)(void);
    int (*mark_batch)(uint64_t, uint64_t, uint64_t);
    *(void **)&mark_step = dlsym(RTLD_DEFAULT, "flopsprof_mark_step");
    *(void **)&mark_batch = dlsym(RTLD_DEFAULT, "flopsprof_mark_batch");
    zoo_open();
    struct zoo zoo = zoo_primary(0);
    for (int i = 0; i < atoi(argv[1]); i++) {
        if (mark_batch != NULL && mark_batch(2, 100 + i % 3, 0) != 0) return 3;
        zoo_work(&zoo, BF16, 8 + i % 3 * 2, atol(argv[2]));
        zoo_work(&zoo, FP8, 1, atol(argv[2]));
        if (mark_step != NULL) mark_step();
    }
    if (argc > 3) zoo_work(&zoo, BF16, 100 * atoi(argv[3]), 10 * atol(argv[2]));
    zoo_truth();
    return 0;
}
