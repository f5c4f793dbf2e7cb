/* The door: what may come in. Numbers that are finite and not too large, and no row of Q and token whose score the precision could not
 * hold. What has gone is no longer in the way. */
#include <math.h>

#include "engine_impl.h"

/* |k|, |v| and their product must stay far from float32's overflow: the head columns hold their products; so must s q where
 * it is float32. */
#define ATT_LARGEST_PRODUCT 1e37

static enum att_status check_row(const char *what, uint32_t index, const float *row, uint32_t columns,
                                 struct att_error *error)
{
    for (uint32_t p = 0; p < columns; p++)
        if (!isfinite(row[p]))
            return att_fail(error, ATT_ENOTFINITE, "%s[%u][%u] would be %g: only finite numbers are allowed", what,
                            index, p, (double)row[p]);
    return ATT_OK;
}

/* Scores must stay where the precision can hold them: see docs/numerics.md, "the door". */
static bool fits(const struct att_engine *engine, double q_norm, double g)
{
    return att_larger(1.0, q_norm) * g * engine->region.numerics.kappa <= ATT_DOOR;
}

static enum att_status check_scores(const struct att_engine *engine, const char *what, uint32_t index, double q_norm,
                                    double g, struct att_error *error)
{
    if (fits(engine, q_norm, g))
        return ATT_OK;
    return att_fail(error, ATT_EMAGNITUDE,
                    "%s[%u]: scores could reach %.3g, precision %s holds them up to %.3g: scale the data down%s", what,
                    index, att_larger(1.0, q_norm) * g,
                    engine->options.precision == ATT_SINGLE ? "single" : "mixed or double",
                    ATT_DOOR / engine->region.numerics.kappa,
                    engine->options.precision == ATT_SINGLE ? ", or use --precision mixed" : "");
}

/* |s||q| of a row of Q, and g of a token: whose largest there are the door keeps. */
static double q_norm_at(const void *context, uint32_t row)
{
    const struct att_engine *engine = context;

    return engine->index.q_norm[row];
}

static double g_at(const void *context, uint32_t token)
{
    const struct att_engine *engine = context;
    float head[ATT_HEAD_KEPT];

    if (!engine->index.live[token])
        return 0.0;
    att_live_head(engine, token, head);
    return (double)head[1];
}

void att_door_note_q(struct att_engine *engine, uint32_t row, double norm)
{
    att_peak_goes(&engine->index.q_peak, row, engine->index.q_norm[row]);
    engine->index.q_norm[row] = norm;
    att_peak_comes(&engine->index.q_peak, row, norm);
}

void att_door_note_token(struct att_engine *engine, uint32_t token, const float head[ATT_HEAD_KEPT])
{
    const struct att_region *region = &engine->region;
    const double v = head[0], g = head[1], columns[ATT_HEAD_COLUMNS] = {1.0, v, g, v * g};

    for (int c = 0; c < ATT_HEAD_COLUMNS; c++)
        if (columns[c] > atomic_load_explicit(&region->header->largest[c], memory_order_relaxed))
            atomic_store_explicit(&region->header->largest[c], columns[c], memory_order_relaxed);
    att_peak_comes(&engine->index.g_peak, token, g);
}

enum att_status att_check_token(struct att_engine *engine, uint32_t index, struct att_token *token,
                                struct att_error *error)
{
    const struct att_region *region = &engine->region;
    enum att_status status = ATT_OK;
    float norm_largest[2];

    region->kernel->head(token->key, region->d, token->value, region->d_v, norm_largest);
    if (!isfinite(norm_largest[0]) || !isfinite(norm_largest[1]))
        status = check_row("K", index, token->key, region->d, error);
    if (status == ATT_OK && !isfinite(norm_largest[1]))
        status = check_row("V", index, token->value, region->d_v, error);
    if (status != ATT_OK)
        return status;
    if (isnan(token->bias) || token->bias == INFINITY)
        return att_fail(error, ATT_ENOTFINITE,
                        "the bias of token %u would be %g: it must be finite, or -inf to mask the token", index,
                        (double)token->bias);
    att_head(norm_largest, token->bias, token->head);
    if (!((double)token->head[1] * att_larger(1.0, (double)token->head[0]) <= ATT_LARGEST_PRODUCT))
        return att_fail(error, ATT_EMAGNITUDE, "token %u is too large: |k| %g times |v| %g must stay below %g", index,
                        (double)token->head[1], (double)token->head[0], ATT_LARGEST_PRODUCT);
    if (!fits(engine, engine->index.q_peak.all, token->head[1]))
        att_peak_find(&engine->index.q_peak, q_norm_at, engine);
    return check_scores(engine, "K", index, engine->index.q_peak.all, token->head[1], error);
}

enum att_status att_check_q(struct att_engine *engine, uint32_t row, const float *q, double *ret_norm,
                            struct att_error *error)
{
    const bool single = engine->options.precision == ATT_SINGLE;
    const double norm = att_q_norm(engine->region.scale, engine->region.d, q);
    const double most = single ? ATT_LARGEST_PRODUCT : ATT_LARGEST_SCALE;
    enum att_status status = check_row("Q", row, q, engine->region.d, error);

    if (status != ATT_OK)
        return status;
    if (!(norm <= most)) /* whatever the keys: infinity times 0 is no score */
        return att_fail(error, ATT_EMAGNITUDE, "Q[%u] is too large: |s||q| is %.3g, precision %s holds it up to %g%s",
                        row, norm, single ? "single" : "mixed or double", most,
                        single ? ": scale the data down, or use --precision mixed" : "");
    if (!fits(engine, norm, engine->index.g_peak.all))
        att_peak_find(&engine->index.g_peak, g_at, engine);
    *ret_norm = norm;
    return check_scores(engine, "Q", row, norm, engine->index.g_peak.all, error);
}
