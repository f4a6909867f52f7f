/* Two trainings one after the other, of two models: each is declared before its first token. */
#include "zoo.h"

static int (*declare)(uint64_t, uint64_t), (*add_tokens)(uint64_t);
static int (*declare_model)(const char *, uint64_t), (*declare_work)(const char *, uint64_t);

/* Without the meter there is nobody to tell. */
static int text(int (*tell)(const char *, uint64_t), const char *json) { return tell != NULL && tell(json, strlen(json)); }
static int sizes(uint64_t total, uint64_t trainable) { return declare != NULL && declare(total, trainable); }
static int tokens(uint64_t n) { return add_tokens != NULL && add_tokens(n); }

int main(void) {
    *(void **)&declare = dlsym(RTLD_DEFAULT, "flopsprof_declare_parameters");
    *(void **)&add_tokens = dlsym(RTLD_DEFAULT, "flopsprof_add_tokens");
    *(void **)&declare_model = dlsym(RTLD_DEFAULT, "flopsprof_declare_model");
    *(void **)&declare_work = dlsym(RTLD_DEFAULT, "flopsprof_declare_work");
    zoo_open();
    struct zoo zoo = zoo_primary(0);
    /* All within a window, which alone is how often the meter looks: nothing of the first may be lost for it. */
    if (sizes(1000, 1000) || text(declare_model, "{\"format\": 1, \"name\": \"first\"}")) return 3;
    zoo_work(&zoo, BF16, 10, 1000);
    if (tokens(70) || text(declare_work, "{\"format\": 1, \"rows\": 7}")) return 3;
    if (sizes(50, 20) || text(declare_model, "{\"format\": 1, \"name\": \"second\"}")) return 3;
    /* The same once more is no other one. */
    if (sizes(50, 20) || text(declare_model, "{\"format\": 1, \"name\": \"second\"}")) return 3;
    zoo_work(&zoo, BF16, 10, 1000);
    if (tokens(30) || text(declare_work, "{\"format\": 1, \"rows\": 8}") || text(declare_work, "{\"format\": 1, \"rows\": 10}")) return 3;
    zoo_truth();
    return 0;
}
