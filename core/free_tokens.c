/* Which tokens are not live: an append takes the lowest of them. So what it takes is a function of the state alone: an
 * engine that was recovered chooses as the one before the crash did, whatever led to the state.
 *
 * Bits in levels, 1 for a live token; then, level by level, 1 for a word below that is full. Each level has room for one
 * bit more than it needs: its last word is never full, and the lowest 0 is always there. */
#include <stdlib.h>

#include "engine_impl.h"

enum { LEVELS = 6 }; /* 64^6 is more than there can be tokens */

struct att_free_tokens {
    uint32_t levels;
    size_t first[LEVELS]; /* word of each level */
    uint64_t words[];
};

struct att_free_tokens *att_free_tokens_create(uint32_t capacity)
{
    struct att_free_tokens shape = {0}, *tokens;
    size_t all = 0, words = capacity;

    do {
        words = words / 64 + 1;
        shape.first[shape.levels++] = all;
        all += words;
    } while (words > 1);
    tokens = calloc(1, sizeof *tokens + sizeof(uint64_t) * all);
    if (tokens)
        *tokens = shape;
    return tokens;
}

void att_free_tokens_take(struct att_free_tokens *tokens, uint32_t token)
{
    size_t at = token;

    for (uint32_t level = 0; level < tokens->levels; level++, at /= 64) {
        uint64_t *word = &tokens->words[tokens->first[level] + at / 64];
        *word |= 1ull << at % 64;
        if (*word != UINT64_MAX)
            return;
    }
}

void att_free_tokens_give(struct att_free_tokens *tokens, uint32_t token)
{
    size_t at = token;

    for (uint32_t level = 0; level < tokens->levels; level++, at /= 64) {
        uint64_t *word = &tokens->words[tokens->first[level] + at / 64];
        const bool was_full = *word == UINT64_MAX;
        *word &= ~(1ull << at % 64);
        if (!was_full)
            return;
    }
}

uint32_t att_free_tokens_lowest(const struct att_free_tokens *tokens)
{
    size_t at = 0;

    for (uint32_t level = tokens->levels; level-- > 0;)
        at = 64 * at + (size_t)__builtin_ctzll(~tokens->words[tokens->first[level] + at]);
    return (uint32_t)at;
}
