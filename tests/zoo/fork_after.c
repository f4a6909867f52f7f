/* Has CUDA and forks children that do without, as data loaders are; they leave by fork_after exit|_exit|exec|abort while the parent works on. */
#include "zoo.h"

#include <sys/wait.h>

int main(int argc, char **argv) {
    const char *how = argc > 1 ? argv[1] : "exit";
    zoo_open();
    struct zoo zoo = zoo_primary(0);
    zoo_work(&zoo, BF16, 150, 1000);
    for (int child = 0; child < 3; child++) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            zoo_sleep_ms(20);
            if (strcmp(how, "_exit") == 0) _exit(9);
            if (strcmp(how, "exec") == 0) execl("/bin/sh", "sh", "-c", "exit 9", (char *)NULL);
            if (strcmp(how, "abort") == 0) abort();
            exit(9);
        }
        zoo_work(&zoo, BF16, 100, 1000);
        int status;
        waitpid(pid, &status, 0);
        printf("child: %d\n", status);
    }
    zoo_work(&zoo, BF16, 100, 1000);
    zoo_truth();
    return 0;
}
