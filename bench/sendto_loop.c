/* The bar for throughput: a plain loop of blocking sendto(2), one per record.
 *
 * Usage: sendto_loop SOCKET COUNT. Sends the same bytes as the benchmark's
 * handlers: "<134>ServerLog: call some_func I from w" and a NUL.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (argc != 3 || strlen(argv[1]) >= sizeof(address.sun_path)) {
        fprintf(stderr, "usage: sendto_loop SOCKET COUNT\n");
        return 2;
    }
    strcpy(address.sun_path, argv[1]);
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        perror(argv[1]);
        return 1;
    }
    long count = atol(argv[2]);
    for (long i = 0; i < count; i++) {
        char record[128];
        int size = snprintf(record, sizeof(record), "<134>ServerLog: call some_func %ld from w", i);
        if (sendto(fd, record, size + 1, 0, NULL, 0) != size + 1) {
            perror("sendto");
            return 1;
        }
    }
    return 0;
}
