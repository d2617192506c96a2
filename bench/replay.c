/* A C-STORE sender that costs next to nothing: messages encoded beforehand, one thread per association, each waiting
 * for every response. It shows the receiver, not itself. No DICOM toolkit: it reads no more of an answer than it needs.
 *
 * usage: replay PORT REQUEST COMMAND DATASET ASSOCIATIONS SECONDS COUNT HOLD
 *   REQUEST   file with a whole A-ASSOCIATE-RQ PDU; context 1 must be accepted
 *   COMMAND   file with a C-STORE-RQ command set
 *   DATASET   file with a data set
 *   SECONDS   each association sends for so long (0: until COUNT)
 *   COUNT     ... or so many instances (0: until SECONDS)
 *   HOLD      1: the last two bytes wait until the receiver has taken the rest; then a time is last byte to response
 * In both files, "1888888888" becomes the instance's number, "1777777777" its series' (new every 40 instances) and
 * "1666666666" its study's (one per association), so that nothing is sent twice.
 * Standard input: one byte begins the sending, when given as "-" after HOLD (then "ready" is printed before).
 * prints: acknowledged failed seconds p50_us p95_us p99_us max_us
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <linux/sockios.h>
#include <time.h>
#include <unistd.h>

#define PER_SERIES 40
#define MOST_MARKS 16
#define DIGITS 10

static const char *const MARKS[] = {"1888888888", "1777777777", "1666666666"};
enum { INSTANCE, SERIES, STUDY, LEVELS };

struct bytes { unsigned char *data; size_t length; };

struct sender {
    pthread_t thread;
    int number, socket;
    struct bytes wire;                 /* one whole message as PDUs */
    size_t places[LEVELS][MOST_MARKS];
    int found[LEVELS];
    long acknowledged, failed, timed;
    uint32_t *times;                   /* microseconds */
    double end;
};

static struct bytes request, command, dataset;
static int port, associations, hold;
static double seconds;
static long most;
static pthread_barrier_t begin;

static void die(const char *what) {
    fprintf(stderr, "replay: %s: %s\n", what, errno ? strerror(errno) : "not as expected");
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static struct bytes load(const char *path) {
    FILE *file = fopen(path, "rb");
    struct bytes all;
    if (file == NULL) die(path);
    fseek(file, 0, SEEK_END);
    all.length = (size_t)ftell(file);
    rewind(file);
    all.data = malloc(all.length);
    if (all.data == NULL || fread(all.data, 1, all.length, file) != all.length) die(path);
    fclose(file);
    return all;
}

static void give(int to, const unsigned char *data, size_t length) {
    while (length > 0) {
        ssize_t n = send(to, data, length, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) die("send");
        data += n;
        length -= (size_t)n;
    }
}

static void take(int from, unsigned char *data, size_t length) {
    while (length > 0) {
        ssize_t n = recv(from, data, length, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) { if (n == 0) errno = ECONNRESET; die("recv"); }
        data += n;
        length -= (size_t)n;
    }
}

static uint32_t big(const unsigned char *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint32_t little(const unsigned char *at) {
    return (uint32_t)at[3] << 24 | (uint32_t)at[2] << 16 | (uint32_t)at[1] << 8 | at[0];
}

/* A whole PDU into buffer; its length. */
static size_t read_pdu(int from, unsigned char *buffer, size_t room) {
    take(from, buffer, 6);
    size_t length = big(buffer + 2);
    if (length + 6 > room) { errno = 0; die("a PDU that long"); }
    take(from, buffer + 6, length);
    return length + 6;
}

/* The receiver's maximum PDU length; PS3.8 9.3.3. */
static size_t negotiate(int with) {
    static const size_t ROOM = 1 << 16;
    unsigned char *answer = malloc(ROOM);
    size_t limit = 0, at = 74;
    int accepted = 0;
    give(with, request.data, request.length);
    size_t end = read_pdu(with, answer, ROOM);
    errno = 0;
    if (answer[0] != 2) die("the association was not accepted");
    while (at + 4 <= end) {
        size_t length = (size_t)answer[at + 2] << 8 | answer[at + 3];
        if (answer[at] == 0x21 && answer[at + 4] == 1 && answer[at + 6] == 0) accepted = 1;
        if (answer[at] == 0x50)
            for (size_t sub = at + 4; sub + 8 <= at + 4 + length;) {
                if (answer[sub] == 0x51) limit = big(answer + sub + 4);
                sub += 4 + ((size_t)answer[sub + 2] << 8 | answer[sub + 3]);
            }
        at += 4 + length;
    }
    if (!accepted) die("the presentation context was not accepted");
    free(answer);
    return limit == 0 || limit > 131072 ? 131072 : limit;
}

static void put_pdvs(struct bytes *wire, const struct bytes *message, size_t limit, int is_command) {
    size_t most_data = limit - 6;      /* the limit counts the PDV's own header, PS3.8 D.1 */
    for (size_t at = 0; at < message->length; at += most_data) {
        size_t part = message->length - at < most_data ? message->length - at : most_data;
        unsigned char *head = wire->data + wire->length;
        uint32_t pdu = htonl((uint32_t)part + 6), pdv = htonl((uint32_t)part + 2);
        head[0] = 4;
        head[1] = 0;
        memcpy(head + 2, &pdu, 4);
        memcpy(head + 6, &pdv, 4);
        head[10] = 1;
        head[11] = (unsigned char)(is_command | (at + part == message->length ? 2 : 0));
        memcpy(head + 12, message->data + at, part);
        wire->length += 12 + part;
    }
}

static int find_marks(const struct bytes *wire, const char *mark, size_t *places) {
    int found = 0;
    unsigned char *at = wire->data, *end = wire->data + wire->length;
    while (found < MOST_MARKS && (at = memmem(at, (size_t)(end - at), mark, DIGITS)) != NULL) {
        places[found++] = (size_t)(at - wire->data);
        at += DIGITS;
        if ((size_t)(at - wire->data) > 65536) break;   /* none within pixels */
    }
    return found;
}

static void number_it(struct sender *me, long n) {
    long numbers[LEVELS] = {n, n / PER_SERIES, 0};
    for (int level = 0; level < LEVELS; level++) {
        char text[DIGITS + 1];
        snprintf(text, sizeof text, "1%02u%07u", (unsigned)me->number % 100, (unsigned)(numbers[level] % 10000000));
        for (int i = 0; i < me->found[level]; i++) memcpy(me->wire.data + me->places[level][i], text, DIGITS);
    }
}

/* The status of a response, or -1; PS3.7 E.1 */
static int status_of(const unsigned char *pdu, size_t length) {
    if (pdu[0] != 4) return -1;
    for (size_t at = 12; at + 8 <= length;) {
        uint32_t value = little(pdu + at + 4);
        if (pdu[at] == 0 && pdu[at + 1] == 0 && pdu[at + 2] == 0 && pdu[at + 3] == 9)
            return pdu[at + 8] | pdu[at + 9] << 8;
        at += 8 + value;
    }
    return -1;
}

static void until_drained(int to) {
    int waiting = 1;
    struct timespec nap = {0, 200000}, rest = {0, 5000000};
    while (ioctl(to, SIOCOUTQ, &waiting) == 0 && waiting > 0) nanosleep(&nap, NULL);
    nanosleep(&rest, NULL);            /* acknowledged by the kernel; now the process has it too */
}

static void *run(void *argument) {
    struct sender *me = argument;
    static const size_t ROOM = 1 << 16;
    unsigned char *answer = malloc(ROOM);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int on = 1;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    me->socket = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(me->socket, (struct sockaddr *)&to, sizeof to) != 0) die("connect");
    setsockopt(me->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    size_t limit = negotiate(me->socket);
    me->wire.data = malloc(command.length + dataset.length + 12 * ((command.length + dataset.length) / (limit - 6) + 4));
    put_pdvs(&me->wire, &command, limit, 1);
    put_pdvs(&me->wire, &dataset, limit, 0);
    for (int level = 0; level < LEVELS; level++)
        me->found[level] = find_marks(&me->wire, MARKS[level], me->places[level]);
    errno = 0;
    if (me->found[INSTANCE] < 2 || me->found[SERIES] < 1) die("marks in the messages");
    long room = most > 0 ? most : (long)(seconds * 200000) + 1000;
    me->times = malloc(sizeof(uint32_t) * (size_t)room);
    pthread_barrier_wait(&begin);
    double start = now(), until = seconds > 0 ? start + seconds : 1e18;
    for (long n = 0; (most == 0 || n < most) && now() < until; n++) {
        number_it(me, n);
        double sent = now();
        if (hold) {
            give(me->socket, me->wire.data, me->wire.length - 2);
            until_drained(me->socket);
            sent = now();
            give(me->socket, me->wire.data + me->wire.length - 2, 2);
        } else {
            give(me->socket, me->wire.data, me->wire.length);
        }
        size_t length = read_pdu(me->socket, answer, ROOM);
        if (me->timed < room) me->times[me->timed++] = (uint32_t)((now() - sent) * 1e6);
        if (status_of(answer, length) == 0) me->acknowledged++;
        else me->failed++;
    }
    me->end = now();
    static const unsigned char RELEASE[10] = {5, 0, 0, 0, 0, 4, 0, 0, 0, 0};
    give(me->socket, RELEASE, sizeof RELEASE);
    read_pdu(me->socket, answer, ROOM);
    close(me->socket);
    free(answer);
    return NULL;
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

int main(int count, char **arguments) {
    if (count < 9) { fprintf(stderr, "see the head of replay.c\n"); return 2; }
    port = atoi(arguments[1]);
    request = load(arguments[2]);
    command = load(arguments[3]);
    dataset = load(arguments[4]);
    associations = atoi(arguments[5]);
    seconds = atof(arguments[6]);
    most = atol(arguments[7]);
    hold = atoi(arguments[8]);
    struct sender *all = calloc((size_t)associations, sizeof *all);
    pthread_barrier_init(&begin, NULL, (unsigned)associations + 1);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 1 << 18);
    for (int i = 0; i < associations; i++) {
        all[i].number = i;
        if (pthread_create(&all[i].thread, &small, run, &all[i]) != 0) die("pthread_create");
    }
    if (count > 9) {
        char one;
        /* all associations are open before anybody is asked to measure them */
        while (1) {
            int open_ones = 0;
            for (int i = 0; i < associations; i++) open_ones += __atomic_load_n(&all[i].times, __ATOMIC_ACQUIRE) != NULL;
            if (open_ones == associations) break;
            usleep(1000);
        }
        puts("ready");
        fflush(stdout);
        if (read(0, &one, 1) < 0) die("standard input");
    }
    pthread_barrier_wait(&begin);
    double start = now(), end = start;
    long acknowledged = 0, failed = 0, timed = 0;
    for (int i = 0; i < associations; i++) {
        pthread_join(all[i].thread, NULL);
        acknowledged += all[i].acknowledged;
        failed += all[i].failed;
        timed += all[i].timed;
        if (all[i].end > end) end = all[i].end;
    }
    uint32_t *times = malloc(sizeof *times * (size_t)(timed + 1));
    long at = 0;
    for (int i = 0; i < associations; i++) {
        memcpy(times + at, all[i].times, sizeof *times * (size_t)all[i].timed);
        at += all[i].timed;
    }
    qsort(times, (size_t)timed, sizeof *times, by_value);
    if (timed == 0) times[timed++] = 0;
    printf("%ld %ld %.6f %u %u %u %u\n", acknowledged, failed, end - start, times[timed / 2], times[timed * 95 / 100],
           times[timed * 99 / 100], times[timed - 1]);
    return 0;
}
