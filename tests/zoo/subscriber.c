/* Profiles itself through CUPTI, as torch.profiler does: takes the one subscription and counts the launches it is told of.
 * subscriber start|midway|linked, with the path of libcupti in ZOO_CUPTI. `linked` calls what a program that is linked with libcupti would call, once. */
#include "zoo.h"

enum { DRIVER_API = 1, LAUNCH_KERNEL = 307 };

/* CUpti_CallbackData begins with the place, 0 at the entry. */
static int launches;

static void on_launch(void *user, int domain, uint32_t id, const void *data) {
    (void)user;
    if (domain == DRIVER_API && id == LAUNCH_KERNEL && *(const int *)data == 0) __atomic_fetch_add(&launches, 1, __ATOMIC_RELAXED);
}

int main(int argc, char **argv) {
    int midway = argc > 1 && strcmp(argv[1], "midway") == 0;
    int linked = argc > 1 && strcmp(argv[1], "linked") == 0;
    void *libcupti = dlopen(getenv("ZOO_CUPTI"), RTLD_NOW | RTLD_GLOBAL);
    if (libcupti == NULL) return 3;
    if (linked) libcupti = RTLD_DEFAULT;
    int (*subscribe)(void **, void (*)(void *, int, uint32_t, const void *), void *);
    int (*unsubscribe)(void *);
    int (*enable)(uint32_t, void *, int, uint32_t);
    *(void **)&subscribe = dlsym(libcupti, "cuptiSubscribe");
    *(void **)&unsubscribe = dlsym(libcupti, "cuptiUnsubscribe");
    *(void **)&enable = dlsym(libcupti, "cuptiEnableCallback");
    void *subscriber;

    if (!midway && !linked) {
        ZOO_CHECK(subscribe(&subscriber, on_launch, NULL));
        ZOO_CHECK(enable(1, subscriber, DRIVER_API, LAUNCH_KERNEL));
    }
    zoo_open();
    struct zoo zoo = zoo_primary(0);
    zoo_work(&zoo, BF16, 300, 1000);
    if (linked) {
        ZOO_CHECK(subscribe(&subscriber, on_launch, NULL));
        ZOO_CHECK(enable(1, subscriber, DRIVER_API, LAUNCH_KERNEL));
    }
    if (midway) {
        /* The moment in which somebody else has it is short. */
        int result = 1;
        for (int attempt = 0; attempt < 5000 && result != 0; attempt++) {
            result = subscribe(&subscriber, on_launch, NULL);
            usleep(200);
        }
        ZOO_CHECK(result);
        ZOO_CHECK(enable(1, subscriber, DRIVER_API, LAUNCH_KERNEL));
    }
    zoo_work(&zoo, BF16, 400, 1000);
    printf("%d launches seen\n", launches);
    ZOO_CHECK(unsubscribe(subscriber));
    zoo_work(&zoo, BF16, 300, 1000);
    zoo_truth();
    return 0;
}
