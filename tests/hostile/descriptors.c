/* Programs that do with their descriptors what they like: descriptors HOW. */
#include "probe.h"

#include <poll.h>

/* What a file of the program's holds at the end, and whether anybody else wrote into it. */
static void holds(const char *path) {
    char text[4096];
    FILE *file = fopen(path, "r");
    MUST(file != NULL);
    printf("%s:\n", path);
    while (fgets(text, sizeof text, file) != NULL) printf("  %s", text);
    fclose(file);
}

static int made(const char *path) {
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    MUST(fd >= 0);
    return fd;
}

/* A line every few milliseconds into each descriptor, so that whatever else is written there would show. */
static void writes(struct zoo *zoo, const int *fds, int count) {
    for (int line = 0; line < 8; line++) {
        for (int i = 0; i < count; i++) dprintf(fds[i], "line %d of descriptor %d\n", line, fds[i]);
        zoo_work(zoo, BF16, 40, 1000);
    }
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    wanted = argv[1];
    struct zoo zoo;
    int fds[8];
    if (is("stderr-closed")) {
        close(2);
    } else if (is("stderr-reused")) {
        /* What stderr was is the program's data now; what is wrong with the GPU must not be written into it. */
        close(2);
        fds[0] = made("data");
        MUST(fds[0] == 2);
        zoo = begin();
        writes(&zoo, fds, 1);
        holds("data");
    } else if (is("streams-reused")) {
        int out = dup(1);
        for (int fd = 0; fd < 3; fd++) close(fd);
        for (int fd = 0; fd < 3; fd++) MUST((fds[fd] = made(fd == 0 ? "zero" : fd == 1 ? "one" : "two")) == fd);
        zoo = begin();
        writes(&zoo, fds, 3);
        dup2(out, 1);
        close(out);
        holds("zero");
        holds("one");
        holds("two");
    } else if (is("stderr-broken")) {
        /* Nobody reads: a write would be a SIGPIPE. */
        int ends[2];
        MUST(pipe(ends) == 0 && dup2(ends[1], 2) == 2);
        close(ends[0]);
        close(ends[1]);
    } else if (is("exec-with-broken-stderr") || is("exec-with-full-stderr")) {
        int ends[2];
        MUST(pipe(ends) == 0 && dup2(ends[1], 2) == 2);
        close(ends[1]);
        if (is("exec-with-broken-stderr")) {
            close(ends[0]);
        } else {
            /* Full, and open to read: a write would wait for ever. */
            MUST(fcntl(2, F_SETFL, O_NONBLOCK) == 0);
            char block[4096] = "";
            while (write(2, block, sizeof block) > 0) continue;
            MUST(fcntl(2, F_SETFL, 0) == 0);
        }
        execl(argv[0], argv[0], "plain", (char *)NULL);
    } else if (is("all-closed") || is("all-ranges-closed") || is("all-replaced")) {
        /* As daemons do, but late: what was open is closed, and the numbers are the program's files. */
        zoo = begin();
        for (int fd = 3; is("all-closed") && fd < 256; fd++) close(fd);
        if (is("all-ranges-closed")) MUST(syscall(SYS_close_range, 3, ~0u, 0) == 0);
        int data = made("data");
        for (int fd = 3; is("all-replaced") && fd < 64; fd++) {
            if (fd != data) MUST(dup2(data, fd) == fd);
        }
        printf("the program's file is %d\n", data);
        fds[0] = data;
        fds[1] = is("all-replaced") ? 40 : made("more");
        writes(&zoo, fds, 2);
        finish(&zoo);
        holds("data");
        if (!is("all-replaced")) holds("more");
        return 0;
    } else if (is("closes-while-it-works")) {
        /* Again and again, while windows are written. */
        zoo = begin();
        for (int i = 0; i < 400; i++) {
            syscall(SYS_close_range, 3, ~0u, 0);
            int fd = made("data");
            dprintf(fd, "round %d\n", i);
            zoo_work(&zoo, BF16, 1, 1000);
        }
        holds("data");
    } else if (is("few")) {
        /* Eight in all; the program uses every one that it finds free. */
        struct rlimit few = {8, 8};
        MUST(setrlimit(RLIMIT_NOFILE, &few) == 0);
        zoo = begin();
        int opened = 0;
        for (int round = 0; round < 20; round++) {
            int list[16];
            for (opened = 0; (list[opened] = open("/dev/null", O_RDONLY)) >= 0; opened++) continue;
            zoo_work(&zoo, BF16, 10, 1000);
            for (int i = 0; i < opened; i++) close(list[i]);
        }
        printf("%d could be opened\n", opened);
    } else if (is("inherited")) {
        /* What a program leaves open for its children. */
        zoo = begin();
        fflush(stdout);
        if (fork() == 0) {
            probe("forked");
            execl("/bin/sh", "sh", "-c", "for f in /proc/self/fd/*; do echo ${f##*/}; done", (char *)NULL);
        }
        wait(NULL);
    } else if (is("locked")) {
        /* Locks of its own, on files whose descriptors come and go. */
        zoo = begin();
        int fd = made("lock");
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        MUST(fcntl(fd, F_SETLK, &lock) == 0);
        zoo_work(&zoo, BF16, 200, 1000);
        fflush(stdout);
        if (fork() == 0) {
            struct flock other = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
            MUST(fcntl(fd, F_GETLK, &other) == 0);
            printf("the lock is %s\n", other.l_type == F_UNLCK ? "lost" : "held");
            fflush(stdout);
            _exit(0);
        }
        wait(NULL);
    } else if (is("pipe-ends")) {
        /* The reader must see the end when the last writer of the program's is closed. */
        int ends[2];
        MUST(pipe(ends) == 0);
        zoo = begin();
        close(ends[1]);
        char c;
        struct pollfd poll_end = {ends[0], POLLIN, 0};
        MUST(poll(&poll_end, 1, 2000) == 1);
        printf("read %zd\n", read(ends[0], &c, 1));
    } else if (!is("plain")) {
        return 2;
    }
    zoo = begin();
    finish(&zoo);
    return 0;
}
