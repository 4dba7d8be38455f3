/* ssemock: a mock LLM upstream for load and misbehaviour tests. epoll, one thread, loopback only.
 * See README.md for the options. Every option "key=value" may be given
 *   on the command line        ssemock -p 9000 n=20 b=16 d=1000
 *   at run time                GET  /set?n=20&d=1000
 *   in the request's URL       POST /v1/chat/completions?n=20
 *   as a request header        x-mock-n: 20
 *   in the model's name        "model":"mock?n=20&d=1000"       (later ones win)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
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

/* ---- options -------------------------------------------------------- */
struct opts {
    long n, b, d, m, ttft, endless, status, failfirst, retryafter, disconnect, rst, stall, split, splitgap,
         chunkbytes, crlf, usage, ts, pt, hdrs, comment, close, tail, eof, gather;
};
static struct { const char *k; size_t off; const char *help; } optab[] = {
#define O(x, h) { #x, offsetof(struct opts, x), h }
    O(n, "content frames per stream (20)"), O(b, "bytes of content per frame (16)"),
    O(d, "us between content frames (0: as fast as the socket takes them)"),
    O(m, "content frames coalesced per HTTP chunk and write (1)"), O(ttft, "us before the response begins (0)"),
    O(endless, "1: frames for ever, as fast as the socket takes them"),
    O(status, "answer with this status instead (with failfirst: only the first k requests)"),
    O(failfirst, "see status"), O(retryafter, "retry-after seconds on 429/503"),
    O(disconnect, "close the connection after this many content frames (-1 never, 0 before the headers)"),
    O(rst, "1: disconnect by RST"), O(stall, "go silent after this many content frames (-1 never)"),
    O(split, "at most this many bytes per write (odd positions; 0 off)"), O(splitgap, "us between such writes (0)"),
    O(chunkbytes, "cut the event stream in HTTP chunks of this many bytes, not at frame ends (0 off)"),
    O(crlf, "1: CRLF line ends in the event stream"), O(usage, "0 never, 1 when asked for by include_usage, 2 always (1)"),
    O(ts, "1: content starts with the time stamps sseload reads (1)"), O(pt, "prompt tokens reported (10)"),
    O(hdrs, "extra response headers, as real providers send (8)"), O(comment, "send a ': ping' comment before every k-th frame (0)"),
    O(close, "1: connection: close after each response"), O(tail, "1: finish, usage and [DONE] in separate writes (0)"),
    O(eof, "1: no chunked coding, the body ends by close"),
    O(gather, "1: what is due at once goes in one write, HTTP chunks kept (0: a write per HTTP chunk)"),
#undef O
};
#define NOPT (sizeof optab / sizeof *optab)
static struct opts G = { .n = 20, .b = 16, .m = 1, .disconnect = -1, .stall = -1, .usage = 1, .ts = 1, .pt = 10, .hdrs = 8 };
static int opt_set(struct opts *o, const char *k, size_t kl, long v) {
    for (size_t i = 0; i < NOPT; i++)
        if (strlen(optab[i].k) == kl && !strncasecmp(optab[i].k, k, kl)) { *(long *)((char *)o + optab[i].off) = v; return 1; }
    return 0;
}
static void opt_query(struct opts *o, const char *s, const char *e) { /* k=v&k=v */
    while (s < e) {
        const char *eq = memchr(s, '=', e - s); if (!eq) return;
        opt_set(o, s, eq - s, strtol(eq + 1, NULL, 10));
        while (s < e && *s != '&') s++;
        s++;
    }
}

/* ---- counters ------------------------------------------------------- */
static struct { u64 conns, requests, opened, completed, aborted, cut, plain, failed, frames, bytes, last_abort_ns; } S;
static long inflight, nconn;
static struct { u64 key, t; } aborts[65536];
static u64 fail_used;
static char last_req[65536]; static size_t last_len;

/* ---- connections ---------------------------------------------------- */
enum { CHAT, ANTHROPIC, RESPONSES };
struct conn {
    int fd, heap, streaming, api, want_out, closing, ka, incl_usage, ready, in_stream, eof;
    struct opts o;
    char *in; size_t inl, inc;
    char *out; size_t outo, outl, outc;
    long i, contents;          /* next step, content frames sent */
    u64 key, due;
    struct conn *rnext;
};
static int ep;
static struct conn **heap; static int hn, hc;
static struct conn *rhead, *rtail;
static void hswap(int a, int b) { struct conn *t = heap[a]; heap[a] = heap[b]; heap[b] = t; heap[a]->heap = a; heap[b]->heap = b; }
static void hup(int i) { while (i && heap[(i - 1) / 2]->due > heap[i]->due) { hswap(i, (i - 1) / 2); i = (i - 1) / 2; } }
static void hdown(int i) { for (;;) { int l = 2 * i + 1, s = i; if (l < hn && heap[l]->due < heap[s]->due) s = l; if (l + 1 < hn && heap[l + 1]->due < heap[s]->due) s = l + 1; if (s == i) return; hswap(i, s); i = s; } }
static void timer(struct conn *c, u64 due) {
    c->due = due; if (c->heap >= 0) { hup(c->heap); hdown(c->heap); return; }
    if (hn == hc) heap = realloc(heap, sizeof *heap * (hc = hc ? hc * 2 : 1024));
    heap[hn] = c; c->heap = hn++; hup(c->heap);
}
static void untimer(struct conn *c) { int i = c->heap; if (i < 0) return; hn--; if (i != hn) { hswap(i, hn); hup(i); hdown(i); } c->heap = -1; }
static void make_ready(struct conn *c) { if (c->ready) return; c->ready = 1; c->rnext = NULL; if (rtail) rtail->rnext = c; else rhead = c; rtail = c; }
static struct conn **graves; static int ngrave, cgrave;

static void drop(struct conn *c) {
    if (c->fd < 0) return;
    untimer(c); close(c->fd); c->fd = -1; nconn--;
    if (c->in_stream) { inflight--; c->in_stream = 0; }
    if (ngrave == cgrave) graves = realloc(graves, sizeof *graves * (cgrave = cgrave ? cgrave * 2 : 256));
    graves[ngrave++] = c;
}
static void abort_seen(struct conn *c) {
    if (c->in_stream) { aborts[S.aborted % 65536].key = c->key; aborts[S.aborted % 65536].t = S.last_abort_ns = now_ns(); S.aborted++; }
    drop(c);
}
static void room(struct conn *c, size_t k) {
    if (c->outo == c->outl) c->outo = c->outl = 0;
    if (c->outl + k > c->outc) { if (c->outo) { memmove(c->out, c->out + c->outo, c->outl - c->outo); c->outl -= c->outo; c->outo = 0; }
        if (c->outl + k > c->outc) c->out = realloc(c->out, c->outc = (c->outl + k) * 2); }
}
static void put(struct conn *c, const char *s, size_t n) { room(c, n); memcpy(c->out + c->outl, s, n); c->outl += n; }
static void putf(struct conn *c, const char *f, ...) { char b[4096]; va_list a; va_start(a, f); int n = vsnprintf(b, sizeof b, f, a); va_end(a); put(c, b, n); }
static void put_chunk(struct conn *c, const char *s, size_t n) {
    if (c->o.eof) { put(c, s, n); return; }
    size_t step = c->o.chunkbytes > 0 ? (size_t)c->o.chunkbytes : n;
    while (n) { size_t k = n < step ? n : step; char h[24]; put(c, h, sprintf(h, "%zx\r\n", k)); put(c, s, k); put(c, "\r\n", 2); s += k; n -= k; }
}

/* ---- frames --------------------------------------------------------- */
static char fb[1 << 20]; static size_t fl;
static void fput(const char *s, size_t n) { if (fl + n < sizeof fb) { memcpy(fb + fl, s, n); fl += n; } }
#define FS(s) fput(s, sizeof s - 1)
static void fstr(const char *s) { fput(s, strlen(s)); }
static void fnl(struct conn *c) { if (c->o.crlf) FS("\r\n"); else FS("\n"); }
static void fnum(u64 v) { char b[24]; fput(b, sprintf(b, "%llu", (unsigned long long)v)); }
static const char lorem[] = "the quick brown fox jumps over the lazy dog and then some more words follow here so that a long reply has text of a usual kind ";
static void fcontent(struct conn *c, int first) {
    size_t want = c->o.b, at = fl;
    if (c->o.ts) { if (first) { FS("@R"); fnum(c->key); } FS("@S"); fnum(now_ns()); FS(" "); }
    size_t have = fl - at, off = (size_t)(c->contents * 7) % (sizeof lorem - 1);
    while (have < want) { size_t k = want - have, r = sizeof lorem - 1 - off; if (k > r) k = r; fput(lorem + off, k); have += k; off = 0; }
}
static void fhead(struct conn *c) { FS("data: {\"id\":\"chatcmpl-mock"); fnum(c->key); FS("\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"mock-1\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_mock\",\"choices\":["); }
static void ftail(struct conn *c) { if (c->incl_usage) FS(",\"usage\":null}"); else FS("}"); fnl(c); fnl(c); S.frames++; }
static void fev(struct conn *c, const char *ev) { FS("event: "); fstr(ev); fnl(c); FS("data: {\"type\":\""); fstr(ev); FS("\""); }
static void fend(struct conn *c) { FS("}"); fnl(c); fnl(c); S.frames++; }
static void fopen_(struct conn *c) { /* what comes before the content */
    if (c->api == CHAT) { fhead(c); FS("{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":null}]"); ftail(c); }
    else if (c->api == ANTHROPIC) {
        fev(c, "message_start"); FS(",\"message\":{\"id\":\"msg_mock"); fnum(c->key); FS("\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"mock-1\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":"); fnum(c->o.pt); FS(",\"output_tokens\":1}}"); fend(c);
        fev(c, "content_block_start"); FS(",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}"); fend(c); fev(c, "ping"); fend(c);
    } else {
        fev(c, "response.created"); FS(",\"sequence_number\":0,\"response\":{\"id\":\"resp_mock"); fnum(c->key); FS("\",\"object\":\"response\",\"status\":\"in_progress\",\"model\":\"mock-1\",\"output\":[],\"usage\":null}"); fend(c);
        fev(c, "response.output_item.added"); FS(",\"sequence_number\":1,\"output_index\":0,\"item\":{\"id\":\"msg_mock\",\"type\":\"message\",\"status\":\"in_progress\",\"role\":\"assistant\",\"content\":[]}"); fend(c);
        fev(c, "response.content_part.added"); FS(",\"sequence_number\":2,\"item_id\":\"msg_mock\",\"output_index\":0,\"content_index\":0,\"part\":{\"type\":\"output_text\",\"text\":\"\",\"annotations\":[]}"); fend(c);
    }
}
static void fone(struct conn *c) { /* a content frame */
    int first = c->contents == 0; c->contents++;
    if (c->o.comment > 0 && c->contents % c->o.comment == 0) { FS(": ping"); fnl(c); fnl(c); }
    if (c->api == CHAT) { fhead(c); FS("{\"index\":0,\"delta\":{\"content\":\""); fcontent(c, first); FS("\"},\"logprobs\":null,\"finish_reason\":null}]"); ftail(c); }
    else if (c->api == ANTHROPIC) { fev(c, "content_block_delta"); FS(",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\""); fcontent(c, first); FS("\"}"); fend(c); }
    else { fev(c, "response.output_text.delta"); FS(",\"sequence_number\":"); fnum(c->contents + 2); FS(",\"item_id\":\"msg_mock\",\"output_index\":0,\"content_index\":0,\"delta\":\""); fcontent(c, first); FS("\""); fend(c); }
}
static int fclose_(struct conn *c, int k) { /* the k-th closing frame; 0 when there is none */
    int u = c->o.usage == 2 || (c->o.usage == 1 && c->incl_usage);
    long n = c->contents;
    if (c->api == CHAT) {
        if (k == 0) { fhead(c); FS("{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]"); ftail(c); return 1; }
        if (k == 1 && !u) k = 2;
        if (k == 1) { fhead(c); FS("],\"usage\":{\"prompt_tokens\":"); fnum(c->o.pt); FS(",\"completion_tokens\":"); fnum(n); FS(",\"total_tokens\":"); fnum(c->o.pt + n);
            FS(",\"prompt_tokens_details\":{\"cached_tokens\":0,\"audio_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":0,\"audio_tokens\":0}}}"); fnl(c); fnl(c); S.frames++; return 1; }
        if (k == 2) { FS("data: [DONE]"); fnl(c); fnl(c); S.frames++; return u ? 1 : 2; }
    } else if (c->api == ANTHROPIC) {
        if (k == 0) { fev(c, "content_block_stop"); FS(",\"index\":0"); fend(c); return 1; }
        if (k == 1) { fev(c, "message_delta"); FS(",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":"); fnum(n); FS("}"); fend(c); return 1; }
        if (k == 2) { fev(c, "message_stop"); fend(c); return 1; }
    } else if (k == 0) { fev(c, "response.completed"); FS(",\"sequence_number\":"); fnum(n + 3); FS(",\"response\":{\"id\":\"resp_mock"); fnum(c->key); FS("\",\"object\":\"response\",\"status\":\"completed\",\"model\":\"mock-1\",\"output\":[],\"usage\":{\"input_tokens\":"); fnum(c->o.pt); FS(",\"output_tokens\":"); fnum(n); FS(",\"total_tokens\":"); fnum(c->o.pt + n); FS("}}"); fend(c); return 1; }
    return 0;
}

/* ---- writing -------------------------------------------------------- */
static void next_request(struct conn *c);
static void want(struct conn *c, int out) {
    if (c->want_out == out) return;
    c->want_out = out;
    struct epoll_event e = { .events = EPOLLIN | EPOLLRDHUP | (out ? EPOLLOUT : 0), .data.ptr = c };
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}
static void cut(struct conn *c) {
    S.cut++;
    if (c->o.rst) { struct linger l = { 1, 0 }; setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof l); }
    drop(c);
}
static char *eblock; static size_t eblen;
static void step(struct conn *c) { /* put the next group of frames into c->out, set c->due */
    struct opts *o = &c->o;
    if (o->endless) {
        if (!eblock) { fl = 0; while (fl < 32768) fone(c); eblock = malloc(fl); memcpy(eblock, fb, eblen = fl); }
        put_chunk(c, eblock, eblen); return;
    }
    fl = 0;
    if (c->i == 0) {
        putf(c, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-request-id: req_mock%llu\r\n%s",
             (unsigned long long)c->key, o->eof || o->close ? "connection: close\r\n" : "");
        for (long k = 0; k < o->hdrs; k++) putf(c, "x-ratelimit-mock-%ld: %ld\r\n", k, 1000 + k);
        if (o->eof) put(c, "\r\n", 2); else putf(c, "transfer-encoding: chunked\r\n\r\n");
        if (o->eof || o->close) c->ka = 0;
        fopen_(c); c->i = 1; put_chunk(c, fb, fl); c->due += (u64)o->d * 1000; return;
    }
    if (c->i == 1) {
        long k = o->m > 0 ? o->m : 1, stop = o->n;
        if (o->disconnect >= 0 && o->disconnect < stop) stop = o->disconnect;
        if (o->stall >= 0 && o->stall < stop) stop = o->stall;
        if (c->contents + k > stop) k = stop - c->contents;
        if (k > 0) { while (k-- > 0) fone(c); put_chunk(c, fb, fl); c->due += (u64)o->d * 1000; return; }
        if (o->disconnect >= 0 && c->contents >= o->disconnect) { c->closing = 1; return; }
        if (o->stall >= 0 && c->contents >= o->stall) { c->closing = 2; return; }
        c->i = 2; c->due = 0;
    }
    for (;;) {
        fl = 0; int r = fclose_(c, c->i - 2);
        if (!r) { if (!o->eof) put(c, "0\r\n\r\n", 5); c->closing = 3; return; }
        put_chunk(c, fb, fl); c->i += r;
        if (o->tail) return;
    }
}
static void pump(struct conn *c) {
    int budget = 64;
    for (;;) {
        if (c->outo < c->outl) {
            size_t k = c->outl - c->outo; if (c->o.split > 0 && c->streaming && k > (size_t)c->o.split) k = c->o.split;
            ssize_t w = write(c->fd, c->out + c->outo, k);
            if (w < 0) { if (errno == EAGAIN) { want(c, 1); return; } if (errno == EINTR) continue; abort_seen(c); return; }
            c->outo += w; S.bytes += w;
            if (c->outo == c->outl) c->outo = c->outl = 0;
            if (c->o.split > 0 && c->streaming && c->outo < c->outl) {
                if (c->o.splitgap > 0) { u64 d = c->due; timer(c, now_ns() + c->o.splitgap * 1000); (void)d; return; }
                make_ready(c); return;
            }
            continue;
        }
        want(c, 0);
        if (c->closing == 1) { cut(c); return; }
        if (c->closing == 2) return;
        if (c->closing == 3 || !c->streaming) {
            if (c->in_stream) { c->in_stream = 0; inflight--; S.completed++; }
            if (!c->ka || c->eof) { drop(c); return; }
            c->streaming = c->closing = 0; next_request(c); return;
        }
        if (c->due > now_ns()) { timer(c, c->due); return; }
        if (--budget == 0) { make_ready(c); return; }
        do step(c); while (c->o.gather && !c->closing && c->due <= now_ns() && c->outl - c->outo < 65536);
    }
}

/* ---- requests ------------------------------------------------------- */
static void reply(struct conn *c, int status, const char *reason, const char *type, const char *body, size_t n, const char *extra) {
    putf(c, "HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %zu\r\n%s%s\r\n", status, reason, type, n, extra ? extra : "", c->ka ? "" : "connection: close\r\n");
    put(c, body, n); c->streaming = 0;
}
static int truthy(const char *b, const char *e, const char *key) {
    size_t kl = strlen(key);
    for (const char *p = b; (p = memmem(p, e - p, key, kl)); ) { p += kl; while (p < e && isspace((unsigned char)*p)) p++; if (p < e && *p == ':') { p++; while (p < e && isspace((unsigned char)*p)) p++; return p < e && *p == 't'; } }
    return 0;
}
static void handle(struct conn *c, char *h, size_t hl, char *body, size_t bl) {
    char *e = h + hl, *sp = memchr(h, ' ', hl), *path = sp ? sp + 1 : h, *pe = memchr(path, ' ', e - path);
    if (!pe) { drop(c); return; }
    char *q = memchr(path, '?', pe - path), *pp = q ? q : pe; size_t pl = pp - path;
    char b[8192]; int n;
    c->o = G; c->streaming = c->closing = 0; c->i = c->contents = 0; c->ka = 1; c->in_stream = 0;
#define IS(s) (pl == sizeof s - 1 && !memcmp(path, s, pl))
    if (IS("/stats") || IS("/set") || IS("/reset")) {
        if (IS("/set") && q) opt_query(&G, q + 1, pe);
        if (IS("/set")) fail_used = 0;
        if (IS("/reset")) { memset(&S, 0, sizeof S); fail_used = 0; }
        n = snprintf(b, sizeof b, "{\"connections\":%llu,\"open_connections\":%ld,\"requests\":%llu,\"opened\":%llu,\"completed\":%llu,\"aborted\":%llu,\"cut\":%llu,\"inflight\":%ld,\"plain\":%llu,\"failed\":%llu,\"frames\":%llu,\"bytes\":%llu,\"last_abort_ns\":%llu,\"now_ns\":%llu}\n",
            (unsigned long long)S.conns, nconn, (unsigned long long)S.requests, (unsigned long long)S.opened, (unsigned long long)S.completed, (unsigned long long)S.aborted, (unsigned long long)S.cut, inflight,
            (unsigned long long)S.plain, (unsigned long long)S.failed, (unsigned long long)S.frames, (unsigned long long)S.bytes, (unsigned long long)S.last_abort_ns, (unsigned long long)now_ns());
        reply(c, 200, "OK", "application/json", b, n, NULL); return;
    }
    if (IS("/aborts")) {
        u64 k = S.aborted < 65536 ? S.aborted : 65536; char *m = malloc(k * 48 + 16); size_t l = 0;
        for (u64 i = 0; i < k; i++) l += sprintf(m + l, "%llu %llu\n", (unsigned long long)aborts[i].key, (unsigned long long)aborts[i].t);
        reply(c, 200, "OK", "text/plain", m, l, NULL); free(m); return;
    }
    if (IS("/last")) { reply(c, 200, "OK", "text/plain", last_req, last_len, NULL); return; }
    last_len = hl + bl < sizeof last_req ? hl + bl : sizeof last_req; memcpy(last_req, h, last_len);
    S.requests++;
    if (q) opt_query(&c->o, q + 1, pe);
    for (char *l = memchr(h, '\n', hl); l && l + 1 < e; l = memchr(l + 1, '\n', e - l - 1)) {
        char *s = l + 1;
        if (e - s > 7 && !strncasecmp(s, "x-mock-", 7)) { char *co = memchr(s, ':', e - s); if (co) opt_set(&c->o, s + 7, co - s - 7, strtol(co + 1, NULL, 10)); }
        else if (e - s > 11 && !strncasecmp(s, "connection:", 11)) { char *x = s + 11; while (*x == ' ') x++; if (!strncasecmp(x, "close", 5)) c->ka = 0; }
    }
    char *be = body + bl, *mo = memmem(body, bl, "mock?", 5);
    if (mo) { char *x = memchr(mo, '"', be - mo); if (x) opt_query(&c->o, mo + 5, x); }
    if (IS("/v1/models") || IS("/health")) { n = sprintf(b, "{\"object\":\"list\",\"data\":[{\"id\":\"mock-1\",\"object\":\"model\",\"created\":1700000000,\"owned_by\":\"mock\"}]}"); S.plain++; reply(c, 200, "OK", "application/json", b, n, NULL); return; }
    c->api = pl >= 9 && !memcmp(pp - 9, "/messages", 9) ? ANTHROPIC : pl >= 10 && !memcmp(pp - 10, "/responses", 10) ? RESPONSES : CHAT;
    if (c->o.status > 0 && c->o.status != 200 && (c->o.failfirst <= 0 || (long)fail_used++ < c->o.failfirst)) {
        char x[64]; snprintf(x, sizeof x, "retry-after: %ld\r\n", c->o.retryafter);
        n = sprintf(b, "{\"error\":{\"message\":\"mock failure\",\"type\":\"mock_error\",\"param\":null,\"code\":\"mock_%ld\"}}", c->o.status);
        S.failed++; reply(c, c->o.status, "Mock", "application/json", b, n, c->o.status == 429 || c->o.status == 503 ? x : NULL); return;
    }
    static u64 lastkey; u64 t = now_ns(); if (t <= lastkey) t = lastkey + 1; lastkey = t; c->key = t;
    if (c->o.disconnect == 0) { cut(c); return; }
    c->incl_usage = truthy(body, be, "\"include_usage\"");
    if (c->o.endless || truthy(body, be, "\"stream\"")) {
        S.opened++; inflight++; c->in_stream = 1; c->streaming = 1; c->due = t + (u64)c->o.ttft * 1000;
        if (c->o.endless) { long z = c->o.endless; c->o.endless = 0; step(c); c->o.endless = z; c->due = 0; }
        return;
    }
    long N = c->o.n; char *m = malloc(c->o.b * N + 2048); size_t l;
    if (c->api == ANTHROPIC) l = sprintf(m, "{\"id\":\"msg_mock%llu\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"mock-1\",\"content\":[{\"type\":\"text\",\"text\":\"", (unsigned long long)c->key);
    else if (c->api == RESPONSES) l = sprintf(m, "{\"id\":\"resp_mock%llu\",\"object\":\"response\",\"status\":\"completed\",\"model\":\"mock-1\",\"output\":[{\"type\":\"message\",\"id\":\"msg_mock\",\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\",\"annotations\":[],\"text\":\"", (unsigned long long)c->key);
    else l = sprintf(m, "{\"id\":\"chatcmpl-mock%llu\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"mock-1\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"", (unsigned long long)c->key);
    for (long k = 0, w = c->o.b * N; k < w; ) { long r = sizeof lorem - 1; if (r > w - k) r = w - k; memcpy(m + l, lorem, r); l += r; k += r; }
    if (c->api == ANTHROPIC) l += sprintf(m + l, "\"}],\"stop_reason\":\"end_turn\",\"stop_sequence\":null,\"usage\":{\"input_tokens\":%ld,\"output_tokens\":%ld}}", c->o.pt, N);
    else if (c->api == RESPONSES) l += sprintf(m + l, "\"}]}],\"usage\":{\"input_tokens\":%ld,\"output_tokens\":%ld,\"total_tokens\":%ld}}", c->o.pt, N, c->o.pt + N);
    else l += sprintf(m + l, "\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":%ld,\"completion_tokens\":%ld,\"total_tokens\":%ld}}", c->o.pt, N, c->o.pt + N);
    S.plain++; reply(c, 200, "OK", "application/json", m, l, NULL); free(m);
    if (c->o.ttft > 0) { timer(c, t + c->o.ttft * 1000); }
}
static void next_request(struct conn *c) {
    if (c->inl == 0) return;
    char *end = memmem(c->in, c->inl, "\r\n\r\n", 4); if (!end) return;
    size_t hl = end - c->in + 2; char *body = end + 4; size_t have = c->inl - hl - 2, bl = 0, used; int chunked = 0, expect = 0;
    for (char *l = memchr(c->in, '\n', hl); l && l + 1 < c->in + hl; l = memchr(l + 1, '\n', c->in + hl - l - 1)) {
        char *s = l + 1;
        if (!strncasecmp(s, "content-length:", 15)) bl = strtoul(s + 15, NULL, 10);
        else if (!strncasecmp(s, "transfer-encoding:", 18) && strcasestr(s, "chunked")) { char *x = memchr(s, '\r', c->in + hl - s); if (x && memmem(s, x - s, "chunked", 7)) chunked = 1; }
        else if (!strncasecmp(s, "expect:", 7)) expect = 1;
    }
    if (expect && have == 0) { if (!c->i) { c->i = -1; ssize_t w = write(c->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25); (void)w; } return; }
    if (chunked) { /* decode a copy, in place, once it is whole */
        char *p = body, *e = c->in + c->inl; size_t tot = 0;
        for (;;) { char *nl = memmem(p, e - p, "\r\n", 2); if (!nl) return; size_t k = strtoul(p, NULL, 16); p = nl + 2; if ((size_t)(e - p) < k + 2) return; p += k + 2; tot += k; if (!k) break; }
        used = p - c->in; char *r = body, *w = body;
        for (;;) { char *nl = memmem(r, e - r, "\r\n", 2); size_t k = strtoul(r, NULL, 16); r = nl + 2; memmove(w, r, k); w += k; r += k + 2; if (!k) break; }
        bl = tot;
    } else { if (have < bl) return; used = hl + 2 + bl; }
    char save = 0; (void)save;
    char *h = c->in; handle(c, h, hl, body, bl);
    if (c->fd < 0) return;
    memmove(c->in, c->in + used, c->inl - used); c->inl -= used;
    if (c->heap < 0) pump(c);
}
static void readable(struct conn *c) {
    for (;;) {
        if (c->inc - c->inl < 4096) c->in = realloc(c->in, c->inc = c->inc ? c->inc * 2 : 4096 + 1024);
        ssize_t r = read(c->fd, c->in + c->inl, c->inc - c->inl - 1);
        if (r < 0) { if (errno == EINTR) continue; if (errno == EAGAIN) break; abort_seen(c); return; }
        if (r == 0) { abort_seen(c); return; }
        c->inl += r; c->in[c->inl] = 0;
        if ((size_t)r < c->inc - c->inl - 1) break;
    }
    if (!c->streaming && c->outo == c->outl && c->heap < 0) next_request(c);
}
static volatile sig_atomic_t quit;
static void onsig(int s) { (void)s; quit = 1; }
int main(int ac, char **av) {
    int port = 9000;
    for (int i = 1; i < ac; i++) {
        if (!strcmp(av[i], "-p") && i + 1 < ac) port = atoi(av[++i]);
        else if (strchr(av[i], '=')) opt_query(&G, av[i], av[i] + strlen(av[i]));
        else { fprintf(stderr, "usage: ssemock [-p port] [key=value ...]\n"); for (size_t k = 0; k < NOPT; k++) fprintf(stderr, "  %-11s %s\n", optab[k].k, optab[k].help); return 2; }
    }
    signal(SIGPIPE, SIG_IGN); signal(SIGINT, onsig); signal(SIGTERM, onsig);
    int ls = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    if (bind(ls, (void *)&a, sizeof a) || listen(ls, 4096)) { perror("bind"); return 1; }
    ep = epoll_create1(0);
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = NULL }; epoll_ctl(ep, EPOLL_CTL_ADD, ls, &e);
    static struct epoll_event ev[512];
    while (!quit) {
        struct timespec ts = { 1, 0 };
        if (rhead) ts.tv_sec = 0;
        else if (hn) { u64 n = now_ns(), d = heap[0]->due > n ? heap[0]->due - n : 0; if (d < 1000000000ull) { ts.tv_sec = 0; ts.tv_nsec = d; } }
        int k = syscall(SYS_epoll_pwait2, ep, ev, 512, &ts, NULL, 8);
        for (int i = 0; i < k; i++) {
            struct conn *c = ev[i].data.ptr;
            if (!c) { for (int j = 0; j < 64; j++) {
                int fd = accept4(ls, NULL, NULL, SOCK_NONBLOCK); if (fd < 0) break;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                c = calloc(1, sizeof *c); c->fd = fd; c->heap = -1; S.conns++; nconn++;
                struct epoll_event x = { .events = EPOLLIN | EPOLLRDHUP, .data.ptr = c }; epoll_ctl(ep, EPOLL_CTL_ADD, fd, &x);
            } continue; }
            if (c->fd < 0) continue;
            if (ev[i].events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) { /* a half-closed client is a gone client */
                if (c->in_stream || !(ev[i].events & EPOLLIN)) { abort_seen(c); continue; }
                c->eof = 1;
            }
            if (ev[i].events & EPOLLIN) { readable(c); if (c->fd < 0) continue; }
            if (ev[i].events & EPOLLOUT) pump(c);
        }
        u64 n = hn ? now_ns() : 0;
        while (hn && heap[0]->due <= n) { struct conn *c = heap[0]; untimer(c); pump(c); }
        struct conn *r = rhead; rhead = rtail = NULL;
        while (r) { struct conn *x = r->rnext; r->ready = 0; if (r->fd >= 0) pump(r); r = x; }
        for (int i = 0; i < ngrave; ) { struct conn *c = graves[i]; if (c->ready) { i++; continue; } free(c->in); free(c->out); free(c); graves[i] = graves[--ngrave]; }
    }
    fprintf(stderr, "opened %llu completed %llu aborted %llu cut %llu plain %llu failed %llu frames %llu bytes %llu connections %llu\n", (unsigned long long)S.opened, (unsigned long long)S.completed, (unsigned long long)S.aborted,
        (unsigned long long)S.cut, (unsigned long long)S.plain, (unsigned long long)S.failed, (unsigned long long)S.frames, (unsigned long long)S.bytes, (unsigned long long)S.conns);
    return 0;
}
