/* The bar for throughput: a plain loop of blocking sendto(2), one per record.
 *
 * Usage: sendto_loop SOCKET COUNT PREFIX TAIL. Sends the same bytes as the benchmark's handlers,
 * PREFIX, "call some_func I from ", TAIL and a NUL, and prints when it began and ended (ns of
 * CLOCK_MONOTONIC) and its processor time (ns).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

static long long now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (argc != 5 || strlen(argv[1]) >= sizeof(address.sun_path)) {
        fprintf(stderr, "usage: sendto_loop SOCKET COUNT PREFIX TAIL\n");
        return 2;
    }
    strcpy(address.sun_path, argv[1]);
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        perror(argv[1]);
        return 1;
    }
    long count = atol(argv[2]);
    long long begin = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    for (long i = 0; i < count; i++) {
        char record[4096];
        int size = snprintf(record, sizeof(record), "%scall some_func %ld from %s", argv[3], i,
                            argv[4]);
        if (sendto(fd, record, size + 1, 0, NULL, 0) != size + 1) {
            perror("sendto");
            return 1;
        }
    }
    printf("{\"begin\": %lld, \"end\": %lld, \"cpu\": %lld}\n", begin, now(CLOCK_MONOTONIC),
           now(CLOCK_PROCESS_CPUTIME_ID) - cpu);
    return 0;
}
