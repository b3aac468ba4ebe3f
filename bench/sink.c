/* A daemon that only counts records. It shows how fast a sender is when the daemon costs least.
 *
 * Usage: sink SOCKET COUNTERS
 *
 * It receives datagrams that contain "call some_func I from wT" (record I of thread T, 0 to 63) and
 * ignores others. In the shared file COUNTERS it counts the records received, and those whose
 * number is not above the last one of their thread. At SIGTERM it prints both counts and exits.
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

static const char number_prefix[] = "call some_func ", thread_prefix[] = " from w";

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
    /* A signal that arrives just before recv does not interrupt it, so recv needs a timeout. */
    struct timeval timeout = {.tv_usec = 100000};
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) != 0)
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
    static int64_t last[THREADS]; /* number of the last record + 1, or 0 */
    const char *text = strstr(datagram, number_prefix);
    if (text == NULL)
        return;
    char *end;
    int64_t number = strtoll(text + strlen(number_prefix), &end, 10);
    if (strncmp(end, thread_prefix, strlen(thread_prefix)) != 0)
        return;
    unsigned long thread = strtoul(end + strlen(thread_prefix), NULL, 10);
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
