/* The floor under every reader of /proc: only the system calls that a full snapshot of processes and open files cannot
 * do without, on one thread, with nothing parsed and nothing kept. What the agent takes beyond this is its own work.
 *
 *   cc -O2 -o proc_floor proc_floor.c && ./proc_floor [full|skip] [ROUNDS]
 *
 *   full   of every process stat, status, cmdline, cgroup, exe, cwd, root, and of every descriptor its link, its access
 *          mode (lstat), its device, inode and size (statx) and its flags and offset (fdinfo)
 *   skip   the same, but passes over processes none of whose threads ran since the round before
 *
 * One line a round: milliseconds, of them CPU, processes, processes passed over, descriptors, bytes read. Half a second
 * between rounds.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 1 << 16 };

static struct { long pid; unsigned long long run_ns, turns, threads; } seen[SLOTS];
static char text[1 << 17];
static long descriptors, bytes;

static double ms(struct timespec from, struct timespec to)
{
    return (to.tv_sec - from.tv_sec) * 1e3 + (to.tv_nsec - from.tv_nsec) * 1e-6;
}

static long slurp(int at, const char *name)
{
    int file = openat(at, name, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (file < 0)
        return 0;
    long got = read(file, text, sizeof text - 1);
    close(file);
    if (got < 0)
        got = 0;
    text[got] = 0;
    bytes += got;
    return got;
}

static void link_of(int at, const char *name)
{
    long got = readlinkat(at, name, text, sizeof text);
    if (got > 0)
        bytes += got;
}

static DIR *folder(int at, const char *name)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir && fd >= 0)
        close(fd);
    return dir;
}

/* Whether any thread ran since this was asked last. A first look, or a table that is full, says yes. */
static int ran(int process, long pid)
{
    unsigned long long run_ns = 0, turns = 0, threads = 0;
    DIR *tasks = folder(process, "task");
    if (!tasks)
        return 1;
    for (struct dirent *task; (task = readdir(tasks));) {
        char path[64];
        unsigned long long run, wait, count;
        if (!isdigit((unsigned char)task->d_name[0]))
            continue;
        snprintf(path, sizeof path, "%.32s/schedstat", task->d_name);
        if (slurp(dirfd(tasks), path) && sscanf(text, "%llu %llu %llu", &run, &wait, &count) == 3)
            run_ns += run, turns += count, threads++;
    }
    closedir(tasks);
    size_t slot = (size_t)pid * 2654435761u % SLOTS;
    for (int tries = 0; tries < SLOTS && seen[slot].pid && seen[slot].pid != pid; tries++)
        slot = (slot + 1) % SLOTS;
    int same = seen[slot].pid == pid && threads && seen[slot].run_ns == run_ns && seen[slot].turns == turns &&
               seen[slot].threads == threads;
    seen[slot].pid = pid, seen[slot].run_ns = run_ns, seen[slot].turns = turns, seen[slot].threads = threads;
    return !same;
}

static void read_files(int process)
{
    DIR *fds = folder(process, "fd");
    if (!fds)
        return;
    int fdinfo = openat(process, "fdinfo", O_PATH | O_DIRECTORY | O_CLOEXEC);
    for (struct dirent *entry; (entry = readdir(fds));) {
        struct stat mode;
        struct statx facts;
        if (entry->d_name[0] == '.')
            continue;
        descriptors++;
        link_of(dirfd(fds), entry->d_name);
        fstatat(dirfd(fds), entry->d_name, &mode, AT_SYMLINK_NOFOLLOW);
        statx(dirfd(fds), entry->d_name, AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &facts);
        slurp(fdinfo, entry->d_name);
    }
    closedir(fds);
    if (fdinfo >= 0)
        close(fdinfo);
}

int main(int argc, char **argv)
{
    static const char *const files[] = {"stat", "status", "cmdline", "cgroup"};
    static const char *const links[] = {"exe", "cwd", "root"};
    int skip = argc > 1 && !strcmp(argv[1], "skip"), rounds = argc > 2 ? atoi(argv[2]) : 1;
    for (int round = 0; round < rounds; round++) {
        long processes = 0, passed = 0;
        struct timespec start, end, cpu_start, cpu_end;
        if (round)
            usleep(500000);
        descriptors = bytes = 0;
        clock_gettime(CLOCK_MONOTONIC, &start);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu_start);
        DIR *proc = opendir("/proc");
        if (!proc)
            return perror("open /proc"), 1;
        for (struct dirent *entry; (entry = readdir(proc));) {
            if (!isdigit((unsigned char)entry->d_name[0]))
                continue;
            int process = openat(dirfd(proc), entry->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);
            if (process < 0)
                continue;
            processes++;
            if (skip && !ran(process, atol(entry->d_name))) {
                passed++;
            } else {
                for (size_t n = 0; n < sizeof files / sizeof *files; n++)
                    slurp(process, files[n]);
                for (size_t n = 0; n < sizeof links / sizeof *links; n++)
                    link_of(process, links[n]);
                read_files(process);
            }
            close(process);
        }
        closedir(proc);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu_end);
        clock_gettime(CLOCK_MONOTONIC, &end);
        printf("%.2f ms %.2f cpu-ms %ld processes %ld passed-over %ld descriptors %ld bytes\n", ms(start, end), ms(cpu_start, cpu_end), processes, passed, descriptors, bytes);
        fflush(stdout);
    }
    return 0;
}
