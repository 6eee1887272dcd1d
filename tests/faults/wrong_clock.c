/* A wall clock that is wrong by the seconds in the file $WRONG_CLOCK, looked up once in a second:
   what an operator or a broken time server does to a machine. Monotonic clocks stay right. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

typedef int (*clock_function)(clockid_t, struct timespec *);

static int true_time(clockid_t clock, struct timespec *now) {
    static clock_function next;
    if (!next)
        next = (clock_function)dlsym(RTLD_NEXT, "clock_gettime");
    return next(clock, now);
}

static time_t shift(void) {
    static _Thread_local time_t looked = -1, seconds;
    struct timespec now;
    true_time(CLOCK_MONOTONIC, &now);
    if (now.tv_sec != looked) {
        const char *path = getenv("WRONG_CLOCK");
        FILE *file = path ? fopen(path, "r") : NULL;
        long read = 0;
        looked = now.tv_sec;
        if (file) {
            if (fscanf(file, "%ld", &read) == 1)
                seconds = read;
            fclose(file);
        }
    }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = true_time(clock, now);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += shift();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    if (true_time(CLOCK_REALTIME, &exact))
        return -1;
    now->tv_sec = exact.tv_sec + shift();
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *kept) {
    struct timespec now;
    true_time(CLOCK_REALTIME, &now);
    now.tv_sec += shift();
    if (kept)
        *kept = now.tv_sec;
    return now.tv_sec;
}
