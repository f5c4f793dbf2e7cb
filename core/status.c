#include "attn_status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const names[ATT_STATUS_COUNT] = {
    [ATT_OK] = "ATT_OK",
    [ATT_EMPTY] = "ATT_EMPTY",
    [ATT_AGAIN] = "ATT_AGAIN",
    [ATT_EINVAL] = "ATT_EINVAL",
    [ATT_ERANGE] = "ATT_ERANGE",
    [ATT_ENOTFINITE] = "ATT_ENOTFINITE",
    [ATT_ECAPACITY] = "ATT_ECAPACITY",
    [ATT_EMAGNITUDE] = "ATT_EMAGNITUDE",
    [ATT_EBUSY] = "ATT_EBUSY",
    [ATT_ETIMEOUT] = "ATT_ETIMEOUT",
    [ATT_ECLOSED] = "ATT_ECLOSED",
    [ATT_EPROTOCOL] = "ATT_EPROTOCOL",
    [ATT_EVERSION] = "ATT_EVERSION",
    [ATT_EPERM] = "ATT_EPERM",
    [ATT_EIO] = "ATT_EIO",
    [ATT_ENOSPC] = "ATT_ENOSPC",
    [ATT_ENOMEM] = "ATT_ENOMEM",
    [ATT_ECORRUPT] = "ATT_ECORRUPT",
    [ATT_EEXIST] = "ATT_EEXIST",
    [ATT_ENOENT] = "ATT_ENOENT",
    [ATT_ELOCKED] = "ATT_ELOCKED",
    [ATT_EREADONLY] = "ATT_EREADONLY",
    [ATT_LOST] = "ATT_LOST",
    [ATT_EKERNEL] = "ATT_EKERNEL",
    [ATT_EEXPIRED] = "ATT_EEXPIRED",
    [ATT_EFENCED] = "ATT_EFENCED",
    [ATT_ESHAPE] = "ATT_ESHAPE",
};

const char *att_status_name(enum att_status status)
{
    if ((unsigned)status >= ATT_STATUS_COUNT || !names[status])
        return "ATT_UNKNOWN";
    return names[status];
}

/* Of a text that is too long the middle is left out, a name mostly: what is wrong with it stands at the end. */
static void __attribute__((format(printf, 3, 0)))
print_ends(char *ret_text, size_t size, const char *format, va_list arguments)
{
    enum { BEGINNING = 100 };
    char whole[8192];
    vsnprintf(whole, sizeof whole, format, arguments);
    snprintf(ret_text, size, "%.*s...%s", BEGINNING, whole, whole + strlen(whole) - (size - BEGINNING - sizeof "..."));
}

enum att_status att_fail(struct att_error *error, enum att_status status, const char *format, ...)
{
    if (error) {
        va_list arguments, again;
        va_start(arguments, format);
        va_copy(again, arguments);
        error->status = status;
        if (vsnprintf(error->text, sizeof error->text, format, arguments) >= (int)sizeof error->text)
            print_ends(error->text, sizeof error->text, format, again);
        va_end(again);
        va_end(arguments);
    }
    return status;
}
