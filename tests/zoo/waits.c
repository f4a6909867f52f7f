/* Works, and keeps watch over its children as a server does that starts helpers: wait() for any child, and a handler of SIGCHLD. It has no child, and says what it saw. */
#include "zoo.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

static volatile sig_atomic_t signals = 0;

static void on_child(int signal) {
    (void)signal;
    signals++;
}

int main(void) {
    struct sigaction action = {.sa_handler = on_child};
    sigaction(SIGCHLD, &action, NULL);
    zoo_open();
    struct zoo zoo = zoo_primary(0);
    int seen = 0;
    for (int i = 0; i < 20; i++) {
        zoo_work(&zoo, BF16, 40, 1000);
        if (waitpid(-1, NULL, WNOHANG) != -1 || errno != ECHILD) seen++;
    }
    printf("%d signals, %d children\n", (int)signals, seen);
    zoo_truth();
    return 4;
}
