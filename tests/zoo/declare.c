/* A training loop that tells the meter about itself, where the meter is: the functions are looked up, as a Python callback does. */
#include "zoo.h"

int main(void) {
    int (*declare)(uint64_t, uint64_t);
    int (*add_tokens)(uint64_t);
    int (*mark_step)(void);
    int (*mark_phase)(const char *);
    int (*declare_model)(const char *, uint64_t);
    int (*declare_work)(const char *, uint64_t);
    *(void **)&declare = dlsym(RTLD_DEFAULT, "flopsprof_declare_parameters");
    *(void **)&add_tokens = dlsym(RTLD_DEFAULT, "flopsprof_add_tokens");
    *(void **)&mark_step = dlsym(RTLD_DEFAULT, "flopsprof_mark_step");
    *(void **)&mark_phase = dlsym(RTLD_DEFAULT, "flopsprof_mark_phase");
    *(void **)&declare_model = dlsym(RTLD_DEFAULT, "flopsprof_declare_model");
    *(void **)&declare_work = dlsym(RTLD_DEFAULT, "flopsprof_declare_work");
    zoo_open();
    struct zoo zoo = zoo_primary(0);
    if (declare != NULL && declare(1000000, 250000) != 0) return 3;
    /* More trained than there are is refused. */
    if (declare != NULL && declare(1, 2) != 1) return 3;
    if (declare_model != NULL) {
        /* What is no JSON object, or too long, is refused. */
        if (declare_model("{\"a\": ", 6) != 1 || declare_model("[1]", 3) != 1 || declare_model(NULL, 0) != 1) return 3;
        if (declare_model("{}", 1u << 21) != 1) return 3;
        if (declare_model("{\"format\": 1, \"unknown\": true}", 30) != 0) return 3;
        if (mark_phase(NULL) != 1 || mark_phase("") != 1 || mark_phase("train") != 0) return 3;
    }
    for (int step = 0; step < 30; step++) {
        zoo_work(&zoo, BF16, 10, 1000);
        if (add_tokens != NULL && add_tokens(4096) != 0) return 3;
        if (mark_step != NULL && mark_step() != 0) return 3;
    }
    if (mark_phase != NULL) {
        /* A window that is a second old ends with its phase. */
        zoo_work(&zoo, BF16, 10, 120000);
        mark_phase("evaluate");
        zoo_work(&zoo, FP8, 10, 120000);
        mark_phase("train");
        char work[] = "{\"format\": 1, \"tokens\": 122880}";
        if (declare_work(work, sizeof work - 1) != 0) return 3;
    } else {
        zoo_work(&zoo, BF16, 10, 1000);
        zoo_work(&zoo, FP8, 10, 1000);
    }
    zoo_truth();
    return 0;
}
