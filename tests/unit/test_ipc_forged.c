/* Forged messages: each ends its own session with a reason, and nothing else. */
#include "test_ipc_raw.h"

/* ---- Forgeries: each changes something, and tells what the log must say -------------------------------- */

static const char *forge_length_short(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.length = 47;
    raw_send(raw, &request, 0);
    return "impossible length";
}

static const char *forge_length_huge(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.length = UINT32_MAX;
    raw_send(raw, &request, 0);
    return "impossible length";
}

static const char *forge_length_of_fields(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.length += 4;
    raw_send(raw, &request, 4);
    return "length does not fit its fields";
}

static const char *forge_generation(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.generation ^= 1;
    raw_send(raw, &request, 0);
    return "another channel's generation";
}

static const char *forge_type(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.type = ATT_REQ_REGIONS + 1;
    raw_send(raw, &request, 0);
    return "unknown type";
}

static const char *forge_type_zero(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.type = 0;
    raw_send(raw, &request, 0);
    return "unknown type";
}

static const char *forge_missing_key(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.type = ATT_REQ_SET_Q;
    raw_send(raw, &request, 0);
    return "fields that do not belong";
}

static const char *forge_extra_field(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.fields = ATT_WIRE_KEY;
    request.length += 4 * D;
    raw_send(raw, &request, 4 * D);
    return "fields that do not belong";
}

static const char *forge_no_field(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.type = ATT_REQ_SET_TOKEN;
    raw_send(raw, &request, 0);
    return "fields that do not belong";
}

static const char *forge_flags(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.flags = 0x80;
    raw_send(raw, &request, 0);
    return "unknown flags";
}

static const char *forge_durable(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.flags = ATT_WIRE_DURABLE;
    raw_send(raw, &request, 0);
    return "unknown flags";
}

static const char *forge_session(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.type = ATT_REQ_DELETE;
    request.session_seq = 1; /* the client has connected without one */
    raw_send(raw, &request, 0);
    return "no session's update";
}

static const char *forge_first_number(struct raw *raw)
{
    atomic_store(&raw->channel.request_slots[0].seq, 12345);
    raw_ring(raw);
    return "wrong number";
}

/* The second slot of a message says that it belongs to another round. */
static const char *forge_later_number(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.type = ATT_REQ_SET_TOKEN;
    request.fields = ATT_WIRE_KEY | ATT_WIRE_VALUE;
    request.length += 4 * (D + D_V);
    static const unsigned char payload[4 * (D + D_V)];
    const struct att_part parts[] = {{&request, sizeof request}, {payload, sizeof payload}};
    att_producer_put(&raw->requests, parts, 2);
    atomic_store(&raw->channel.request_slots[1].seq, 2 + raw->welcome.request_slots);
    att_producer_publish(&raw->requests);
    raw_ring(raw);
    return "wrong number";
}

/* The daemon reads the cursor of the reply ring only when that seems full. */
static const char *forge_cursor(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    atomic_store(&raw->channel.control->reply_tail, UINT64_MAX / 3);
    for (uint32_t i = 0; i < raw->welcome.reply_slots; i++) {
        for (int tries = 0; att_producer_room(&raw->requests) < 1 && tries < 2000; tries++) {
            raw_ring(raw);
            att_producer_refresh(&raw->requests);
            if (att_producer_room(&raw->requests) < 1)
                usleep(1000);
        }
        if (att_producer_room(&raw->requests) < 1)
            break; /* the session has ended already */
        raw_send(raw, &request, 0);
    }
    return "reply cursor is impossible";
}

/* ---- Forged batches ---- */

/* A batch of `count` pings' bytes that says it holds `told` requests; `change` is done to the last but one of them. */
static void send_batch(struct raw *raw, uint32_t told, uint32_t count, void (*change)(struct att_wire_request *request))
{
    struct att_wire_request requests[ATT_BATCH_REQUESTS + 2];
    requests[0] = ping(raw);
    requests[0].type = ATT_REQ_BATCH;
    requests[0].index = told;
    requests[0].length = (uint32_t)(sizeof requests[0] * (count + 1));
    for (uint32_t i = 1; i <= count; i++) {
        requests[i] = ping(raw);
        requests[i].type = ATT_REQ_QUERY;
    }
    if (change)
        change(&requests[count - 1]);
    const struct att_part part = {requests, requests[0].length};
    att_producer_put(&raw->requests, &part, 1);
    att_producer_publish(&raw->requests);
    raw_ring(raw);
}

static const char *forge_batch_of_none(struct raw *raw)
{
    send_batch(raw, 0, 2, NULL);
    return "no requests, or too many";
}

static const char *forge_batch_of_too_many(struct raw *raw)
{
    send_batch(raw, ATT_BATCH_REQUESTS + 1, ATT_BATCH_REQUESTS + 1, NULL);
    return "no requests, or too many";
}

static const char *forge_batch_too_short(struct raw *raw)
{
    send_batch(raw, 4, 3, NULL);
    return "shorter than its requests";
}

static const char *forge_batch_too_long(struct raw *raw)
{
    send_batch(raw, 2, 3, NULL);
    return "longer than its requests";
}

static const char *forge_batch_too_large(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.type = ATT_REQ_BATCH;
    request.index = 2;
    request.length = raw->welcome.request_slots / ATT_RING_MESSAGES * ATT_SLOT_DATA + 1;
    raw_send(raw, &request, 100);
    return "impossible length";
}

static void nest(struct att_wire_request *request)
{
    request->type = ATT_REQ_BATCH;
    request->index = 1;
}

static const char *forge_batch_in_a_batch(struct raw *raw)
{
    send_batch(raw, 3, 3, nest);
    return "may not stand in one";
}

static void ask_for_all(struct att_wire_request *request)
{
    request->type = ATT_REQ_ALL;
}

static const char *forge_all_in_a_batch(struct raw *raw)
{
    send_batch(raw, 3, 3, ask_for_all);
    return "may not stand in one";
}

static void report_reads(struct att_wire_request *request)
{
    request->type = ATT_REQ_READS;
}

static const char *forge_reads_in_a_batch(struct raw *raw)
{
    send_batch(raw, 3, 3, report_reads);
    return "may not stand in one";
}

/* Its payload would be the request after it, and then be missing at the end. */
static void claim_payload(struct att_wire_request *request)
{
    request->type = ATT_REQ_SET_TOKEN;
    request->fields = ATT_WIRE_KEY | ATT_WIRE_VALUE;
    request->length += sizeof(float) * (D + D_V);
}

static const char *forge_payload_in_a_batch(struct raw *raw)
{
    send_batch(raw, 3, 3, claim_payload);
    return "shorter than its requests";
}

/* The last request's payload lies behind the batch. */
static const char *forge_payload_behind_a_batch(struct raw *raw)
{
    struct att_wire_request requests[2] = {ping(raw), ping(raw)};
    requests[0].type = ATT_REQ_BATCH;
    requests[0].index = 1;
    requests[0].length = sizeof requests;
    claim_payload(&requests[1]);
    const struct att_part part = {requests, sizeof requests};
    att_producer_put(&raw->requests, &part, 1);
    att_producer_publish(&raw->requests);
    raw_ring(raw);
    return "shorter than its requests";
}

static void lengthen(struct att_wire_request *request)
{
    request->length = UINT32_MAX;
}

static const char *forge_length_in_a_batch(struct raw *raw)
{
    send_batch(raw, 3, 3, lengthen);
    return "length does not fit its fields";
}

static void misname(struct att_wire_request *request)
{
    request->generation ^= 1;
}

static const char *forge_generation_in_a_batch(struct raw *raw)
{
    send_batch(raw, 3, 3, misname);
    return "another channel's generation";
}

static const char *forge_socket(struct raw *raw)
{
    assert_int_equal(send(raw->fd, "more than a doorbell", 20, MSG_NOSIGNAL), 20);
    return "more than a doorbell";
}

static void forgeries_end_their_session_only(void **unused)
{
    (void)unused;
    static const char *(*const forgeries[])(struct raw *) = {
        forge_length_short,
        forge_length_huge,
        forge_length_of_fields,
        forge_generation,
        forge_type,
        forge_type_zero,
        forge_missing_key,
        forge_extra_field,
        forge_no_field,
        forge_flags,
        forge_durable,
        forge_session,
        forge_first_number,
        forge_later_number,
        forge_cursor,
        forge_socket,
        forge_batch_of_none,
        forge_batch_of_too_many,
        forge_batch_too_short,
        forge_batch_too_long,
        forge_batch_too_large,
        forge_batch_in_a_batch,
        forge_all_in_a_batch,
        forge_reads_in_a_batch,
        forge_payload_in_a_batch,
        forge_payload_behind_a_batch,
        forge_length_in_a_batch,
        forge_generation_in_a_batch,
    };
    for (size_t i = 0; i < sizeof forgeries / sizeof forgeries[0]; i++) {
        struct service service;
        struct raw raw;
        service_start(&service);
        struct att_client *bystander = service_connect(&service, 5000);
        raw_open(&service, &raw);
        assert_open(&raw);
        raw_close(&raw);
        raw_open(&service, &raw);
        const char *reason = forgeries[i](&raw);
        assert_ended(&raw);
        service_await_log(&service, reason);
        assert_works(bystander);
        service_await_clients(bystander, 1);
        raw_close(&raw);
        att_close(bystander);
        service_stop(&service);
    }
}

static void await_replies(struct raw *raw, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct att_wire_reply reply;
        for (int tries = 0; tries < 2000 && att_consumer_peek(&raw->replies) == ATT_RING_EMPTY; tries++)
            usleep(1000);
        assert_true(att_consumer_read(&raw->replies, 0, &reply, sizeof reply));
        att_consumer_take(&raw->replies, att_slots_for(reply.length), false);
    }
}

/* A batch waits in its ring while an answer is computed, and its client makes something else of it there: other requests,
 * which are its own affair; fewer than are done, or another message, which ends its session. */
static void a_batch_changed_while_it_waits(void **unused)
{
    (void)unused;
    for (int change = 0; change < 4; change++) {
        struct service service;
        struct raw raw;
        service_start(&service);
        struct att_client *bystander = service_connect(&service, 5000);
        raw_open(&service, &raw);
        struct att_wire_request batch[4] = {ping(&raw), ping(&raw), ping(&raw), ping(&raw)};
        batch[0].type = ATT_REQ_BATCH;
        batch[0].index = 3;
        batch[0].length = sizeof batch;
        batch[1].type = ATT_REQ_QUERY;
        batch[1].index = LATE;
        batch[2].type = batch[3].type = ATT_REQ_DELETE;
        const struct att_part part = {batch, sizeof batch};
        const struct att_producer before = raw.requests;
        att_producer_put(&raw.requests, &part, 1);
        att_producer_publish(&raw.requests);
        raw_ring(&raw);
        struct att_stat stat;
        do
            assert_int_equal(att_get_stat(bystander, &stat), ATT_OK);
        while (stat.queries < 1);
        raw.requests = before;                       /* the same slots once more */
        batch[2].type = batch[3].type = ATT_REQ_ROW; /* with more room for the reply */
        batch[2].index = batch[3].index = 1;
        if (change == 1) {
            batch[0].index = 1;
            batch[0].length = 2 * sizeof batch[0];
        }
        if (change == 2)
            batch[0] = ping(&raw);
        if (change == 3)
            batch[3].type = ATT_REQ_COLUMN;
        att_producer_put(&raw.requests, &part, 1);
        att_producer_publish(&raw.requests);
        assert_works(bystander); /* a query: the late one is answered, and the batch goes on */
        if (change == 0) {
            await_replies(&raw, 3);
            assert_open(&raw);
        } else {
            assert_ended(&raw);
            service_await_log(&service, change == 3 ? "may not stand in one" : "changed while it waited");
        }
        assert_works(bystander);
        raw_close(&raw);
        service_await_clients(bystander, 1);
        att_close(bystander);
        service_stop(&service);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forgeries_end_their_session_only),
        cmocka_unit_test(a_batch_changed_while_it_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
