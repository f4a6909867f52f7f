/* Forks two children before it uses CUDA, as data-parallel launchers do; each works and leaves: fork_before exit|_exit. Then it works itself. */
#include "zoo.h"

#include <sys/wait.h>

int main(int argc, char **argv) {
    const char *how = argc > 1 ? argv[1] : "exit";
    for (int child = 0; child < 2; child++) {
        pid_t pid = fork();
        if (pid == 0) {
            zoo_open();
            struct zoo zoo = zoo_primary(0);
            zoo_work(&zoo, FP8, 200, 1000);
            zoo_truth();
            if (strcmp(how, "_exit") == 0) _exit(0);
            exit(0);
        }
        int status;
        if (waitpid(pid, &status, 0) != pid || status != 0) return 3;
    }
    zoo_open();
    struct zoo zoo = zoo_primary(0);
    zoo_work(&zoo, BF16, 200, 1000);
    zoo_truth();
    return 0;
}
