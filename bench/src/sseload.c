/* sseload: a client that loads a streaming LLM gateway. epoll, one thread, loopback only. See README.md. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef uint64_t u64;
static u64 now_ns(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return (u64)t.tv_sec * 1000000000ull + t.tv_nsec; }

/* ---- histograms: log-linear, 1/64 resolution ------------------------ */
struct hist { u64 n, max; double sum; u64 b[64 * 64]; };
static void hadd(struct hist *h, u64 v) {
    int e = v < 64 ? 0 : 63 - __builtin_clzll(v) - 5; unsigned i = e ? e * 64 + (unsigned)((v >> (e - 1)) & 63) : (unsigned)v;
    if (i >= 64 * 64) i = 64 * 64 - 1;
    h->b[i]++; h->n++; h->sum += v; if (v > h->max) h->max = v;
}
static double hval(unsigned i) { unsigned e = i / 64, m = i % 64; return e ? (double)((u64)(64 + m) << (e - 1)) : m; }
static double hq(struct hist *h, double q) { /* us */
    if (!h->n) return 0;
    u64 k = (u64)ceil(q * h->n), s = 0; if (!k) k = 1;
    for (unsigned i = 0; i < 64 * 64; i++) { s += h->b[i]; if (s >= k) { double v = hval(i); if (v > h->max) v = h->max; return v / 1000.0; } }
    return h->max / 1000.0;
}
static struct hist H_ttfb, H_ttft, H_gap, H_done, H_fwd, H_req, H_add, H_lat;

/* ---- options -------------------------------------------------------- */
static int port = 8000, C = 1, fresh, json, verbose, abort_after = -1, stop_after = -1, mockport, nwarm, half;
static long R = 0, expect = -1, slow = 0; static double T = 0, rate = 0, ramp = 0, hold = 0, timeout_s = 60;
static char host[128] = "127.0.0.1", path[1024] = "/v1/chat/completions", hdrs[16384], *body; static size_t bodyl;
static char *req; static size_t reql;

/* ---- state ---------------------------------------------------------- */
enum { IDLE, CONNECTING, SENDING, HEAD, BODY, DEAD };
struct conn {
    int fd, st, id; size_t sent;
    char *carry; size_t cl, cc;           /* an unfinished line of the event stream, or the unfinished head */
    int chunked, ck, close, status, sse, done_seen, used, paused; long clen, left; /* ck: chunk parser state */
    u64 t0, th, tf, tl, key; long frames, contents; u64 rbytes, rt;
};
static struct conn *cs; static int ep; static u64 t_start, t_end, t_warm;
static u64 started, ok, frames, contents, bytes, aborted, reconnects;
static u64 e_connect, e_reset, e_early, e_trunc, e_short, e_timeout, e_proto, e_status, st_count[600];
static struct { u64 key, t; } *ab; static int nab, cab;
static long open_streams, peak_open;
static volatile sig_atomic_t quit;
static int finished;

static void conn_close(struct conn *c) { if (c->fd >= 0) close(c->fd); c->fd = -1; c->st = IDLE; c->used = 0; }
static int may_start(u64 now) { if (quit || finished) return 0; if (R && (long)started >= R) return 0; if (T > 0 && now >= t_end) return 0; return 1; }
static void begin(struct conn *c, u64 when);
static void again(struct conn *c) { if (rate > 0) return; u64 n = now_ns(); if (may_start(n)) begin(c, n); }
static void fail(struct conn *c, u64 *counter) { if (c->st >= HEAD && c->tf) open_streams--; (*counter)++; conn_close(c); if (ok + e_connect + e_reset + e_early + e_trunc + e_timeout < 1000000000ull) again(c); }
static void mod(struct conn *c, unsigned ev) { struct epoll_event e = { .events = ev, .data.ptr = c }; epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e); }
static void try_send(struct conn *c) {
    while (c->sent < reql) {
        ssize_t w = write(c->fd, req + c->sent, reql - c->sent);
        if (w < 0) { if (errno == EINTR) continue; if (errno == EAGAIN) { mod(c, EPOLLIN | EPOLLOUT); c->st = SENDING; return; } fail(c, &e_reset); return; }
        c->sent += w;
    }
    if (c->st == SENDING || c->st == CONNECTING) mod(c, EPOLLIN);
    c->st = HEAD;
}
static void begin(struct conn *c, u64 when) {
    started++; c->t0 = when; c->th = c->tf = c->tl = c->key = 0; c->frames = c->contents = 0; c->cl = 0; c->sent = 0; c->status = c->sse = c->done_seen = c->paused = 0; c->rbytes = 0;
    if (fresh) conn_close(c);
    if (c->fd < 0) {
        int one = 1; c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (c->fd < 0) { e_connect++; c->st = IDLE; return; }
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (slow > 0 || stop_after >= 0) { int rb = 4096; setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &rb, sizeof rb); }
        struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) }; inet_pton(AF_INET, host, &a.sin_addr);
        int r = connect(c->fd, (void *)&a, sizeof a);
        if (r < 0 && errno != EINPROGRESS) { e_connect++; close(c->fd); c->fd = -1; c->st = IDLE; return; }
        c->st = CONNECTING; c->used = 0;
        struct epoll_event e = { .events = EPOLLIN | EPOLLOUT, .data.ptr = c }; epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
        return;
    }
    c->used = 1; c->st = HEAD; try_send(c);
}
static void finish(struct conn *c, u64 now) {
    if (c->tf) open_streams--;
    st_count[c->status < 600 ? c->status : 599]++;
    if (c->status != 200) e_status++;
    else if (c->sse && !c->done_seen) e_trunc++;
    else if (expect >= 0 && c->sse && c->contents != expect) e_short++;
    else { ok++; hadd(&H_done, now - c->t0); }
    if (c->close || fresh) conn_close(c); else c->st = IDLE;
    again(c);
}
static u64 num(const char *p, const char *e) { u64 v = 0; while (p < e && isdigit((unsigned char)*p)) v = v * 10 + *p++ - '0'; return v; }
static int frame(struct conn *c, const char *l, size_t n, u64 now) { /* a data: line */
    const char *e = l + n; int content = 0;
    if (n >= 12 && memmem(l, n < 16 ? n : 16, "[DONE]", 6)) c->done_seen = 1;
    else if (memmem(l, n, "message_stop", 12) || memmem(l, n, "response.completed", 18)) c->done_seen = 1;
    if (!c->tf) { c->tf = now; hadd(&H_ttft, now - c->t0); open_streams++; if (open_streams > peak_open) peak_open = open_streams; }
    else hadd(&H_gap, now - c->tl);
    c->tl = now; c->frames++; frames++;
    const char *s = memmem(l, n, "@S", 2);
    if (s) {
        u64 sent = num(s + 2, e); hadd(&H_fwd, now > sent ? now - sent : 0); content = 1;
        if (!c->key) { const char *r = memmem(l, s - l, "@R", 2); if (r) { c->key = num(r + 2, s); u64 q = c->key > c->t0 ? c->key - c->t0 : 0; hadd(&H_req, q); hadd(&H_add, q + (now > sent ? now - sent : 0)); } }
    }
    if (content) { c->contents++; contents++; }
    if (abort_after >= 0 && c->contents >= abort_after) {
        if (nab == cab) ab = realloc(ab, sizeof *ab * (cab = cab ? cab * 2 : 1024));
        ab[nab].key = c->key; ab[nab].t = now_ns(); nab++; aborted++; open_streams--;
        if (half) { struct linger lg = { 1, 0 }; setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &lg, sizeof lg); }
        conn_close(c); again(c); return 1;
    }
    return 0;
}
static int payload(struct conn *c, const char *p, size_t n, u64 now) {
    bytes += n; c->rbytes += n;
    if (!c->sse) return 0;
    const char *e = p + n;
    while (p < e) {
        const char *nl = memchr(p, '\n', e - p);
        if (!nl) { size_t k = e - p; if (c->cl + k > c->cc) c->carry = realloc(c->carry, c->cc = (c->cl + k) * 2 + 256); memcpy(c->carry + c->cl, p, k); c->cl += k; return 0; }
        if (c->cl) {
            size_t k = nl - p; if (c->cl + k > c->cc) c->carry = realloc(c->carry, c->cc = (c->cl + k) * 2 + 256); memcpy(c->carry + c->cl, p, k); k += c->cl; c->cl = 0;
            if (k > 5 && !memcmp(c->carry, "data:", 5) && frame(c, c->carry, k, now)) return 1;
        } else if (nl - p > 5 && !memcmp(p, "data:", 5) && frame(c, p, nl - p, now)) return 1;
        p = nl + 1;
    }
    return 0;
}
static void feed(struct conn *c, char *p, size_t n, u64 now) {
    char *e = p + n;
    if (c->st == HEAD) {
        size_t k = n; if (c->cl + k > c->cc) c->carry = realloc(c->carry, c->cc = (c->cl + k) * 2 + 256);
        size_t old = c->cl; memcpy(c->carry + c->cl, p, k); c->cl += k;
        char *h = c->carry, *end = memmem(h, c->cl, "\r\n\r\n", 4);
        if (!end) { if (c->cl > 65536) fail(c, &e_proto); return; }
        size_t hl = end - h + 4; p += hl - old; c->cl = 0;
        if (memcmp(h, "HTTP/1.", 7)) { fail(c, &e_proto); return; }
        c->status = atoi(h + 9); c->close = h[7] == '0'; c->chunked = 0; c->clen = -1; c->sse = 0; c->ck = 0; c->left = 0;
        if (c->status == 100) { if (p < e) feed(c, p, e - p, now); return; }
        for (char *l = memchr(h, '\n', hl); l && l + 3 < h + hl; l = memchr(l + 1, '\n', h + hl - l - 1)) {
            char *s = l + 1, *v = memchr(s, ':', h + hl - s), *q = memchr(s, '\r', h + hl - s); if (!v || !q || v > q) continue;
            v++; while (*v == ' ') v++;
            if (!strncasecmp(s, "content-length:", 15)) c->clen = strtol(v, NULL, 10);
            else if (!strncasecmp(s, "transfer-encoding:", 18)) c->chunked = !strncasecmp(v, "chunked", 7);
            else if (!strncasecmp(s, "content-type:", 13)) c->sse = !strncasecmp(v, "text/event-stream", 17);
            else if (!strncasecmp(s, "connection:", 11) && !strncasecmp(v, "close", 5)) c->close = 1;
        }
        c->th = now; hadd(&H_ttfb, now - c->t0); c->st = BODY;
        if (!c->chunked && c->clen < 0) c->close = 1;
        if (c->clen == 0) { finish(c, now); return; }
        c->left = c->chunked ? 0 : c->clen;
    }
    if (c->st != BODY) return;
    if (!c->chunked) {
        size_t k = e - p; if (c->clen >= 0 && (long)k > c->left) k = c->left;
        if (k && payload(c, p, k, now)) return;
        if (c->clen >= 0 && (c->left -= k) == 0) { if (!c->sse) hadd(&H_lat, now - c->t0); finish(c, now); }
        return;
    }
    while (p < e) switch (c->ck) { /* 0 size, 1 extension, 2 data, 3 CR, 4 LF, 5 trailer */
        case 0: if (isxdigit((unsigned char)*p)) { c->left = c->left * 16 + (*p <= '9' ? *p - '0' : (*p | 32) - 'a' + 10); p++; } else c->ck = 1; break;
        case 1: { char *nl = memchr(p, '\n', e - p); if (!nl) { p = e; break; } p = nl + 1; if (c->left) c->ck = 2; else { c->ck = 5; c->clen = 0; } break; }
        case 2: { size_t k = e - p; if ((long)k > c->left) k = c->left; c->left -= k; char *q = p; p += k; if (payload(c, q, k, now)) return; if (!c->left) c->ck = 3; break; }
        case 3: if (*p != '\r') { fail(c, &e_proto); return; } p++; c->ck = 4; break;
        case 4: if (*p != '\n') { fail(c, &e_proto); return; } p++; c->ck = 0; break;
        case 5: if (*p == '\n') { p++; if (c->clen == 0) { if (!c->sse) hadd(&H_lat, now - c->t0); finish(c, now); return; } c->clen = 0; } else { if (*p != '\r') c->clen = 1; p++; } break;
    }
}
static char rb[262144];
static void on_read(struct conn *c) {
    int fd = c->fd;
    for (int i = 0; i < 8; i++) {
        size_t want = sizeof rb; if (slow > 0 && c->st == BODY) { long k = slow / 20; if (k < 1) k = 1; if (k < (long)want) want = k; }
        ssize_t r = read(c->fd, rb, want); u64 now = now_ns();
        if (r < 0) { if (errno == EINTR) continue; if (errno == EAGAIN) return; fail(c, c->st == BODY ? &e_trunc : &e_reset); return; }
        if (r == 0) {
            if (c->st == BODY && !c->chunked && c->clen < 0) { if (!c->sse) hadd(&H_lat, now - c->t0); finish(c, now); return; }
            if (c->st == IDLE) { conn_close(c); return; }
            if (c->st == HEAD && c->used && !c->cl) { reconnects++; conn_close(c); c->sent = 0; started--; begin(c, c->t0); return; } /* a stale kept connection */
            fail(c, c->st == BODY ? &e_trunc : &e_early); return;
        }
        if (c->st == IDLE) { e_proto++; conn_close(c); return; }
        feed(c, rb, r, now);
        if (c->fd != fd || c->st != BODY) return;
        if (stop_after >= 0 && c->contents >= stop_after) { c->paused = 1; mod(c, 0); return; }
        if (slow > 0) { c->paused = 1; c->rt = now + 50000000ull; mod(c, 0); return; }
        if ((size_t)r < want) return;
    }
}
static void line(const char *name, struct hist *h) {
    if (!h->n) return;
    if (json) printf(",\"%s\":{\"n\":%llu,\"mean\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"max\":%.1f}", name, (unsigned long long)h->n, h->sum / h->n / 1000, hq(h, .5), hq(h, .9), hq(h, .99), h->max / 1000.0);
    else printf("  %-9s n %-9llu mean %9.1f  p50 %9.1f  p90 %9.1f  p99 %9.1f  max %9.1f us\n", name, (unsigned long long)h->n, h->sum / h->n / 1000, hq(h, .5), hq(h, .9), hq(h, .99), h->max / 1000.0);
}
static int cmp(const void *a, const void *b) { u64 x = *(const u64 *)a, y = *(const u64 *)b; return x < y ? -1 : x > y; }
static struct hist H_abort; static long ab_matched;
static void fetch_aborts(void) {
    usleep(500000);
    int fd = socket(AF_INET, SOCK_STREAM, 0); struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(mockport), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    if (connect(fd, (void *)&a, sizeof a)) return;
    const char *q = "GET /aborts HTTP/1.1\r\nconnection: close\r\n\r\n"; if (write(fd, q, strlen(q)) < 0) return; /* answered with content-length; read to the end */
    char *m = NULL; size_t l = 0; shutdown(fd, SHUT_WR);
    for (;;) { m = realloc(m, l + 65537); ssize_t r = read(fd, m + l, 65536); if (r <= 0) break; l += r; }
    m[l] = 0; close(fd);
    char *p = strstr(m, "\r\n\r\n"); if (!p) return;
    size_t nm = 0; u64 (*t)[2] = malloc(sizeof *t * (l / 4 + 1));
    for (p += 4; *p; ) { char *e; t[nm][0] = strtoull(p, &e, 10); t[nm][1] = strtoull(e, &e, 10); nm++; p = *e ? e + 1 : e; }
    qsort(t, nm, sizeof *t, cmp);
    for (int i = 0; i < nab; i++) { u64 *r = ab[i].key ? bsearch(&ab[i].key, t, nm, sizeof *t, cmp) : NULL; if (r) { ab_matched++; hadd(&H_abort, r[1] > ab[i].t ? r[1] - ab[i].t : 0); } }
}
static void onsig(int s) { (void)s; quit = 1; }
static void usage(void) {
    fprintf(stderr, "usage: sseload [-u http://127.0.0.1:8000/v1/chat/completions] [-c connections] [-n requests | -t seconds]\n"
    "  -H 'name: value' (again)  -d body | -D bodyfile   -k new connection per request   -j JSON result\n"
    "  -r req/s open loop (latency counted from the planned time)   -x content frames expected per stream   -o timeout s\n"
    "  -a N  abort after N content frames (-Z by RST); -A MOCKPORT compare with the times the mock noticed\n"
    "  -s B  slow reader, B bytes/s per stream   -S N  stop reading after N content frames, hold\n"
    "  -R conn/s ramp  -W s  hold all streams open this long once all have begun, print 'open N' when they have, then quit\n"
    "  -w N  leave the first N requests out of the numbers\n"); exit(2);
}
int main(int ac, char **av) {
    int o; char *bf = NULL; body = strdup("{\"model\":\"mock-1\",\"stream\":true,\"stream_options\":{\"include_usage\":true},\"messages\":[{\"role\":\"system\",\"content\":\"You are a helpful assistant.\"},{\"role\":\"user\",\"content\":\"Tell me a story about a fox and a dog, please.\"}]}");
    while ((o = getopt(ac, av, "u:c:n:t:H:d:D:kjr:x:o:a:ZA:s:S:R:W:w:v")) != -1) switch (o) {
        case 'u': { char *s = strstr(optarg, "://"); s = s ? s + 3 : optarg; char *sl = strchr(s, '/'), *co = strchr(s, ':'); if (sl) snprintf(path, sizeof path, "%s", sl); if (co) { snprintf(host, sizeof host, "%.*s", (int)(co - s), s); port = atoi(co + 1); } if (strncmp(host, "127.", 4)) { if (!strcmp(host, "localhost")) strcpy(host, "127.0.0.1"); else { fprintf(stderr, "loopback only\n"); return 2; } } break; }
        case 'c': C = atoi(optarg); break; case 'n': R = atol(optarg); break; case 't': T = atof(optarg); break;
        case 'H': strncat(hdrs, optarg, sizeof hdrs - strlen(hdrs) - 3); strcat(hdrs, "\r\n"); break;
        case 'd': body = strdup(optarg); break; case 'D': bf = optarg; break;
        case 'k': fresh = 1; break; case 'j': json = 1; break; case 'r': rate = atof(optarg); break; case 'x': expect = atol(optarg); break;
        case 'o': timeout_s = atof(optarg); break; case 'a': abort_after = atoi(optarg); break; case 'Z': half = 1; break; case 'A': mockport = atoi(optarg); break;
        case 's': slow = atol(optarg); break; case 'S': stop_after = atoi(optarg); break; case 'R': ramp = atof(optarg); break; case 'W': hold = atof(optarg); break; case 'w': nwarm = atoi(optarg); break;
        case 'v': verbose = 1; break; default: usage();
    }
    if (!R && T <= 0) R = C;
    if (bf) { FILE *f = strcmp(bf, "-") ? fopen(bf, "rb") : stdin; if (!f) { perror(bf); return 2; } body = NULL; for (;;) { body = realloc(body, bodyl + 65537); size_t r = fread(body + bodyl, 1, 65536, f); if (!r) break; bodyl += r; } body[bodyl] = 0; } else bodyl = strlen(body);
    req = malloc(bodyl + sizeof hdrs + 2048);
    reql = sprintf(req, "POST %s HTTP/1.1\r\nhost: %s:%d\r\ncontent-type: application/json\r\n%s%scontent-length: %zu\r\n%s\r\n", path, host, port, strcasestr(hdrs, "accept:") ? "" : "accept: text/event-stream\r\n", fresh ? "connection: close\r\n" : "", bodyl, hdrs);
    memcpy(req + reql, body, bodyl); reql += bodyl;
    signal(SIGPIPE, SIG_IGN); signal(SIGINT, onsig); signal(SIGTERM, onsig);
    ep = epoll_create1(0); cs = calloc(C, sizeof *cs); for (int i = 0; i < C; i++) { cs[i].fd = -1; cs[i].id = i; }
    t_start = now_ns(); t_end = t_start + (u64)(T * 1e9);
    u64 arrivals = 0, begun = 0, hold_at = 0, swept = t_start; static struct epoll_event ev[512]; int freehint = 0, said = 0; struct timespec c0; clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &c0);
    if (rate <= 0 && ramp <= 0) for (int i = 0; i < C && may_start(now_ns()); i++) { begin(&cs[i], now_ns()); begun++; }
    for (;;) {
        u64 now = now_ns(), wait = 50000000ull;
        if (rate > 0 && may_start(now)) for (;;) {
            u64 due = t_start + (u64)(arrivals * 1e9 / rate); if (due > now) { if (due - now < wait) wait = due - now; break; }
            if (!may_start(now)) break;
            int f = -1; for (int i = 0; i < C; i++) { int k = (freehint + i) % C; if (cs[k].st == IDLE) { f = k; break; } }
            if (f < 0) { wait = 1000000; break; } /* all busy: the wait counts, since t0 is the planned time */
            arrivals++; begin(&cs[f], due);
        }
        if (ramp > 0) while ((int)begun < C && may_start(now)) { u64 due = t_start + (u64)(begun * 1e9 / ramp); if (due > now) { if (due - now < wait) wait = due - now; break; } begin(&cs[begun++], now); }
        if (slow > 0) wait = wait < 5000000 ? wait : 5000000;
        struct timespec ts = { wait / 1000000000ull, wait % 1000000000ull };
        int k = syscall(SYS_epoll_pwait2, ep, ev, 512, &ts, NULL, 8);
        for (int i = 0; i < k; i++) {
            struct conn *c = ev[i].data.ptr; if (c->fd < 0) continue;
            if (c->st == CONNECTING) { int er = 0; socklen_t l = sizeof er; getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &er, &l); if (er) { fail(c, &e_connect); continue; } try_send(c); if (c->fd < 0) continue; }
            else if (ev[i].events & EPOLLOUT) { try_send(c); if (c->fd < 0) continue; }
            if (c->paused && (ev[i].events & (EPOLLHUP | EPOLLERR))) { fail(c, &e_trunc); continue; }
            if (ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) on_read(c);
        }
        now = now_ns();
        if (nwarm && (long)(ok + e_status) >= nwarm) { nwarm = 0; memset(&H_ttfb, 0, sizeof H_ttfb); memset(&H_ttft, 0, sizeof H_ttft); memset(&H_gap, 0, sizeof H_gap); memset(&H_done, 0, sizeof H_done); memset(&H_fwd, 0, sizeof H_fwd); memset(&H_req, 0, sizeof H_req); memset(&H_add, 0, sizeof H_add); memset(&H_lat, 0, sizeof H_lat); ok = 0; frames = contents = bytes = 0; t_warm = now; }
        if (slow > 0) for (int i = 0; i < C; i++) if (cs[i].paused && cs[i].fd >= 0 && cs[i].rt <= now && !(stop_after >= 0 && cs[i].contents >= stop_after)) { cs[i].paused = 0; mod(&cs[i], EPOLLIN); }
        if (now - swept > 500000000ull) { swept = now; for (int i = 0; i < C; i++) if (cs[i].st != IDLE && !cs[i].paused && now - (cs[i].tl ? cs[i].tl : cs[i].t0) > (u64)(timeout_s * 1e9)) fail(&cs[i], &e_timeout); }
        int busy = 0; for (int i = 0; i < C && !busy; i++) busy = cs[i].st != IDLE;
        if (hold > 0 && !hold_at && open_streams >= C) { hold_at = now; fprintf(stderr, "open %ld\n", open_streams); }
        if (verbose && !said && open_streams >= C) { said = 1; fprintf(stderr, "open %ld\n", open_streams); }
        if (hold_at && now - hold_at > (u64)(hold * 1e9)) break;
        if (stop_after >= 0 && T > 0 && now >= t_end) break;
        if (quit || (!busy && !may_start(now)) || (!busy && rate <= 0 && ramp <= 0) || (T > 0 && now > t_end + (u64)(timeout_s * 1e9))) break;
    }
    u64 t1 = now_ns(); double el = (t1 - (t_warm ? t_warm : t_start)) / 1e9; struct timespec c1; clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &c1);
    double cpu = (c1.tv_sec - c0.tv_sec) + (c1.tv_nsec - c0.tv_nsec) / 1e9;
    for (int i = 0; i < C; i++) if (cs[i].fd >= 0) close(cs[i].fd);
    if (mockport) fetch_aborts();
    u64 errs = e_connect + e_reset + e_early + e_trunc + e_short + e_timeout + e_proto + e_status;
    if (json) { printf("{\"elapsed\":%.3f,\"started\":%llu,\"ok\":%llu,\"aborted\":%llu,\"errors\":%llu,\"frames\":%llu,\"contents\":%llu,\"bytes\":%llu,\"streams_s\":%.1f,\"frames_s\":%.1f,\"peak_open\":%ld,\"own_cpu\":%.3f,\"e\":{\"connect\":%llu,\"reset\":%llu,\"early\":%llu,\"truncated\":%llu,\"short\":%llu,\"timeout\":%llu,\"proto\":%llu,\"status\":%llu}", el, (unsigned long long)started, (unsigned long long)ok, (unsigned long long)aborted, (unsigned long long)errs, (unsigned long long)frames, (unsigned long long)contents, (unsigned long long)bytes, ok / el, frames / el, peak_open, cpu,
        (unsigned long long)e_connect, (unsigned long long)e_reset, (unsigned long long)e_early, (unsigned long long)e_trunc, (unsigned long long)e_short, (unsigned long long)e_timeout, (unsigned long long)e_proto, (unsigned long long)e_status);
        printf(",\"statuses\":{"); const char *sep = "";
        for (int i = 0; i < 600; i++) if (st_count[i]) { printf("%s\"%d\":%llu", sep, i, (unsigned long long)st_count[i]); sep = ","; }
        printf("}");
    } else {
        printf("%.2f s: started %llu, ok %llu (%.1f/s), aborted %llu, frames %llu (%.0f/s), %.2f MB/s, peak open %ld, own cpu %.2f s, stale reconnects %llu\n", el, (unsigned long long)started, (unsigned long long)ok, ok / el, (unsigned long long)aborted, (unsigned long long)frames, frames / el, bytes / el / 1e6, peak_open, cpu, (unsigned long long)reconnects);
        if (errs) { printf("  ERRORS %llu: connect %llu reset %llu early-close %llu truncated %llu wrong-count %llu timeout %llu protocol %llu status %llu", (unsigned long long)errs, (unsigned long long)e_connect, (unsigned long long)e_reset, (unsigned long long)e_early, (unsigned long long)e_trunc, (unsigned long long)e_short, (unsigned long long)e_timeout, (unsigned long long)e_proto, (unsigned long long)e_status);
            for (int i = 0; i < 600; i++) if (st_count[i] && i != 200) printf(" [%d x %llu]", i, (unsigned long long)st_count[i]);
            printf("\n"); }
    }
    line("headers", &H_ttfb); line("ttft", &H_ttft); line("added", &H_add); line("req_path", &H_req); line("forward", &H_fwd); line("gap", &H_gap); line("done", &H_done); line("plain", &H_lat);
    if (mockport) { line("abort", &H_abort); if (json) printf(",\"abort_matched\":%ld", ab_matched); else printf("  aborts matched %ld of %d\n", ab_matched, nab); }
    if (json) printf("}\n");
    return errs ? 1 : 0;
}
