/* A process that does nothing but map and unmap a file, beside a thousand mappings that stay: what reading its
 * /proc/PID/maps takes from it. The kernel's lock on a memory map is shared by who reads and held by who changes.
 *
 *   cc -O2 -o map_loop map_loop.c && ./map_loop SECONDS
 *
 * Prints how often it mapped and unmapped a second of its own processor time, and the longest wall time of one turn in
 * milliseconds.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static double seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
    double until = seconds(CLOCK_MONOTONIC) + (argc > 1 ? atof(argv[1]) : 1), longest = 0;
    int file = open("/proc/self/exe", O_RDONLY);
    for (int n = 0; n < 1000; n++)
        /* Neighbours with different rights are not merged. */
        if (mmap(NULL, 4096, n % 2 ? PROT_READ : PROT_NONE, MAP_PRIVATE, file, 0) == MAP_FAILED)
            return perror("mmap"), 1;
    double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    long turns = 0;
    for (double now = seconds(CLOCK_MONOTONIC); now < until;) {
        void *map = mmap(NULL, 1 << 20, PROT_READ, MAP_PRIVATE, file, 0);
        if (map == MAP_FAILED)
            return perror("mmap"), 1;
        munmap(map, 1 << 20);
        double then = now;
        now = seconds(CLOCK_MONOTONIC);
        if (now - then > longest)
            longest = now - then;
        turns++;
    }
    printf("%.0f %.3f\n", turns / (seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu), longest * 1e3);
    return 0;
}
