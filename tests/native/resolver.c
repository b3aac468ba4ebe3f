/* A resolver for programs that tests start with LD_PRELOAD: each name has the IPv4 addresses that
 * are the lines of the file $TEST_ADDRESSES. Each look-up adds a byte to the file $TEST_LOOKUPS.
 * Without addresses, no name is known. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>

static struct addrinfo *make_address(const char *text, const char *service, int socktype)
{
    struct addrinfo *item = calloc(1, sizeof *item);
    struct sockaddr_in *address = calloc(1, sizeof *address);
    address->sin_family = AF_INET;
    address->sin_port = htons(service ? atoi(service) : 0);
    inet_pton(AF_INET, text, &address->sin_addr);
    item->ai_family = AF_INET;
    item->ai_socktype = socktype ? socktype : SOCK_STREAM;
    item->ai_addr = (struct sockaddr *)address;
    item->ai_addrlen = sizeof *address;
    return item;
}

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                struct addrinfo **results)
{
    struct addrinfo *first = NULL, **next = &first;
    char line[100];
    FILE *file = fopen(getenv("TEST_LOOKUPS"), "a");
    (void)host;
    fputc('x', file);
    fclose(file);
    file = fopen(getenv("TEST_ADDRESSES"), "r");
    while (fscanf(file, "%99s", line) == 1) {
        *next = make_address(line, service, hints ? hints->ai_socktype : 0);
        next = &(*next)->ai_next;
    }
    fclose(file);
    *results = first;
    return first ? 0 : EAI_NONAME;
}

void freeaddrinfo(struct addrinfo *item)
{
    while (item) {
        struct addrinfo *next = item->ai_next;
        free(item->ai_addr);
        free(item);
        item = next;
    }
}
