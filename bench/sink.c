/* A daemon that does nothing but count: how far a sender comes when the daemon costs least.
 *
 * Usage: sink SOCKET COUNTERS. Receives datagrams that hold "call some_func I from wT" (record I
 * of thread T, 0 to 63) and counts, in the shared file COUNTERS, those received and those whose
 * number is not above its thread's last. Other datagrams are ignored. Ends at SIGTERM and tells.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define THREADS 64

static const char before_number[] = "call some_func ", before_thread[] = " from w";

struct counters {
    _Atomic int64_t received, disorder;
};

static volatile sig_atomic_t terminated;

static void on_terminate(int number)
{
    (void)number;
    terminated = 1;
}

static int listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return -1;
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    /* A signal just before recv would not end it. */
    struct timeval patience = {.tv_usec = 100000};
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) != 0)
        return -1;
    return fd;
}

static struct counters *map_counters(const char *path)
{
    int fd = open(path, O_RDWR);
    if (fd < 0)
        return NULL;
    void *memory = mmap(NULL, sizeof(struct counters), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return memory == MAP_FAILED ? NULL : memory;
}

static void count(struct counters *counters, const char *datagram)
{
    static int64_t last[THREADS]; /* number + 1 */
    const char *found = strstr(datagram, before_number);
    if (found == NULL)
        return;
    char *end;
    int64_t number = strtoll(found + strlen(before_number), &end, 10);
    if (strncmp(end, before_thread, strlen(before_thread)) != 0)
        return;
    unsigned long thread = strtoul(end + strlen(before_thread), NULL, 10);
    if (thread >= THREADS || number + 1 <= last[thread])
        atomic_fetch_add(&counters->disorder, 1);
    else
        last[thread] = number + 1;
    atomic_fetch_add(&counters->received, 1);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: sink SOCKET COUNTERS\n");
        return 2;
    }
    struct sigaction action = {.sa_handler = on_terminate};
    sigaction(SIGTERM, &action, NULL);
    int fd = listen_at(argv[1]);
    struct counters *counters = map_counters(argv[2]);
    if (fd < 0 || counters == NULL) {
        perror("sink");
        return 1;
    }
    puts("listening");
    fflush(stdout);
    static char datagram[1 << 16];
    while (!terminated) {
        ssize_t size = recv(fd, datagram, sizeof(datagram) - 1, 0);
        if (size >= 0) {
            datagram[size] = '\0';
            count(counters, datagram);
        }
    }
    printf("{\"received\": %lld, \"disorder\": %lld}\n", (long long)atomic_load(&counters->received),
           (long long)atomic_load(&counters->disorder));
    return 0;
}
