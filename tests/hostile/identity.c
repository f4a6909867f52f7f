/* Programs that become another user, or see another file system: identity HOW. Root is needed for most. */
#include "probe.h"

#include <grp.h>
#include <sched.h>
#include <sys/mount.h>

enum { NOBODY = 65534 };

static void becomes_nobody(void) { MUST(setgroups(0, NULL) == 0 && setgid(NOBODY) == 0 && setuid(NOBODY) == 0); }

/* A file system of its own, so that what is mounted here is nobody else's. */
static void own_mounts(void) {
    MUST(unshare(CLONE_NEWNS) == 0);
    MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
}

static void *becomes_nobody_elsewhere(void *unused) {
    (void)unused;
    becomes_nobody();
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    wanted = argv[1];
    struct zoo zoo;
    if (is("nobody-before")) {
        becomes_nobody();
    } else if (is("nobody-after")) {
        zoo = begin();
        becomes_nobody();
        zoo_work(&zoo, BF16, 300, 1000);
        MUST(setuid(0) != 0);
    } else if (is("nobody-in-a-thread")) {
        zoo = begin();
        pthread_t thread;
        MUST(pthread_create(&thread, NULL, becomes_nobody_elsewhere, NULL) == 0);
        pthread_join(thread, NULL);
        printf("now %d\n", getuid());
    } else if (is("effective")) {
        zoo = begin();
        for (int i = 0; i < 50; i++) {
            MUST(seteuid(NOBODY) == 0);
            zoo_work(&zoo, BF16, 4, 1000);
            MUST(seteuid(0) == 0);
        }
    } else if (is("chroot-before")) {
        /* With the libraries in it already: the loader looks nowhere any more. */
        zoo_open();
        MUST(mkdir("root", 0755) == 0 && chroot("root") == 0 && chdir("/") == 0);
        zoo = zoo_primary(0);
        zoo_work(&zoo, BF16, 300, 1000);
        finish(&zoo);
        return 0;
    } else if (is("chroot-after")) {
        zoo = begin();
        MUST(mkdir("root", 0755) == 0 && chroot("root") == 0 && chdir("/") == 0);
        zoo_work(&zoo, BF16, 300, 1000);
        finish(&zoo);
        return 0;
    } else if (is("no-proc")) {
        own_mounts();
        MUST(mount("none", "/proc", "tmpfs", 0, NULL) == 0);
    } else if (is("no-proc-later")) {
        own_mounts();
        zoo = begin();
        MUST(mount("none", "/proc", "tmpfs", 0, NULL) == 0);
        zoo_work(&zoo, BF16, 300, 1000);
    } else if (is("read-only")) {
        own_mounts();
        MUST(mount("none", "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) == 0 || mount("/", "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) == 0);
    } else if (is("no-shared-memory")) {
        own_mounts();
        MUST(mount("none", "/dev", "tmpfs", MS_RDONLY, NULL) == 0);
    } else if (is("not-dumpable")) {
        becomes_nobody();
        MUST(prctl(PR_SET_DUMPABLE, 0) == 0);
    } else if (is("no-new-privileges")) {
        MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    } else if (is("first-of-its-namespace")) {
        /* The first process of a container; orphans are its own. */
        MUST(unshare(CLONE_NEWPID) == 0);
        pid_t pid = fork();
        if (pid != 0) {
            int status = -1;
            waitpid(pid, &status, 0);
            printf("the first process: %x\n", status);
            return 0;
        }
        zoo = begin();
        zoo_work(&zoo, BF16, 100, 1000);
        finish(&zoo);
        int count = 0;
        while (waitpid(-1, NULL, WNOHANG | __WALL) > 0) count++;
        printf("process %d, children %d\n", getpid(), count);
        exit(6);
    } else if (is("own-file-table")) {
        zoo = begin();
        MUST(unshare(CLONE_FILES | CLONE_FS) == 0);
    } else {
        return 2;
    }
    zoo = begin();
    finish(&zoo);
    return 0;
}
