/* A switch and its links, in user space: for each host a TAP device eth0 in the host's network namespace, and between
 * any two of them delay, jitter, loss, rate and air time. Kernels without sch_netem can do it so, and every kernel alike.
 *
 * netemu CONF. A line of CONF is a host:
 *     NAME NAMESPACE MAC MEDIUM  DELAY_US JITTER_US LOSS_PERCENT RATE_BPS FRAME_US  (up)  the same five (down)
 * MEDIUM -1: each direction has a wire of its own. 0..63: links of one number share the air, as stations of one Wi-Fi
 * cell do: one frame at a time, either way. FRAME_US is what a frame costs the wire beside its bits (preamble,
 * contention, acknowledgement). RATE_BPS 0: no limit. SIGHUP reads CONF again, for new hosts and other figures; SIGTERM
 * ends it. Frames keep their order; a queue of 1 MB a host and direction drops what comes when it is full. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { HOSTS = 64, MEDIA = 64, QUEUE_BYTES = 1 << 20, FRAME_BYTES = 2048, READS = 64, UP = 0, DOWN = 1 };
enum { GAP_BYTES = 24 }; /* Ethernet's preamble, checksum and gap, which a TAP device does not show */

typedef struct packet {
    struct packet *next;
    int64_t due; /* ns, when it leaves the link */
    int length, to;
    unsigned char bytes[];
} Packet;

typedef struct {
    double delay_ns, jitter_ns, loss, rate_bps, frame_ns;
    int64_t own_free, *wire_free; /* when the wire is free again: the link's own, or its medium's */
    int64_t last_due;
    Packet *head, *tail;
    long queued_bytes, frames, dropped;
} Link;

typedef struct {
    char name[32];
    unsigned char mac[6];
    int fd;
    Link link[2];
} Host;

static Host hosts[HOSTS];
static int host_count;
static int64_t medium_free[MEDIA];
static volatile sig_atomic_t reload = 1, stop;

static void on_hup(int number) { (void)number, reload = 1; }
static void on_term(int number) { (void)number, stop = 1; }

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* A TAP device eth0 with this address, up, in a namespace; ours is left as it was. */
static int open_tap(const char *namespace, const unsigned char mac[6]) {
    char path[128];
    snprintf(path, sizeof path, "/run/netns/%s", namespace);
    int ours = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), theirs = open(path, O_RDONLY | O_CLOEXEC);
    if (ours < 0 || theirs < 0 || setns(theirs, CLONE_NEWNET)) die(path);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    struct ifreq request = {.ifr_name = "eth0", .ifr_flags = IFF_TAP | IFF_NO_PI};
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request)) die("/dev/net/tun");
    char command[128];
    snprintf(command, sizeof command, "ip link set eth0 address %02x:%02x:%02x:%02x:%02x:%02x up", mac[0], mac[1],
             mac[2], mac[3], mac[4], mac[5]);
    if (system(command)) exit(1);
    if (setns(ours, CLONE_NEWNET)) die("setns");
    close(ours), close(theirs);
    return fd;
}

static Host *find_or_add(const char *name, const char *namespace, const unsigned mac[6]) {
    for (int i = 0; i < host_count; i++)
        if (!strcmp(hosts[i].name, name)) return &hosts[i];
    if (host_count == HOSTS) return NULL;
    Host *host = &hosts[host_count++];
    snprintf(host->name, sizeof host->name, "%s", name);
    for (int k = 0; k < 6; k++) host->mac[k] = (unsigned char)mac[k];
    host->fd = open_tap(namespace, host->mac);
    return host;
}

static void load(const char *conf) {
    FILE *file = fopen(conf, "r");
    if (!file) die(conf);
    char line[512], name[32], namespace[64];
    while (fgets(line, sizeof line, file)) {
        unsigned mac[6];
        int medium;
        double v[10];
        if (sscanf(line, "%31s %63s %x:%x:%x:%x:%x:%x %d %lf %lf %lf %lf %lf %lf %lf %lf %lf %lf", name, namespace, mac,
                   mac + 1, mac + 2, mac + 3, mac + 4, mac + 5, &medium, v, v + 1, v + 2, v + 3, v + 4, v + 5, v + 6,
                   v + 7, v + 8, v + 9) != 19 || medium >= MEDIA) {
            fprintf(stderr, "netemu: %s: not a host: %s", conf, line);
            continue;
        }
        Host *host = find_or_add(name, namespace, mac);
        if (!host) continue;
        for (int way = UP; way <= DOWN; way++) {
            Link *link = &host->link[way];
            const double *w = v + 5 * way;
            link->delay_ns = w[0] * 1e3, link->jitter_ns = w[1] * 1e3, link->loss = w[2] / 100;
            link->rate_bps = w[3], link->frame_ns = w[4] * 1e3;
            link->wire_free = medium < 0 ? &link->own_free : &medium_free[medium];
        }
    }
    fclose(file);
    fprintf(stderr, "netemu: %d hosts\n", host_count);
}

/* Puts a packet that is there at `at` on the link's wire, behind those that wait, or loses it. */
static void enqueue(Link *link, Packet *packet, int64_t at) {
    link->frames++;
    if (link->queued_bytes + packet->length > QUEUE_BYTES || (link->loss > 0 && drand48() < link->loss)) {
        link->dropped++;
        free(packet);
        return;
    }
    int64_t start = at > *link->wire_free ? at : *link->wire_free;
    double bits = (packet->length + GAP_BYTES) * 8;
    int64_t sent = start + (int64_t)(link->frame_ns + (link->rate_bps > 0 ? bits * 1e9 / link->rate_bps : 0));
    *link->wire_free = sent;
    int64_t due = sent + (int64_t)(link->delay_ns + link->jitter_ns * (2 * drand48() - 1));
    if (due < sent) due = sent;
    if (due < link->last_due) due = link->last_due;
    link->last_due = packet->due = due;
    packet->next = NULL;
    if (link->tail)
        link->tail->next = packet;
    else
        link->head = packet;
    link->tail = packet;
    link->queued_bytes += packet->length;
}

/* The link's first packet if it is due by `now`, else NULL. */
static Packet *dequeue(Link *link, int64_t now) {
    Packet *packet = link->head;
    if (!packet || packet->due > now) return NULL;
    link->head = packet->next;
    if (!link->head) link->tail = NULL;
    link->queued_bytes -= packet->length;
    return packet;
}

/* What a host has sent goes up its link, once for each host it is for: the switch knows every address. */
static void take_in(int from, int64_t now) {
    unsigned char frame[FRAME_BYTES];
    for (int k = 0; k < READS; k++) {
        ssize_t length = read(hosts[from].fd, frame, sizeof frame);
        if (length < 14) return;
        for (int to = 0; to < host_count; to++) {
            if (to == from || (!(frame[0] & 1) && memcmp(frame, hosts[to].mac, 6))) continue;
            Packet *packet = malloc(sizeof *packet + (size_t)length);
            if (!packet) die("malloc");
            packet->length = (int)length, packet->to = to;
            memcpy(packet->bytes, frame, (size_t)length);
            enqueue(&hosts[from].link[UP], packet, now);
        }
    }
}

/* Moves what is due from the links up to the links down, and from there to the hosts. */
static void deliver(void) {
    Packet *packet;
    int64_t now = now_ns();
    for (int i = 0; i < host_count; i++)
        while ((packet = dequeue(&hosts[i].link[UP], now))) enqueue(&hosts[packet->to].link[DOWN], packet, packet->due);
    now = now_ns();
    for (int i = 0; i < host_count; i++)
        while ((packet = dequeue(&hosts[i].link[DOWN], now))) {
            if (write(hosts[i].fd, packet->bytes, (size_t)packet->length) < 0) hosts[i].link[DOWN].dropped++;
            free(packet);
        }
}

static int64_t next_due(void) {
    int64_t next = INT64_MAX;
    for (int i = 0; i < host_count; i++)
        for (int way = UP; way <= DOWN; way++) {
            Packet *head = hosts[i].link[way].head;
            if (head && head->due < next) next = head->due;
        }
    return next;
}

static void serve(const char *conf) {
    while (!stop) {
        if (reload) reload = 0, load(conf);
        struct pollfd polled[HOSTS];
        for (int i = 0; i < host_count; i++) polled[i] = (struct pollfd){.fd = hosts[i].fd, .events = POLLIN};
        int64_t next = next_due(), left = next - now_ns();
        if (left < 0) left = 0;
        struct timespec wait = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
        int ready = ppoll(polled, (nfds_t)host_count, next == INT64_MAX ? NULL : &wait, NULL);
        if (ready < 0 && errno != EINTR) die("ppoll");
        int64_t now = now_ns();
        for (int i = 0; i < host_count && ready > 0; i++)
            if (polled[i].revents & POLLIN) take_in(i, now);
        deliver();
    }
}

int main(int count, char **words) {
    if (count != 2) return fprintf(stderr, "usage: netemu CONF\n"), 2;
    prctl(PR_SET_TIMERSLACK, 1);
    struct sched_param first = {.sched_priority = 10};
    if (sched_setscheduler(0, SCHED_FIFO, &first)) perror("netemu: late when cores are busy: SCHED_FIFO");
    struct sigaction hup = {.sa_handler = on_hup}, term = {.sa_handler = on_term};
    sigaction(SIGHUP, &hup, NULL), sigaction(SIGTERM, &term, NULL), sigaction(SIGINT, &term, NULL);
    serve(words[1]);
    for (int i = 0; i < host_count; i++)
        fprintf(stderr, "%s up %ld frames, %ld dropped; down %ld, %ld dropped\n", hosts[i].name,
                hosts[i].link[UP].frames, hosts[i].link[UP].dropped, hosts[i].link[DOWN].frames,
                hosts[i].link[DOWN].dropped);
    return 0;
}
