/* Keeps many requests in flight: replaces the values of all tokens and reads an entry after each, without waiting for
 * one answer before the next question. A tag says which request a completion belongs to.
 *
 *   cc -O2 pipeline.c -o pipeline $(pkg-config --cflags --libs attn)
 *   ./pipeline [SOCKET] */
#include <attn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MOST_AT_ONCE = 64 };

struct totals {
    uint64_t done, failed;
    double sum; /* of the answers */
};

/* Takes what has completed; waits for something when `timeout_ms` is not 0. False: the daemon has gone, or is silent. */
static bool take(struct att_client *client, struct totals *totals, uint32_t timeout_ms)
{
    struct att_completion done[MOST_AT_ONCE];
    int count = att_complete(client, done, MOST_AT_ONCE, timeout_ms);

    for (int i = 0; i < count; i++) {
        totals->done++;
        if (done[i].status == ATT_OK && done[i].type == ATT_REQ_QUERY)
            totals->sum += done[i].value;
        else if (done[i].status != ATT_OK && done[i].status != ATT_EMPTY && totals->failed++ == 0)
            fprintf(stderr, "pipeline: request %llu: %s\n", (unsigned long long)done[i].tag,
                    att_status_name(done[i].status));
    }
    return count > 0 || (count == 0 && timeout_ms == 0);
}

/* Submits; when the ring is full, makes room by taking completions. */
static bool submit(struct att_client *client, const struct att_request *request, struct totals *totals)
{
    enum att_status status;

    while ((status = att_submit(client, request)) == ATT_EBUSY)
        if (!take(client, totals, 10000))
            return false;
    return status == ATT_OK;
}

static bool run(struct att_client *client, uint32_t tokens, struct totals *totals)
{
    struct att_info info;
    bool alive = true;

    att_get_info(client, &info);
    float *value = malloc(info.d_v * sizeof *value);
    for (uint32_t token = 0; value && alive && token < tokens; token++) {
        for (uint32_t i = 0; i < info.d_v; i++)
            value[i] = (float)((token + i) % 10) / 10;
        /* att_submit copies the value, so the array may be used again at once. */
        const struct att_request update = {.type = ATT_REQ_SET_TOKEN,
                                           .index = token,
                                           .value = value,
                                           .tag = 2 * (uint64_t)token};
        const struct att_request query = {.type = ATT_REQ_QUERY,
                                          .index = token % info.n_q,
                                          .column = 0,
                                          .tag = 2 * (uint64_t)token + 1};
        alive = submit(client, &update, totals) && submit(client, &query, totals);
        if (alive)
            alive = take(client, totals, 0); /* what is there already */
    }
    while (value && alive && att_in_flight(client) > 0)
        alive = take(client, totals, 10000);
    free(value);
    return value && alive;
}

int main(int argc, char **argv)
{
    struct att_connect_options options = {.socket = argc > 1 ? argv[1] : NULL};
    struct totals totals = {0};
    struct att_client *client;
    struct att_error error;
    struct att_stat stat;
    struct timespec start, end;

    if (att_connect(&options, &client, &error) != ATT_OK) {
        fprintf(stderr, "pipeline: %s\n", error.text);
        return 1;
    }
    clock_gettime(CLOCK_MONOTONIC, &start);
    bool well = att_get_stat(client, &stat) == ATT_OK && run(client, stat.n_k, &totals);
    clock_gettime(CLOCK_MONOTONIC, &end);
    if (well)
        printf("%llu requests in %.1f ms, sum of the answers %.9g\n", (unsigned long long)totals.done,
               1e3 * (double)(end.tv_sec - start.tv_sec) + 1e-6 * (double)(end.tv_nsec - start.tv_nsec), totals.sum);
    else
        fprintf(stderr, "pipeline: %s\n", att_last_error(client));
    att_close(client);
    return well && totals.failed == 0 ? 0 : 1;
}
