/* Two threads that work on a device each, the second from 50 ms after the first on. */
#include <pthread.h>

#include "zoo.h"

static void *second(void *unused) {
    zoo_sleep_ms(50);
    struct zoo zoo = zoo_primary(1);
    zoo_work(&zoo, FP8, 1500, 1000);
    return unused;
}

int main(void) {
    zoo_open();
    pthread_t thread;
    pthread_create(&thread, NULL, second, NULL);
    struct zoo zoo = zoo_primary(0);
    zoo_work(&zoo, BF16, 1500, 1000);
    pthread_join(thread, NULL);
    zoo_truth();
    return 0;
}
