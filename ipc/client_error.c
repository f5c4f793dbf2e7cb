/* What the client says when something goes wrong. */
#include "client_internal.h"

#include <stdio.h>

enum att_status att_client_broken(struct att_client *client, const char *reason)
{
    client->broken = true;
    client->closed = true;
    att_fail(&client->gone, ATT_EPROTOCOL, "the daemon at %s broke the protocol: %s", client->socket, reason);
    return att_client_gone(client);
}

enum att_status att_client_gone(struct att_client *client)
{
    client->error = client->gone;
    return client->error.status;
}

void att_client_say_empty(struct att_client *client, uint32_t row)
{
    att_fail(&client->error, ATT_EMPTY, "row %u: it sees no token that is not masked, so there is no output", row);
}

/* "row 5, column 3", by what the request names. */
static void name_object(const struct att_flight *flight, char *text, size_t size)
{
    unsigned index = flight->index, column = flight->column;
    text[0] = '\0';
    switch (flight->type) {
    case ATT_REQ_QUERY:
        snprintf(text, size, " row %u, column %u", index, column);
        break;
    case ATT_REQ_ROW:
    case ATT_REQ_SET_Q:
        snprintf(text, size, " row %u", index);
        break;
    case ATT_REQ_COLUMN:
        snprintf(text, size, " column %u", column);
        break;
    case ATT_REQ_SET_TOKEN:
    case ATT_REQ_DELETE:
        snprintf(text, size, " token %u", index);
        break;
    case ATT_REQ_UPDATE_K:
    case ATT_REQ_UPDATE_V:
        snprintf(text, size, " token %u, column %u", index, column);
        break;
    default:
        break;
    }
}

/* What to add for a status that has something to add; "" for others. */
static void name_reason(const struct att_client *client, const struct att_flight *flight, char *text, size_t size)
{
    const struct att_info *info = &client->info;
    text[0] = '\0';
    switch (flight->done.status) {
    case ATT_EMPTY:
        snprintf(text, size, "it sees no token that is not masked, so there is no output");
        break;
    case ATT_ERANGE:
        if (flight->type == ATT_REQ_QUERY || flight->type == ATT_REQ_ROW || flight->type == ATT_REQ_COLUMN ||
            flight->type == ATT_REQ_SET_Q)
            snprintf(text, size, "out of range: n_q is %u, d is %u and d_v is %u", info->n_q, info->d, info->d_v);
        else
            snprintf(text, size, "out of range or deleted: the capacity is %u, d is %u and d_v is %u", info->capacity,
                     info->d, info->d_v);
        break;
    case ATT_ENOTFINITE:
        snprintf(text, size, "NaN or infinity where a finite number is needed; nothing has changed");
        break;
    case ATT_ECAPACITY:
        snprintf(text, size, "no room for another token beyond %u: start attnd with a larger --capacity",
                 info->capacity);
        break;
    case ATT_EMAGNITUDE:
        snprintf(text, size, "scores would be too large for the precision; nothing has changed");
        break;
    case ATT_ECLOSED:
    case ATT_EPROTOCOL:
    case ATT_EEXPIRED:
    case ATT_EFENCED:
    case ATT_LOST:
    case ATT_ESHAPE:
        snprintf(text, size, "the connection ended before the daemon answered; it may or may not have taken effect");
        break;
    case ATT_EREADONLY:
        snprintf(text, size, "the daemon refuses updates now; its stat says why");
        break;
    default:
        snprintf(text, size, "the daemon answered %s", att_status_name(flight->done.status));
        break;
    }
}

void att_client_describe(struct att_client *client, const struct att_flight *flight, const char *text)
{
    char object[64], reason[200], clean[ATT_WIRE_TEXT_BYTES + 1];
    size_t length = 0;
    for (; text[length] != '\0' && length < ATT_WIRE_TEXT_BYTES; length++) {
        unsigned char letter = (unsigned char)text[length];
        clean[length] = letter < 0x20 || letter == 0x7f ? '?' : text[length]; /* for a terminal */
    }
    clean[length] = '\0';
    name_object(flight, object, sizeof object);
    name_reason(client, flight, reason, sizeof reason);
    if (length > 0)
        att_fail(&client->error, flight->done.status, "%s", clean);
    else
        att_fail(&client->error, flight->done.status, "%s%s: %s", att_request_rule(flight->type)->name, object, reason);
}
