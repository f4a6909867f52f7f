/* Starts itself again by posix_spawn and by system(), which share memory with the parent for a moment; with "cuda", works itself before and after. */
#include "zoo.h"

#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "child") == 0) {
        zoo_open();
        struct zoo zoo = zoo_primary(0);
        zoo_work(&zoo, FP8, 150, 1000);
        zoo_truth();
        return 6;
    }
    struct zoo zoo;
    int cuda = argc > 1 && strcmp(argv[1], "cuda") == 0;
    if (cuda) {
        zoo_open();
        zoo = zoo_primary(0);
        zoo_work(&zoo, BF16, 100, 1000);
    }
    char *child[] = {argv[0], "child", NULL};
    pid_t pid;
    int status;
    if (posix_spawn(&pid, argv[0], NULL, NULL, child, environ) != 0) return 3;
    if (cuda) zoo_work(&zoo, BF16, 100, 1000);
    waitpid(pid, &status, 0);
    printf("child: %d\n", status);
    printf("shell: %d\n", system("exit 8"));
    if (cuda) zoo_work(&zoo, BF16, 100, 1000);
    zoo_truth();
    return 0;
}
