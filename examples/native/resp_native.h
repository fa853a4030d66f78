/* The native half of resp_server.py --handlers native: Redis' protocol (RESP2), a table of keys, and shards that answer
 * for one another by messages. Nothing here knows Python.
 *
 *   resp_feed        bytes of a connection, on its thread: parse, run what is of this shard, send the rest on
 *   resp_run_batch   a message: commands of another shard's connections, on the thread of the shard that has their keys
 *   resp_take_batch  a message: their results, back on the connection's thread
 *
 * A connection's replies leave in the order of its commands: behind the first that is not there yet they wait in slots.
 */
#ifndef RESP_NATIVE
#define RESP_NATIVE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RESP_MAX_ARGUMENTS = 1 << 20, RESP_MAX_INLINE = 64 << 10, RESP_KEY_OVERHEAD = 100, RESP_FLUSH = 1 << 20 };
#define RESP_MAX_BULK ((int64_t)512 << 20)

/* What the shards need of the library: set once, before the first connection. */
typedef struct {
    int (*send)(void *sock, const void *data, size_t length);       /* < 0: close the connection */
    void (*close)(void *sock);                                      /* once everything is sent */
    int (*message)(void *thread, void (*fn)(void *), void *ctx);    /* 0: sent, 1: full, 2: the thread is over */
} resp_api;
static resp_api resp;

typedef struct { uint8_t *data; size_t length, capacity; } resp_buf;
typedef struct { const uint8_t *data; size_t length; } resp_str;

static int resp_add(resp_buf *buf, const void *data, size_t length) {
    if (buf->length + length > buf->capacity) {
        size_t capacity = buf->capacity ? buf->capacity : 256;
        while (capacity < buf->length + length) capacity *= 2;
        uint8_t *grown = realloc(buf->data, capacity);
        if (grown == NULL) return -1;
        buf->data = grown;
        buf->capacity = capacity;
    }
    if (length) memcpy(buf->data + buf->length, data, length);
    buf->length += length;
    return 0;
}
static int resp_text(resp_buf *buf, const char *text) { return resp_add(buf, text, strlen(text)); }
static int resp_head(resp_buf *buf, char kind, long long value) {
    char line[32], *at = line + sizeof line;
    unsigned long long left = value < 0 ? 0ULL - (unsigned long long)value : (unsigned long long)value;
    *--at = '\n';
    *--at = '\r';
    do *--at = (char)('0' + left % 10); while (left /= 10);
    if (value < 0) *--at = '-';
    *--at = kind;
    return resp_add(buf, at, (size_t)(line + sizeof line - at));
}
static int resp_bulk(resp_buf *buf, const void *data, size_t length) {
    if (resp_head(buf, '$', (long long)length) || resp_add(buf, data, length)) return -1;
    return resp_add(buf, "\r\n", 2);
}

/* A whole decimal number of 64 bits. */
static int resp_integer(resp_str text, int64_t *value) {
    size_t at = 0;
    uint64_t number = 0;
    int negative = text.length > 0 && text.data[0] == '-';
    if (negative || (text.length > 0 && text.data[0] == '+')) at = 1;
    if (at == text.length || text.length > 21) return -1;
    for (; at < text.length; at++) {
        unsigned digit = text.data[at] - '0';
        if (digit > 9 || number > (UINT64_MAX - digit) / 10) return -1;
        number = number * 10 + digit;
    }
    if (number > (uint64_t)INT64_MAX + negative) return -1;
    *value = negative ? (int64_t)(0 - number) : (int64_t)number;
    return 0;
}
static int resp_is(resp_str text, const char *name) {      /* `name` in capitals */
    size_t at;
    for (at = 0; at < text.length; at++) {
        uint8_t byte = text.data[at];
        if (byte >= 'a' && byte <= 'z') byte -= 32;
        if (name[at] == 0 || byte != (uint8_t)name[at]) return 0;
    }
    return name[at] == 0;
}
static int64_t resp_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}
static uint64_t resp_hash(resp_str key) {
    uint64_t hash = 0xcbf29ce484222325ULL;
    for (size_t at = 0; at < key.length; at++) hash = (hash ^ key.data[at]) * 0x100000001b3ULL;
    hash ^= hash >> 32;
    hash *= 0xd6e8feb86659fd93ULL;
    return hash ^ hash >> 32;
}

/* Glob patterns as KEYS has them: * ? [a-z] [^x] and a backslash. */
static int resp_matches(const uint8_t *p, const uint8_t *p_end, const uint8_t *s, const uint8_t *s_end) {
    const uint8_t *star = NULL, *retry = NULL;
    while (s < s_end) {
        if (p < p_end && *p == '*') {
            star = ++p;
            retry = s;
            continue;
        }
        const uint8_t *next = p;
        int same = 0;
        if (p < p_end && *p == '?') {
            same = 1;
            next = p + 1;
        } else if (p < p_end && *p == '[') {
            int not = p + 1 < p_end && p[1] == '^';
            next = p + 1 + not;
            while (next < p_end && *next != ']') {
                if (next + 2 < p_end && next[1] == '-' && next[2] != ']') {
                    same |= *s >= next[0] && *s <= next[2];
                    next += 3;
                } else {
                    same |= *s == *next++;
                }
            }
            next += next < p_end;
            same ^= not;
        } else if (p < p_end) {
            if (*p == '\\' && p + 1 < p_end) p++;
            same = *p == *s;
            next = p + 1;
        }
        if (same) {
            p = next;
            s++;
        } else if (star != NULL) {
            p = star;
            s = ++retry;
        } else {
            return 0;
        }
    }
    while (p < p_end && *p == '*') p++;
    return p == p_end;
}

/* The table of a shard: chains of entries, each one block with the key at its end. */
typedef struct resp_entry {
    struct resp_entry *next;
    uint64_t hash;
    int64_t deadline_ns;        /* 0: none */
    uint8_t *value;
    size_t length, key_length;
    uint8_t key[];
} resp_entry;

struct resp_batch;
typedef struct resp_shard {
    resp_entry **buckets;
    uint64_t mask, count, expiring, sweep;
    uint64_t memory, max_memory;        /* 0: no limit */
    uint32_t index, shards;
    struct resp_shard **all;
    void *thread;                       /* where it lives */
    struct resp_batch **batches;        /* to the other shards, of the bytes that are being parsed */
    struct resp_batch *unsent, *unsent_last;    /* messages behind one that a full ring has refused, in order */
    resp_buf out;                       /* replies of the connection that is being served */
    resp_str *words;                    /* of the command that is being parsed */
    size_t word_capacity;
    int64_t began_ns;
} resp_shard;

static void resp_drop(resp_shard *shard, resp_entry **place) {
    resp_entry *entry = *place;
    *place = entry->next;
    shard->count--;
    shard->expiring -= entry->deadline_ns != 0;
    shard->memory -= entry->key_length + entry->length + RESP_KEY_OVERHEAD;
    free(entry->value);
    free(entry);
}
static resp_entry **resp_find(resp_shard *shard, resp_str key, uint64_t hash) {
    resp_entry **place = &shard->buckets[hash & shard->mask];
    while (*place != NULL) {
        resp_entry *entry = *place;
        if (entry->hash == hash && entry->key_length == key.length && !memcmp(entry->key, key.data, key.length)) {
            if (entry->deadline_ns && entry->deadline_ns <= resp_now_ns()) {
                resp_drop(shard, place);
                return NULL;
            }
            return place;
        }
        place = &entry->next;
    }
    return NULL;
}
static void resp_grow(resp_shard *shard) {
    uint64_t size = (shard->mask + 1) * 2;
    resp_entry **buckets = calloc(size, sizeof *buckets);
    if (buckets == NULL) return;        /* longer chains, then */
    for (uint64_t index = 0; index <= shard->mask; index++) {
        resp_entry *entry = shard->buckets[index];
        while (entry != NULL) {
            resp_entry *next = entry->next;
            entry->next = buckets[entry->hash & (size - 1)];
            buckets[entry->hash & (size - 1)] = entry;
            entry = next;
        }
    }
    free(shard->buckets);
    shard->buckets = buckets;
    shard->mask = size - 1;
    shard->sweep = 0;
}
/* Store head + tail under a key, which `place` is of, NULL: of none yet. Returns NULL when there is no memory for it;
 * nothing has changed then. */
static resp_entry *resp_put(resp_shard *shard, resp_str key, uint64_t hash, resp_entry **place, resp_str head,
                            resp_str tail) {
    resp_entry *entry;
    size_t length = head.length + tail.length;
    uint64_t before = place == NULL ? 0 : (*place)->length, more = place == NULL ? key.length + RESP_KEY_OVERHEAD : 0;
    if (shard->max_memory && shard->memory - before + more + length > shard->max_memory) return NULL;
    uint8_t *value = malloc(length ? length : 1);
    if (value == NULL) return NULL;
    if (head.length) memcpy(value, head.data, head.length);
    if (tail.length) memcpy(value + head.length, tail.data, tail.length);
    if (place == NULL) {
        entry = malloc(sizeof *entry + key.length);
        if (entry == NULL) {
            free(value);
            return NULL;
        }
        if (shard->count > shard->mask) resp_grow(shard);
        entry->hash = hash;
        entry->deadline_ns = 0;
        entry->key_length = key.length;
        memcpy(entry->key, key.data, key.length);
        entry->next = shard->buckets[hash & shard->mask];
        shard->buckets[hash & shard->mask] = entry;
        shard->count++;
    } else {
        entry = *place;
        free(entry->value);
    }
    entry->value = value;
    entry->length = length;
    shard->memory += more + length - before;
    return entry;
}
static void resp_set_deadline(resp_shard *shard, resp_entry *entry, int64_t deadline_ns) {
    shard->expiring += (deadline_ns != 0) - (entry->deadline_ns != 0);
    entry->deadline_ns = deadline_ns;
}
static void resp_flush_all(resp_shard *shard) {
    for (uint64_t index = 0; index <= shard->mask; index++)
        while (shard->buckets[index] != NULL) resp_drop(shard, &shard->buckets[index]);
}
/* Drop keys that have expired, of the next buckets in turn. */
static void resp_sweep(resp_shard *shard, uint64_t buckets) {
    int64_t now = resp_now_ns();
    if (buckets > shard->mask + 1) buckets = shard->mask + 1;
    while (shard->expiring && buckets--) {
        resp_entry **place = &shard->buckets[shard->sweep++ & shard->mask];
        while (*place != NULL) {
            if ((*place)->deadline_ns && (*place)->deadline_ns <= now) resp_drop(shard, place);
            else place = &(*place)->next;
        }
    }
}

/* Commands on one key. */
enum { RESP_GET, RESP_SET, RESP_INCR, RESP_DECR, RESP_INCRBY, RESP_APPEND, RESP_STRLEN, RESP_EXPIRE, RESP_PEXPIRE,
       RESP_TTL, RESP_PTTL, RESP_ONE_KEY,
       /* Parts of commands on several keys, or on every shard. */
       RESP_PART_DEL = RESP_ONE_KEY, RESP_PART_EXISTS, RESP_PART_GET, RESP_PART_SET, RESP_PART_SIZE, RESP_PART_FLUSH,
       RESP_PART_KEYS, RESP_PART_MEMORY };
static const struct { const char *name; int least, most; } resp_one_key[RESP_ONE_KEY] = {
    {"GET", 2, 2}, {"SET", 3, 9}, {"INCR", 2, 2}, {"DECR", 2, 2}, {"INCRBY", 3, 3}, {"APPEND", 3, 3},
    {"STRLEN", 2, 2}, {"EXPIRE", 3, 3}, {"PEXPIRE", 3, 3}, {"TTL", 2, 2}, {"PTTL", 2, 2},
};
#define RESP_OK "+OK\r\n"
#define RESP_NIL "$-1\r\n"
#define RESP_SYNTAX "-ERR syntax error\r\n"
#define RESP_NOT_INTEGER "-ERR value is not an integer or out of range\r\n"
#define RESP_OOM "-OOM command not allowed when used memory > 'maxmemory'.\r\n"
#define RESP_BUSY "-ERR the shard of this key has too much to do\r\n"

static int resp_run_set(resp_shard *shard, const resp_str *words, size_t count, uint64_t hash, resp_buf *out) {
    int64_t deadline = 0, amount;
    int only = 0;       /* 1: NX, 2: XX */
    for (size_t at = 3; at < count; at++) {
        int wanted = resp_is(words[at], "NX") ? 1 : resp_is(words[at], "XX") ? 2 : 0;
        int seconds = resp_is(words[at], "EX");
        if (wanted) {
            if (only && only != wanted) return resp_text(out, RESP_SYNTAX);
            only = wanted;
        } else if (seconds || resp_is(words[at], "PX")) {
            if (++at == count) return resp_text(out, RESP_SYNTAX);
            if (resp_integer(words[at], &amount)) return resp_text(out, RESP_NOT_INTEGER);
            if (amount <= 0 || amount >= (int64_t)1 << 42)
                return resp_text(out, "-ERR invalid expire time in 'set' command\r\n");
            deadline = resp_now_ns() + amount * (seconds ? 1000000000 : 1000000);
        } else {
            return resp_text(out, RESP_SYNTAX);
        }
    }
    resp_entry **place = resp_find(shard, words[1], hash), *entry;
    if (only && (place == NULL) != (only == 1)) return resp_text(out, RESP_NIL);
    entry = resp_put(shard, words[1], hash, place, words[2], (resp_str){NULL, 0});
    if (entry == NULL) return resp_text(out, RESP_OOM);
    resp_set_deadline(shard, entry, deadline);
    return resp_text(out, RESP_OK);
}

static int resp_run_add(resp_shard *shard, resp_str key, uint64_t hash, int64_t amount, resp_buf *out) {
    resp_entry **place = resp_find(shard, key, hash);
    int64_t total = 0;
    char digits[24];
    if (place != NULL && resp_integer((resp_str){(*place)->value, (*place)->length}, &total))
        return resp_text(out, RESP_NOT_INTEGER);
    if (__builtin_add_overflow(total, amount, &total))
        return resp_text(out, "-ERR increment or decrement would overflow\r\n");
    int length = snprintf(digits, sizeof digits, "%lld", (long long)total);
    if (!resp_put(shard, key, hash, place, (resp_str){(uint8_t *)digits, (size_t)length}, (resp_str){NULL, 0}))
        return resp_text(out, RESP_OOM);
    return resp_head(out, ':', total);
}

static int resp_run_one(resp_shard *shard, int code, const resp_str *words, size_t count, uint64_t hash,
                        resp_buf *out) {
    resp_entry **place;
    int64_t amount, unit = 1000000;
    switch (code) {
    case RESP_GET:
        place = resp_find(shard, words[1], hash);
        return place == NULL ? resp_text(out, RESP_NIL) : resp_bulk(out, (*place)->value, (*place)->length);
    case RESP_SET:
        return resp_run_set(shard, words, count, hash, out);
    case RESP_INCR:
        return resp_run_add(shard, words[1], hash, 1, out);
    case RESP_DECR:
        return resp_run_add(shard, words[1], hash, -1, out);
    case RESP_INCRBY:
        if (resp_integer(words[2], &amount)) return resp_text(out, RESP_NOT_INTEGER);
        return resp_run_add(shard, words[1], hash, amount, out);
    case RESP_APPEND: {
        resp_str before = {NULL, 0};
        place = resp_find(shard, words[1], hash);
        if (place != NULL) before = (resp_str){(*place)->value, (*place)->length};
        if (!resp_put(shard, words[1], hash, place, before, words[2])) return resp_text(out, RESP_OOM);
        return resp_head(out, ':', (long long)(before.length + words[2].length));
    }
    case RESP_STRLEN:
        place = resp_find(shard, words[1], hash);
        return resp_head(out, ':', place == NULL ? 0 : (long long)(*place)->length);
    case RESP_EXPIRE:
        unit = 1000000000;
        /* fall through */
    case RESP_PEXPIRE:
        if (resp_integer(words[2], &amount)) return resp_text(out, RESP_NOT_INTEGER);
        place = resp_find(shard, words[1], hash);
        if (place == NULL) return resp_text(out, ":0\r\n");
        if (amount >= (int64_t)1 << 42) return resp_text(out, "-ERR invalid expire time in 'expire' command\r\n");
        if (amount <= 0) resp_drop(shard, place);
        else resp_set_deadline(shard, *place, resp_now_ns() + amount * unit);
        return resp_text(out, ":1\r\n");
    case RESP_TTL:
        unit = 1000000000;
        /* fall through */
    default: /* RESP_PTTL */
        place = resp_find(shard, words[1], hash);
        if (place == NULL) return resp_text(out, ":-2\r\n");
        if (!(*place)->deadline_ns) return resp_text(out, ":-1\r\n");
        return resp_head(out, ':', ((*place)->deadline_ns - resp_now_ns() + unit / 2) / unit);
    }
}

/* A part of a command on several keys: a number, and bytes of the reply. */
static int64_t resp_run_part(resp_shard *shard, int code, const resp_str *words, resp_buf *out) {
    uint64_t hash = code <= RESP_PART_SET ? resp_hash(words[0]) : 0;
    resp_entry **place = code <= RESP_PART_SET ? resp_find(shard, words[0], hash) : NULL, *entry;
    int64_t found = 0;
    switch (code) {
    case RESP_PART_DEL:
        if (place == NULL) return 0;
        resp_drop(shard, place);
        return 1;
    case RESP_PART_EXISTS:
        return place != NULL;
    case RESP_PART_GET:
        return place == NULL ? resp_text(out, RESP_NIL) : resp_bulk(out, (*place)->value, (*place)->length);
    case RESP_PART_SET:
        entry = resp_put(shard, words[0], hash, place, words[1], (resp_str){NULL, 0});
        if (entry == NULL) return 1;
        resp_set_deadline(shard, entry, 0);
        return 0;
    case RESP_PART_SIZE:
        return (int64_t)shard->count;
    case RESP_PART_FLUSH:
        resp_flush_all(shard);
        return 0;
    case RESP_PART_MEMORY:
        return (int64_t)shard->memory;
    default: { /* RESP_PART_KEYS */
        int64_t now = resp_now_ns();
        const uint8_t *pattern = words[0].data, *end = pattern + words[0].length;
        for (uint64_t index = 0; index <= shard->mask; index++)
            for (entry = shard->buckets[index]; entry != NULL; entry = entry->next)
                if ((!entry->deadline_ns || entry->deadline_ns > now)
                    && resp_matches(pattern, end, entry->key, entry->key + entry->key_length)) {
                    if (resp_bulk(out, entry->key, entry->key_length)) return found;
                    found++;
                }
        return found;
    }
    }
}

/* A reply that is not there yet, or waits behind one. */
enum { RESP_REPLY, RESP_SUM, RESP_LIST, RESP_ALL_SET, RESP_DONE, RESP_KEY_LIST, RESP_SCANNED, RESP_INFO };
typedef struct resp_slot {
    struct resp_slot *next;
    uint32_t left;              /* parts that are missing */
    int kind;
    int64_t sum;
    resp_buf reply;
    resp_buf *parts;            /* RESP_LIST: by position */
    size_t count;
} resp_slot;

typedef struct {
    resp_slot *slot;
    int code;
    uint32_t position, words;
    size_t first;               /* of its words in the batch's */
    uint64_t hash;
    int64_t value;              /* the result */
    size_t reply, reply_length;
} resp_op;

typedef struct resp_conn {
    void *sock;                 /* NULL: closed */
    resp_shard *shard;
    resp_buf in;                /* the beginning of a command that is not whole */
    size_t need;                /* and nothing is whole before there is so much */
    resp_slot *first, *last;
    uint32_t under_way;         /* batches */
    uint8_t ending, maps, broken;
} resp_conn;

typedef struct resp_batch {
    resp_conn *conn;
    resp_shard *home, *owner;
    struct resp_batch *next;
    int done;
    resp_op *ops;
    size_t op_count, op_capacity;
    resp_buf bytes;             /* lengths and bytes of all words, as resp_str are no good after the parse */
    resp_buf replies;
} resp_batch;

static void resp_free_slot(resp_slot *slot) {
    for (size_t at = 0; slot->parts != NULL && at < slot->count; at++) free(slot->parts[at].data);
    free(slot->parts);
    free(slot->reply.data);
    free(slot);
}
static void resp_free_conn(resp_conn *conn) {
    while (conn->first != NULL) {
        resp_slot *slot = conn->first;
        conn->first = slot->next;
        resp_free_slot(slot);
    }
    free(conn->in.data);
    free(conn);
}
static void resp_free_batch(resp_batch *batch) {
    free(batch->ops);
    free(batch->bytes.data);
    free(batch->replies.data);
    free(batch);
}

static resp_slot *resp_new_slot(resp_conn *conn, int kind, uint32_t left, size_t count) {
    resp_slot *slot = calloc(1, sizeof *slot);
    if (slot == NULL) return NULL;
    slot->kind = kind;
    slot->left = left;
    slot->count = count;
    if (kind == RESP_LIST) {
        slot->parts = calloc(count ? count : 1, sizeof *slot->parts);
        if (slot->parts == NULL) {
            free(slot);
            return NULL;
        }
    }
    if (conn->last == NULL || conn->first == NULL) conn->first = slot;
    else conn->last->next = slot;
    conn->last = slot;
    return slot;
}

/* Where the next reply goes: straight out, or into a slot of its own behind those that wait. */
static resp_buf *resp_reply_to(resp_conn *conn) {
    resp_slot *slot;
    if (conn->first == NULL) return &conn->shard->out;
    slot = resp_new_slot(conn, RESP_REPLY, 0, 0);
    return slot == NULL ? NULL : &slot->reply;
}

static int resp_finish_slot(resp_conn *conn, resp_slot *slot, resp_buf *out) {
    char text[256];
    resp_shard *shard = conn->shard;
    switch (slot->kind) {
    case RESP_SUM:
        return resp_head(out, ':', slot->sum);
    case RESP_LIST:
        if (resp_head(out, '*', (long long)slot->count)) return -1;
        for (size_t at = 0; at < slot->count; at++)
            if (resp_add(out, slot->parts[at].data, slot->parts[at].length)) return -1;
        return 0;
    case RESP_ALL_SET:
        return resp_text(out, slot->sum ? RESP_OOM : RESP_OK);
    case RESP_DONE:
        return resp_text(out, RESP_OK);
    case RESP_SCANNED:
        if (resp_text(out, "*2\r\n$1\r\n0\r\n")) return -1;
        /* fall through */
    case RESP_KEY_LIST:
        if (resp_head(out, '*', slot->sum)) return -1;
        return resp_add(out, slot->reply.data, slot->reply.length);
    case RESP_INFO: {
        int length = snprintf(
            text, sizeof text,
            "# Server\r\nredis_version:7.0.0\r\nredis_mode:standalone\r\nuptime_in_seconds:%lld\r\n# Memory\r\n"
            "used_memory:%lld\r\nmaxmemory:%llu\r\n# Shards\r\nshards:%u\r\n",
            (long long)((resp_now_ns() - shard->began_ns) / 1000000000), (long long)slot->sum,
            (unsigned long long)(shard->max_memory * shard->shards), shard->shards);
        return resp_bulk(out, text, (size_t)length);
    }
    default:
        return resp_add(out, slot->reply.data, slot->reply.length);
    }
}

/* A part has come. */
static int resp_arrived(resp_slot *slot, uint32_t position, int64_t value, const uint8_t *data, size_t length) {
    slot->left--;
    slot->sum += value;
    if (slot->kind == RESP_LIST) return resp_add(&slot->parts[position], data, length);
    return length ? resp_add(&slot->reply, data, length) : 0;
}

/* Send what may leave. < 0: close the connection. */
static int resp_send_ready(resp_conn *conn) {
    resp_buf *out = &conn->shard->out;
    int failed = 0;
    while (conn->first != NULL && conn->first->left == 0 && !failed) {
        resp_slot *slot = conn->first;
        failed = resp_finish_slot(conn, slot, out);
        conn->first = slot->next;
        resp_free_slot(slot);
        if (!failed && out->length > RESP_FLUSH) {
            failed = resp.send(conn->sock, out->data, out->length);
            out->length = 0;
        }
    }
    if (!failed && out->length) failed = resp.send(conn->sock, out->data, out->length);
    out->length = 0;
    if (out->capacity > 4 * RESP_FLUSH) {
        free(out->data);
        out->data = NULL;
        out->capacity = 0;
    }
    if (!failed && conn->ending && conn->first == NULL) resp.close(conn->sock);
    return failed ? -1 : 0;
}

/* Messages between shards. */

static void resp_run_batch(void *ctx);
static void resp_take_batch(void *ctx);

/* 0: it is on its way, or over; 1: the ring is full. */
static int resp_try(resp_batch *batch) {
    resp_shard *to = batch->done ? batch->home : batch->owner;
    int refused = resp.message(to->thread, batch->done ? resp_take_batch : resp_run_batch, batch);
    if (refused != 2) return refused;
    if (batch->done) {
        resp_free_batch(batch);         /* the connection ended with its thread */
        return 0;
    }
    for (size_t at = 0; at < batch->op_count; at++) {
        batch->ops[at].reply = 0;
        batch->ops[at].reply_length = batch->ops[at].code < RESP_ONE_KEY ? strlen(RESP_BUSY) : 0;
    }
    batch->replies.length = 0;
    resp_text(&batch->replies, RESP_BUSY);
    resp_take_batch(batch);
    return 0;
}
static void resp_post(resp_shard *from, resp_batch *batch) {
    if (from->unsent == NULL && resp_try(batch) == 0) return;
    batch->next = NULL;
    if (from->unsent == NULL) from->unsent = batch;
    else from->unsent_last->next = batch;
    from->unsent_last = batch;
}
/* The poller: what a full ring has refused, again. */
static void resp_post_again(resp_shard *shard) {
    while (shard->unsent != NULL) {
        resp_batch *next = shard->unsent->next;
        if (resp_try(shard->unsent)) return;
        shard->unsent = next;
    }
}
/* The words of an operation, as its batch holds them. */
static void resp_words_of(const resp_batch *batch, const resp_op *op, resp_str *words) {
    const uint8_t *at = batch->bytes.data + op->first;
    for (uint32_t index = 0; index < op->words; index++) {
        memcpy(&words[index].length, at, sizeof(size_t));
        words[index].data = at + sizeof(size_t);
        at += sizeof(size_t) + words[index].length;
    }
}
static void resp_run_batch(void *ctx) {
    resp_batch *batch = ctx;
    resp_shard *shard = batch->owner;
    resp_str words[16];
    for (size_t at = 0; at < batch->op_count; at++) {
        resp_op *op = &batch->ops[at];
        op->reply = batch->replies.length;
        resp_words_of(batch, op, words);
        if (op->code < RESP_ONE_KEY) resp_run_one(shard, op->code, words, op->words, op->hash, &batch->replies);
        else op->value = resp_run_part(shard, op->code, words, &batch->replies);
        op->reply_length = batch->replies.length - op->reply;
    }
    batch->done = 1;
    resp_post(shard, batch);
}
static void resp_take_batch(void *ctx) {
    resp_batch *batch = ctx;
    resp_conn *conn = batch->conn;
    conn->under_way--;
    if (conn->sock != NULL) {
        int failed = conn->broken;
        for (size_t at = 0; at < batch->op_count && !failed; at++) {
            resp_op *op = &batch->ops[at];
            failed = resp_arrived(op->slot, op->position, op->value, batch->replies.data + op->reply, op->reply_length);
        }
        if (failed || resp_send_ready(conn) < 0) {
            conn->broken = 1;           /* the slots may lack replies: nothing more is answered */
            if (conn->sock != NULL) resp.close(conn->sock);
        }
    } else if (conn->under_way == 0) {
        resp_free_conn(conn);
    }
    resp_free_batch(batch);
}
static int resp_enqueue(resp_conn *conn, uint32_t owner, resp_slot *slot, int code, uint32_t position, uint64_t hash,
                        const resp_str *words, uint32_t count) {
    resp_batch *batch = conn->shard->batches[owner];
    if (batch == NULL) {
        batch = calloc(1, sizeof *batch);
        if (batch == NULL) return -1;
        batch->conn = conn;
        batch->home = conn->shard;
        batch->owner = conn->shard->all[owner];
        conn->shard->batches[owner] = batch;
    }
    if (batch->op_count == batch->op_capacity) {
        size_t capacity = batch->op_capacity ? 2 * batch->op_capacity : 16;
        resp_op *ops = realloc(batch->ops, capacity * sizeof *ops);
        if (ops == NULL) return -1;
        batch->ops = ops;
        batch->op_capacity = capacity;
    }
    resp_op *op = &batch->ops[batch->op_count];
    memset(op, 0, sizeof *op);
    op->slot = slot;
    op->code = code;
    op->position = position;
    op->hash = hash;
    op->words = count;
    op->first = batch->bytes.length;
    for (uint32_t at = 0; at < count; at++)
        if (resp_add(&batch->bytes, &words[at].length, sizeof(size_t))
            || resp_add(&batch->bytes, words[at].data, words[at].length))
            return -1;
    batch->op_count++;
    return 0;
}
static void resp_post_batches(resp_conn *conn) {
    resp_shard *shard = conn->shard;
    for (uint32_t index = 0; index < shard->shards; index++) {
        resp_batch *batch = shard->batches[index];
        if (batch == NULL) continue;
        shard->batches[index] = NULL;
        conn->under_way++;
        resp_post(shard, batch);
    }
}

/* Commands. */

static uint32_t resp_owner(const resp_shard *shard, uint64_t hash) { return (uint32_t)((hash >> 40) % shard->shards); }

/* A command whose keys are in `step`s of the words from 1 on. */
static int resp_spread(resp_conn *conn, int kind, int code, const resp_str *words, size_t count, size_t step) {
    resp_shard *shard = conn->shard;
    size_t parts = (count - 1) / step;
    resp_slot *slot = resp_new_slot(conn, kind, (uint32_t)parts, parts);
    if (slot == NULL) return -1;
    for (size_t at = 0; at < parts; at++) {
        const resp_str *own = words + 1 + at * step;
        uint32_t owner = resp_owner(shard, resp_hash(own[0]));
        if (owner != shard->index) {
            if (resp_enqueue(conn, owner, slot, code, (uint32_t)at, 0, own, (uint32_t)step)) return -1;
            continue;
        }
        resp_buf part = {NULL, 0, 0};
        int64_t value = resp_run_part(shard, code, own, &part);
        int failed = resp_arrived(slot, (uint32_t)at, value, part.data, part.length);
        free(part.data);
        if (failed) return -1;
    }
    return 0;
}
static int resp_on_all(resp_conn *conn, int kind, int code, resp_str argument) {
    resp_shard *shard = conn->shard;
    resp_slot *slot = resp_new_slot(conn, kind, shard->shards, 0);
    if (slot == NULL) return -1;
    for (uint32_t index = 0; index < shard->shards; index++) {
        if (index != shard->index) {
            if (resp_enqueue(conn, index, slot, code, 0, 0, &argument, 1)) return -1;
            continue;
        }
        resp_buf part = {NULL, 0, 0};
        int64_t value = resp_run_part(shard, code, &argument, &part);
        int failed = resp_arrived(slot, 0, value, part.data, part.length);
        free(part.data);
        if (failed) return -1;
    }
    return 0;
}
static int resp_refuse_count(resp_buf *out, resp_str name) {
    if (resp_text(out, "-ERR wrong number of arguments for '")) return -1;
    for (size_t at = 0; at < name.length; at++) {
        uint8_t byte = name.data[at];
        if (byte >= 'A' && byte <= 'Z') byte += 32;
        if (resp_add(out, &byte, 1)) return -1;
    }
    return resp_text(out, "' command\r\n");
}
static int resp_scan(resp_conn *conn, const resp_str *words, size_t count) {
    resp_str pattern = {(const uint8_t *)"*", 1};
    int64_t cursor;
    resp_buf *out;
    int wrong = resp_integer(words[1], &cursor) || cursor < 0;
    int syntax = count % 2 != 0;
    for (size_t at = 2; at + 1 < count; at += 2) {
        if (resp_is(words[at], "MATCH")) pattern = words[at + 1];
        else if (!resp_is(words[at], "COUNT")) syntax = 1;
    }
    /* All of it at the first call: a cursor of 0 says that nothing is left. */
    if (!wrong && !syntax) return resp_on_all(conn, RESP_SCANNED, RESP_PART_KEYS, pattern);
    out = resp_reply_to(conn);
    return out == NULL ? -1 : resp_text(out, wrong ? "-ERR invalid cursor\r\n" : RESP_SYNTAX);
}
static int resp_config(resp_conn *conn, const resp_str *words, size_t count, resp_buf *out) {
    resp_buf items = {NULL, 0, 0};
    long long pairs = 0;
    int failed = 0;
    for (size_t at = 2; at < count; at++) {
        char number[24];
        const char *value = NULL;
        if (resp_is(words[at], "SAVE")) value = "";
        if (resp_is(words[at], "APPENDONLY")) value = "no";
        if (resp_is(words[at], "MAXMEMORY")) {
            snprintf(number, sizeof number, "%llu",
                     (unsigned long long)(conn->shard->max_memory * conn->shard->shards));
            value = number;
        }
        if (value == NULL) continue;
        failed |= resp_bulk(&items, words[at].data, words[at].length) || resp_bulk(&items, value, strlen(value));
        pairs++;
    }
    failed |= resp_head(out, conn->maps ? '%' : '*', conn->maps ? pairs : 2 * pairs);
    failed |= resp_add(out, items.data, items.length);
    free(items.data);
    return failed;
}
static int resp_hello(resp_conn *conn, const resp_str *words, size_t count, resp_buf *out) {
    static const char body[] =
        "$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:%d\r\n$2\r\nid\r\n:1\r\n"
        "$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n";
    char text[256];
    if (count > 1 && !resp_is(words[1], "2") && !resp_is(words[1], "3"))
        return resp_text(out, "-NOPROTO unsupported protocol version\r\n");
    /* Of what RESP3 has beyond RESP2, no reply here but maps would differ. */
    conn->maps = count > 1 && resp_is(words[1], "3");
    snprintf(text, sizeof text, body, conn->maps ? 3 : 2);
    return resp_text(out, conn->maps ? "%7\r\n" : "*14\r\n") || resp_text(out, text);
}

/* What is not about one key. */
static int resp_other(resp_conn *conn, const resp_str *words, size_t count) {
    resp_str name = words[0], none = {NULL, 0};
    resp_buf *out;
    int known = 1;
    if (resp_is(name, "DEL") && count >= 2) return resp_spread(conn, RESP_SUM, RESP_PART_DEL, words, count, 1);
    if (resp_is(name, "EXISTS") && count >= 2) return resp_spread(conn, RESP_SUM, RESP_PART_EXISTS, words, count, 1);
    if (resp_is(name, "MGET") && count >= 2) return resp_spread(conn, RESP_LIST, RESP_PART_GET, words, count, 1);
    if (resp_is(name, "MSET") && count >= 3 && count % 2)
        return resp_spread(conn, RESP_ALL_SET, RESP_PART_SET, words, count, 2);
    if (resp_is(name, "DBSIZE") && count == 1) return resp_on_all(conn, RESP_SUM, RESP_PART_SIZE, none);
    if (resp_is(name, "FLUSHALL") || resp_is(name, "FLUSHDB"))
        return resp_on_all(conn, RESP_DONE, RESP_PART_FLUSH, none);
    if (resp_is(name, "KEYS") && count == 2) return resp_on_all(conn, RESP_KEY_LIST, RESP_PART_KEYS, words[1]);
    if (resp_is(name, "SCAN") && count >= 2) return resp_scan(conn, words, count);
    if (resp_is(name, "INFO")) return resp_on_all(conn, RESP_INFO, RESP_PART_MEMORY, none);
    out = resp_reply_to(conn);
    if (out == NULL) return -1;
    if (resp_is(name, "PING") && count <= 2)
        return count == 1 ? resp_text(out, "+PONG\r\n") : resp_bulk(out, words[1].data, words[1].length);
    if (resp_is(name, "ECHO") && count == 2) return resp_bulk(out, words[1].data, words[1].length);
    if (resp_is(name, "COMMAND")) return resp_text(out, "*0\r\n");
    if (resp_is(name, "CONFIG") && count >= 3 && resp_is(words[1], "GET")) return resp_config(conn, words, count, out);
    if (resp_is(name, "CLIENT") && count >= 2) {
        if (resp_is(words[1], "ID")) return resp_head(out, ':', (long long)((uintptr_t)conn >> 4 & 0xFFFFFFF));
        return resp_text(out, resp_is(words[1], "GETNAME") ? RESP_NIL : RESP_OK);
    }
    if (resp_is(name, "HELLO")) return resp_hello(conn, words, count, out);
    if (resp_is(name, "SELECT") && count == 2)
        return resp_text(out, resp_is(words[1], "0") ? RESP_OK : "-ERR DB index is out of range\r\n");
    if (resp_is(name, "QUIT")) {
        conn->ending = 1;
        return resp_text(out, RESP_OK);
    }
    known = resp_is(name, "PING") || resp_is(name, "ECHO") || resp_is(name, "DEL") || resp_is(name, "EXISTS")
        || resp_is(name, "MGET") || resp_is(name, "MSET") || resp_is(name, "DBSIZE") || resp_is(name, "KEYS")
        || resp_is(name, "SCAN") || resp_is(name, "CONFIG") || resp_is(name, "CLIENT") || resp_is(name, "SELECT");
    if (known) return resp_refuse_count(out, name);
    if (resp_text(out, "-ERR unknown command '")) return -1;
    for (size_t at = 0; at < name.length && at < 128; at++) {
        uint8_t byte = name.data[at];
        if (resp_add(out, byte == '\r' || byte == '\n' ? (const uint8_t *)" " : &byte, 1)) return -1;
    }
    return resp_text(out, "'\r\n");
}

static int resp_command(resp_conn *conn, const resp_str *words, size_t count) {
    resp_shard *shard = conn->shard;
    int code;
    for (code = 0; code < RESP_ONE_KEY && !resp_is(words[0], resp_one_key[code].name); code++) { }
    if (code == RESP_ONE_KEY) return resp_other(conn, words, count);
    if ((int64_t)count < resp_one_key[code].least || (int64_t)count > resp_one_key[code].most) {
        resp_buf *out = resp_reply_to(conn);
        return out == NULL ? -1 : resp_refuse_count(out, words[0]);
    }
    uint64_t hash = resp_hash(words[1]);
    uint32_t owner = resp_owner(shard, hash);
    if (owner == shard->index) {
        resp_buf *out = resp_reply_to(conn);
        return out == NULL ? -1 : resp_run_one(shard, code, words, count, hash, out);
    }
    resp_slot *slot = resp_new_slot(conn, RESP_REPLY, 1, 0);
    if (slot == NULL) return -1;
    return resp_enqueue(conn, owner, slot, code, 0, hash, words, (uint32_t)count);
}

/* The parser. */

static int resp_more_words(resp_shard *shard, size_t count) {
    if (count <= shard->word_capacity) return 0;
    size_t capacity = shard->word_capacity ? shard->word_capacity : 16;
    while (capacity < count) capacity *= 2;
    resp_str *words = realloc(shard->words, capacity * sizeof *words);
    if (words == NULL) return -1;
    shard->words = words;
    shard->word_capacity = capacity;
    return 0;
}
/* Cut the command at the beginning of `data`. > 0: its bytes, and `count` words; 0: it is not whole; -1: `error`, or no
 * memory where that is NULL. `need`: bytes without which it is not whole. */
static int64_t resp_parse(resp_shard *shard, const uint8_t *data, size_t length, size_t *count, size_t *need,
                          const char **error, char *wrong) {
    const uint8_t *line = data, *end, *stop = data + length;
    int64_t number, left;
    *count = 0;
    *error = NULL;
    if (data[0] != '*') {
        end = memchr(data, '\n', length);
        if (end == NULL) {
            if (length > RESP_MAX_INLINE) {
                *error = "too big inline request";
                return -1;
            }
            return 0;
        }
        for (const uint8_t *at = data; at < end;) {
            while (at < end && (*at == ' ' || *at == '\t' || *at == '\r')) at++;
            const uint8_t *word = at;
            while (at < end && *at != ' ' && *at != '\t' && *at != '\r') at++;
            if (at == word) break;
            if (resp_more_words(shard, *count + 1)) return -1;
            shard->words[(*count)++] = (resp_str){word, (size_t)(at - word)};
        }
        return end + 1 - data;
    }
    end = memchr(line, '\r', length);
    if (end == NULL || end + 1 >= stop) {
        if (length > RESP_MAX_INLINE) {
            *error = "too big mbulk count string";
            return -1;
        }
        return 0;
    }
    if (resp_integer((resp_str){line + 1, (size_t)(end - line - 1)}, &left) || left > RESP_MAX_ARGUMENTS) {
        *error = "invalid multibulk length";
        return -1;
    }
    line = end + 2;
    while (left-- > 0) {
        if (line >= stop) return 0;
        if (*line != '$') {
            *wrong = (char)*line;
            *error = "expected '$', got '%c'";
            return -1;
        }
        end = memchr(line, '\r', (size_t)(stop - line));
        if (end == NULL || end + 1 >= stop) {
            if (stop - line > RESP_MAX_INLINE) {
                *error = "too big bulk count string";
                return -1;
            }
            return 0;
        }
        if (resp_integer((resp_str){line + 1, (size_t)(end - line - 1)}, &number) || number < 0
            || number > RESP_MAX_BULK) {
            *error = "invalid bulk length";
            return -1;
        }
        line = end + 2;
        if (stop - line < number + 2) {
            *need = (size_t)(line - data) + (size_t)number + 2;
            return 0;
        }
        if (resp_more_words(shard, *count + 1)) return -1;
        shard->words[(*count)++] = (resp_str){line, (size_t)number};
        line += number + 2;
    }
    return line - data;
}

/* Bytes have come for a connection. < 0: close it. */
static int resp_feed(resp_conn *conn, const uint8_t *data, size_t length) {
    resp_shard *shard = conn->shard;
    size_t at = 0, count, need = 0;
    const char *error = NULL;
    char wrong = 0, text[96];
    int failed = 0, gathered = conn->in.length != 0;
    if (conn->ending || conn->broken) return 0;
    if (gathered) {
        if (resp_add(&conn->in, data, length)) return -1;
        if (conn->in.length < conn->need) return 0;
        data = conn->in.data;
        length = conn->in.length;
    }
    while (at < length && !failed && !conn->ending) {
        int64_t used = resp_parse(shard, data + at, length - at, &count, &need, &error, &wrong);
        if (used == 0) break;
        if (used < 0) {
            failed = error == NULL;
            if (!failed) {
                resp_buf *out = resp_reply_to(conn);
                char reason[64];
                snprintf(reason, sizeof reason, error, wrong);
                snprintf(text, sizeof text, "-ERR Protocol error: %s\r\n", reason);
                failed = out == NULL || resp_text(out, text);
                conn->ending = 1;
            }
            break;
        }
        at += (size_t)used;
        if (count) failed = resp_command(conn, shard->words, count);
        if (!failed && conn->first == NULL && shard->out.length > RESP_FLUSH) {
            failed = resp.send(conn->sock, shard->out.data, shard->out.length) < 0;
            shard->out.length = 0;
        }
    }
    if (!failed && !conn->ending && at < length) {
        if (!gathered) {
            failed = resp_add(&conn->in, data + at, length - at);
        } else if (at) {
            memmove(conn->in.data, conn->in.data + at, length - at);
            conn->in.length = length - at;
        }
        conn->need = need;
    } else {
        free(conn->in.data);
        conn->in = (resp_buf){NULL, 0, 0};
        conn->need = 0;
    }
    /* Also when something failed: they count on their way back. */
    resp_post_batches(conn);
    if (failed || conn->sock == NULL) {
        shard->out.length = 0;
        conn->broken = 1;
        return -1;
    }
    return resp_send_ready(conn);
}

static resp_conn *resp_new_conn(resp_shard *shard, void *sock) {
    resp_conn *conn = calloc(1, sizeof *conn);
    if (conn == NULL) return NULL;
    conn->shard = shard;
    conn->sock = sock;
    return conn;
}
static void resp_closed(resp_conn *conn) {
    conn->sock = NULL;
    if (conn->under_way == 0) resp_free_conn(conn);
}

static resp_shard *resp_new_shard(uint32_t index, uint32_t shards, uint64_t max_memory) {
    resp_shard *shard = calloc(1, sizeof *shard);
    if (shard == NULL) return NULL;
    shard->index = index;
    shard->shards = shards;
    shard->max_memory = max_memory;
    shard->mask = 1023;
    shard->began_ns = resp_now_ns();
    shard->buckets = calloc(shard->mask + 1, sizeof *shard->buckets);
    shard->batches = calloc(shards, sizeof *shard->batches);
    shard->all = calloc(shards, sizeof *shard->all);
    if (shard->buckets == NULL || shard->batches == NULL || shard->all == NULL) {
        free(shard->buckets);
        free(shard->batches);
        free(shard->all);
        free(shard);
        return NULL;
    }
    return shard;
}
static void resp_free_shard(resp_shard *shard) {
    resp_flush_all(shard);
    while (shard->unsent != NULL) {
        resp_batch *batch = shard->unsent;
        shard->unsent = batch->next;
        resp_free_batch(batch);
    }
    free(shard->buckets);
    free(shard->batches);
    free(shard->all);
    free(shard->words);
    free(shard->out.data);
    free(shard);
}
#endif
