/* The header of an .npy file: a Python dict literal. */
#include <string.h>

#include "npy_impl.h"

struct cursor {
    const char *at;
    const char *end;
};

enum { HAS_DESCR = 1, HAS_ORDER = 2, HAS_SHAPE = 4, HAS_ALL = 7 };

static void skip_space(struct cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n' || *c->at == '\r'))
        c->at++;
}

/* Takes the character if it is next, after white space. */
static bool take(struct cursor *c, char wanted)
{
    skip_space(c);
    if (c->at == c->end || *c->at != wanted)
        return false;
    c->at++;
    return true;
}

static bool take_word(struct cursor *c, const char *word)
{
    size_t length = strlen(word);
    skip_space(c);
    if ((size_t)(c->end - c->at) < length || memcmp(c->at, word, length) != 0)
        return false;
    c->at += length;
    return true;
}

/* A quoted string without escapes. */
static bool take_string(struct cursor *c, char *ret, size_t size)
{
    skip_space(c);
    if (c->at == c->end || (*c->at != '\'' && *c->at != '"'))
        return false;
    char quote = *c->at++;
    size_t length = 0;
    while (c->at < c->end && *c->at != quote) {
        if (*c->at == '\\' || length + 1 == size)
            return false;
        ret[length++] = *c->at++;
    }
    if (c->at == c->end)
        return false;
    c->at++;
    ret[length] = '\0';
    return true;
}

static bool take_number(struct cursor *c, uint64_t *ret)
{
    skip_space(c);
    uint64_t number = 0;
    const char *begin = c->at;
    while (c->at < c->end && *c->at >= '0' && *c->at <= '9') {
        unsigned digit = (unsigned)(*c->at++ - '0');
        if (number > ((uint64_t)INT64_MAX - digit) / 10)
            return false;
        number = number * 10 + digit;
    }
    if (c->at == begin)
        return false;
    if (c->at < c->end && *c->at == 'L') /* Python 2 wrote 10L */
        c->at++;
    *ret = number;
    return true;
}

/* "()", "(3,)", "(3, 4)", "(3, 4,)". Returns NULL or what is wrong. */
static const char *take_shape(struct cursor *c, struct npy_header *header)
{
    if (!take(c, '('))
        return "its shape is not a tuple";
    header->dims = 0;
    bool comma = true;
    while (!take(c, ')')) {
        uint64_t extent;
        if (!comma || !take_number(c, &extent))
            return "its shape is not a tuple of whole numbers";
        if (header->dims == ATT_NPY_MAX_DIMS)
            return "it has more than 3 dimensions";
        header->shape[header->dims++] = extent;
        comma = take(c, ',');
    }
    if (header->dims == 1 && !comma)
        return "its shape is not a tuple";
    return NULL;
}

static const char *take_descr(struct cursor *c, struct npy_header *header)
{
    skip_space(c);
    if (c->at < c->end && *c->at == '[')
        return "it holds records, not plain numbers";
    if (!take_string(c, header->descr, sizeof header->descr))
        return "its descr is not a string";
    return NULL;
}

static const char *take_order(struct cursor *c, struct npy_header *header)
{
    if (take_word(c, "True"))
        header->fortran_order = true;
    else if (take_word(c, "False"))
        header->fortran_order = false;
    else
        return "its fortran_order is neither True nor False";
    return NULL;
}

static const char *take_pair(struct cursor *c, struct npy_header *header)
{
    static const struct {
        const char *key;
        unsigned bit;
        const char *(*value)(struct cursor *, struct npy_header *);
    } pairs[] = {{"descr", HAS_DESCR, take_descr},
                 {"fortran_order", HAS_ORDER, take_order},
                 {"shape", HAS_SHAPE, take_shape}};
    char key[32];
    if (!take_string(c, key, sizeof key) || !take(c, ':'))
        return "its header is not a dict literal";
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        if (strcmp(key, pairs[i].key) != 0)
            continue;
        if (header->has & pairs[i].bit)
            return "its header has a key twice";
        header->has |= pairs[i].bit;
        return pairs[i].value(c, header);
    }
    return "its header has an unknown key";
}

const char *npy_parse_header(const char *text, size_t length, struct npy_header *header)
{
    struct cursor c = {text, text + length};
    if (!take(&c, '{'))
        return "its header is not a dict literal";
    bool comma = true;
    while (!take(&c, '}')) {
        if (!comma)
            return "its header is not a dict literal";
        const char *wrong = take_pair(&c, header);
        if (wrong)
            return wrong;
        comma = take(&c, ',');
    }
    skip_space(&c);
    if (c.at != c.end)
        return "its header goes on after the dict literal";
    if (header->has != HAS_ALL)
        return "its header lacks descr, fortran_order or shape";
    return NULL;
}
