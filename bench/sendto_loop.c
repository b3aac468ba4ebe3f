/* The reference for throughput: a plain loop with one blocking sendto(2) per record.
 *
 * Usage: sendto_loop SOCKET COUNT PREFIX TAIL
 *
 * Each record consists of PREFIX, "call some_func I from ", TAIL and a NUL byte, which are the bytes
 * that the measured handlers send. The program prints the times at which the loop began and ended
 * (ns of CLOCK_MONOTONIC) and its processor time (ns).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

static long long clock_ns(clockid_t clock)
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
    long long begin = clock_ns(CLOCK_MONOTONIC), cpu_begin = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    for (long i = 0; i < count; i++) {
        char record[4096];
        int size = snprintf(record, sizeof(record), "%scall some_func %ld from %s", argv[3], i,
                            argv[4]);
        if (sendto(fd, record, size + 1, 0, NULL, 0) != size + 1) {
            perror("sendto");
            return 1;
        }
    }
    printf("{\"begin\": %lld, \"end\": %lld, \"cpu\": %lld}\n", begin,
           clock_ns(CLOCK_MONOTONIC), clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_begin);
    return 0;
}
