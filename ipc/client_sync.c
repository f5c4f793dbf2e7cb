/* Synchronous calls: one submit and one complete each. */

#include "client_internal.h"

bool att_client_wait_for_room(struct att_client *client, uint64_t deadline)
{
    uint64_t now = att_now_ns();
    if (now >= deadline || (client->closed && !att_session_goes_on(client)))
        return false;
    if (client->closed)
        return true; /* submitting connects again */
    uint32_t other = att_client_collect(client);
    if (other != NO_FLIGHT)
        att_client_keep(client, other);
    else /* room can come without a reply: look again soon */
        att_client_await(client, now, now + LOOK_NS < deadline ? now + LOOK_NS : deadline);
    return true;
}

enum att_status att_client_abandon(struct att_client *client, uint32_t place)
{
    const struct att_flight *flight = &client->flights[place];
    att_client_drop(client, place);
    if (client->closed)
        return att_fail(&client->error, ATT_ETIMEOUT, "%s: it may still take effect: %.400s",
                        att_request_rule(flight->type)->name, client->gone.text);
    return att_fail(&client->error, ATT_ETIMEOUT,
                    "%s: the daemon at %s has not answered within %u ms; it may still take effect",
                    att_request_rule(flight->type)->name, client->socket, client->timeout_ms);
}

uint64_t att_client_deadline(struct att_client *client, uint64_t now)
{
    if (client->deadline == 0)
        client->deadline = now + client->timeout_ms * UINT64_C(1000000);
    return client->deadline;
}

/* Collects until the flight is complete; keeps others. The clock is not looked at when the answer comes at once. */
static enum att_status finish(struct att_client *client, uint32_t mine)
{
    att_client_quick(client);
    for (;;) {
        bool was_closed = client->closed;
        uint32_t place;
        while ((place = att_client_collect(client)) != NO_FLIGHT) {
            if (place == mine)
                return ATT_OK;
            att_client_keep(client, place);
        }
        if (was_closed && att_session_holds(client, &client->flights[mine])) {
            if (att_client_reconnect(client, att_client_deadline(client, att_now_ns())) == ATT_OK)
                continue;
            if (att_session_goes_on(client))
                return att_client_abandon(client, mine);
        }
        if (was_closed) {
            att_client_free_flight(client, mine);
            return att_client_gone(client);
        }
        uint64_t now = att_now_ns();
        uint64_t deadline = att_client_deadline(client, now);
        att_client_look(client, now);
        if (client->closed)
            continue; /* once more: what it had published before it went */
        if (now >= deadline)
            return att_client_abandon(client, mine);
        att_client_await(client, now, deadline);
    }
}

/* Calls. ATT_OK: the completion is in the flight, whatever it says, and the caller frees that. */
static enum att_status call(struct att_client *client, const struct att_request *request, uint32_t *ret_flight)
{
    uint32_t place;
    enum att_status status = att_client_submit(client, request, &place);
    while (status == ATT_EBUSY && att_client_wait_for_room(client, att_client_deadline(client, att_now_ns())))
        status = att_client_submit(client, request, &place);
    if (status != ATT_OK)
        return client->closed ? att_client_gone(client) : status;
    *ret_flight = place;
    return finish(client, place);
}

/* The completion's status, as the last error if it is one; frees the flight. */
static enum att_status land(struct att_client *client, uint32_t place)
{
    struct att_flight *flight = &client->flights[place];
    enum att_status status = flight->done.status;
    if (status != ATT_OK)
        att_client_describe(client, flight, client->text);
    att_client_free_flight(client, place);
    return status;
}

enum att_status att_client_call(struct att_client *client, const struct att_request *request,
                                struct att_completion *ret_completion)
{
    uint32_t place;
    enum att_status status = call(client, request, &place);
    if (status != ATT_OK)
        return status;
    if (ret_completion && client->flights[place].done.status == ATT_OK)
        *ret_completion = client->flights[place].done;
    return land(client, place);
}

/* What makes a round trip of att_query: the two numbers are taken where they lie. */
static enum att_status call_query(struct att_client *client, uint32_t row, uint32_t column, double *ret_value,
                                  double *ret_error_bound)
{
    const struct att_request request = {.type = ATT_REQ_QUERY, .index = row, .column = column};
    uint32_t place;
    client->deadline = 0;
    enum att_status status = call(client, &request, &place);
    if (status != ATT_OK)
        return status;
    *ret_value = client->flights[place].done.value;
    *ret_error_bound = client->flights[place].done.error_bound;
    return land(client, place);
}

enum att_status att_call(struct att_client *client, const struct att_request *request,
                         struct att_completion *ret_completion)
{
    client->deadline = 0;
    return att_client_call(client, request, ret_completion);
}

enum att_status att_query(struct att_client *client, uint32_t row, uint32_t column, double *ret_value,
                          double *ret_error_bound)
{
    double value, bound;
    enum att_status status = client->direct ? att_direct_entry(client, 0, row, column, &value, &bound) : ATT_AGAIN;
    if (status == ATT_AGAIN)
        status = call_query(client, row, column, &value, &bound);
    else if (status == ATT_EMPTY)
        att_client_say_empty(client, row);
    if (status == ATT_OK) {
        *ret_value = value;
        if (ret_error_bound)
            *ret_error_bound = bound;
    }
    return status;
}

/* A request whose payload goes straight into the caller's memory. */
static enum att_status call_into(struct att_client *client, struct att_request request, void *buffer, uint64_t bytes,
                                 double *ret_error_bound)
{
    struct att_completion completion;
    request.buffer = buffer;
    request.buffer_bytes = (size_t)bytes;
    enum att_status status = att_call(client, &request, &completion);
    if (status == ATT_OK && ret_error_bound)
        *ret_error_bound = completion.error_bound;
    return status;
}

enum att_status att_row(struct att_client *client, uint32_t row, double *ret_values, double *ret_error_bound)
{
    const struct att_request request = {.type = ATT_REQ_ROW, .index = row};
    double bound;
    enum att_status status = client->direct ? att_direct_row(client, 0, row, ret_values, &bound) : ATT_AGAIN;
    if (status == ATT_OK && ret_error_bound)
        *ret_error_bound = bound;
    if (status == ATT_EMPTY)
        att_client_say_empty(client, row);
    if (status != ATT_AGAIN)
        return status;
    return call_into(client, request, ret_values, sizeof(double) * (uint64_t)client->info.d_v, ret_error_bound);
}

enum att_status att_column(struct att_client *client, uint32_t column, double *ret_pairs)
{
    const struct att_request request = {.type = ATT_REQ_COLUMN, .column = column};
    if (client->direct && !client->closed && column < client->info.d_v)
        return att_direct_column(client, column, ret_pairs);
    return call_into(client, request, ret_pairs, 2 * sizeof(double) * (uint64_t)client->info.n_q, NULL);
}

enum att_status att_all(struct att_client *client, double *ret_values, double *ret_error_bound)
{
    const struct att_request request = {.type = ATT_REQ_ALL};
    const struct att_info *info = &client->info;
    return call_into(client, request, ret_values, sizeof(double) * (uint64_t)info->n_q * info->d_v, ret_error_bound);
}

static enum att_status call_plain(struct att_client *client, struct att_request request)
{
    return att_call(client, &request, NULL);
}

enum att_status att_update_k(struct att_client *client, uint32_t token, uint32_t column, double delta)
{
    return call_plain(
        client, (struct att_request){.type = ATT_REQ_UPDATE_K, .index = token, .column = column, .number = delta});
}

enum att_status att_update_v(struct att_client *client, uint32_t token, uint32_t column, double delta)
{
    return call_plain(
        client, (struct att_request){.type = ATT_REQ_UPDATE_V, .index = token, .column = column, .number = delta});
}

enum att_status att_set_k(struct att_client *client, uint32_t token, const float *key)
{
    return call_plain(client, (struct att_request){.type = ATT_REQ_SET_TOKEN, .index = token, .key = key});
}

enum att_status att_set_v(struct att_client *client, uint32_t token, const float *value)
{
    return call_plain(client, (struct att_request){.type = ATT_REQ_SET_TOKEN, .index = token, .value = value});
}

enum att_status att_set_q(struct att_client *client, uint32_t row, const float *q)
{
    return call_plain(client, (struct att_request){.type = ATT_REQ_SET_Q, .index = row, .key = q});
}

enum att_status att_set_b(struct att_client *client, uint32_t token, float bias)
{
    return call_plain(client, (struct att_request){.type = ATT_REQ_SET_TOKEN, .index = token, .bias = &bias});
}

enum att_status att_append(struct att_client *client, const float *key, const float *value, uint32_t *ret_token)
{
    const struct att_request request = {.type = ATT_REQ_APPEND, .key = key, .value = value};
    struct att_completion completion;
    enum att_status status = att_call(client, &request, &completion);
    if (status == ATT_OK && ret_token)
        *ret_token = completion.index;
    return status;
}

enum att_status att_delete(struct att_client *client, uint32_t token)
{
    return call_plain(client, (struct att_request){.type = ATT_REQ_DELETE, .index = token});
}

enum att_status att_flush(struct att_client *client)
{
    return call_plain(client, (struct att_request){.type = ATT_REQ_FLUSH});
}

enum att_status att_merge(struct att_client *client)
{
    return call_plain(client, (struct att_request){.type = ATT_REQ_MERGE});
}

enum att_status att_snapshot(struct att_client *client)
{
    return call_plain(client, (struct att_request){.type = ATT_REQ_SNAPSHOT});
}

enum att_status att_shutdown(struct att_client *client)
{
    return call_plain(client, (struct att_request){.type = ATT_REQ_SHUTDOWN});
}

enum att_status att_ping(struct att_client *client, uint64_t *ret_ns)
{
    uint64_t start = att_now_ns();
    enum att_status status = call_plain(client, (struct att_request){.type = ATT_REQ_PING});
    if (status == ATT_OK && ret_ns)
        *ret_ns = att_now_ns() - start;
    return status;
}

enum att_status att_get_stat(struct att_client *client, struct att_stat *ret_stat)
{
    const struct att_request request = {.type = ATT_REQ_STAT};
    return call_into(client, request, ret_stat, sizeof *ret_stat, NULL);
}
