/* A training loop that tells the meter about itself, where the meter is: the functions are looked up, as a Python callback does. */
#include "zoo.h"

int main(void) {
    int (*declare)(uint64_t, uint64_t);
    int (*add_tokens)(uint64_t);
    int (*mark_step)(void);
    *(void **)&declare = dlsym(RTLD_DEFAULT, "flopsprof_declare_parameters");
    *(void **)&add_tokens = dlsym(RTLD_DEFAULT, "flopsprof_add_tokens");
    *(void **)&mark_step = dlsym(RTLD_DEFAULT, "flopsprof_mark_step");
    zoo_open();
    struct zoo zoo = zoo_primary(0);
    if (declare != NULL && declare(1000000, 250000) != 0) return 3;
    /* More trained than there are is refused. */
    if (declare != NULL && declare(1, 2) != 1) return 3;
    for (int step = 0; step < 30; step++) {
        zoo_work(&zoo, BF16, 10, 1000);
        if (add_tokens != NULL && add_tokens(4096) != 0) return 3;
        if (mark_step != NULL && mark_step() != 0) return 3;
    }
    zoo_truth();
    return 0;
}
