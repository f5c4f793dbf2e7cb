#include "realdata.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

const char *real_data_directory(void)
{
    const char *chosen = getenv("ATT_TEST_DATA");
    static char path[4096];
    snprintf(path, sizeof path, "%s/realS", chosen && *chosen ? chosen : ATT_TEST_DATA_DEFAULT);
    return path;
}

void real_data_load(struct real_data *data, const char *directory)
{
    data->q = npy_load(directory, "Q.npy");
    data->k = npy_load(directory, "K.npy");
    data->v = npy_load(directory, "V.npy");
    data->scale = npy_load(directory, "scale.npy");
    data->kind = npy_load(directory, "trace_kind.npy");
    data->index = npy_load(directory, "trace_index.npy");
    data->row = npy_load(directory, "trace_row.npy");
    data->steps = npy_load(directory, "exp_steps.npy");
    data->ij = npy_load(directory, "exp_ij.npy");
    data->ij_values = npy_load(directory, "exp_ij_vals.npy");
    data->rows = npy_load(directory, "exp_rows.npy");
    data->row_values = npy_load(directory, "exp_rows_vals.npy");
}

void real_data_release(struct real_data *data)
{
    npy_release(&data->q);
    npy_release(&data->k);
    npy_release(&data->v);
    npy_release(&data->scale);
    npy_release(&data->kind);
    npy_release(&data->index);
    npy_release(&data->row);
    npy_release(&data->steps);
    npy_release(&data->ij);
    npy_release(&data->ij_values);
    npy_release(&data->rows);
    npy_release(&data->row_values);
}

/* The expected numbers were summed in float64: they have an error of their own, which the bound need not cover. */
static double bound_slack(const struct model *model)
{
    return 1e-12 * model->max_value;
}

static void load_model(const struct real_data *data, struct model *model)
{
    uint32_t n_q = (uint32_t)data->q.rows, n_k = (uint32_t)data->k.rows;
    uint32_t d = (uint32_t)data->k.columns, d_v = (uint32_t)data->v.columns;
    model_init(model, n_q, d, d_v, n_k, npy_doubles(&data->scale)[0]);
    memcpy(model->q, npy_floats(&data->q), (size_t)n_q * d * sizeof(float));
    memcpy(model->k, npy_floats(&data->k), (size_t)n_k * d * sizeof(float));
    memcpy(model->v, npy_floats(&data->v), (size_t)n_k * d_v * sizeof(float));
    memset(model->live, 1, n_k);
    model->tokens = n_k;
    for (size_t i = 0; i < (size_t)n_k * d_v; i++)
        model->max_value = fmax(model->max_value, fabs((double)model->v[i]));
}

static void check_pairs(const struct real_data *data, size_t step, struct att_engine *engine, const struct model *model,
                        struct tolerance tolerance)
{
    for (size_t pair = 0; pair < data->ij.rows; pair++) {
        uint32_t i = (uint32_t)npy_integer(&data->ij, 2 * pair);
        uint32_t j = (uint32_t)npy_integer(&data->ij, 2 * pair + 1);
        double expected = npy_doubles(&data->ij_values)[step * data->ij_values.columns + pair];
        double value = NAN, bound = NAN;
        assert_int_equal(harness_entry(engine, i, j, &value, &bound), ATT_OK);
        harness_check(value, bound + bound_slack(model), expected, model->max_value, tolerance, "exp_ij", i, j);
    }
}

static void check_rows(const struct real_data *data, size_t step, struct att_engine *engine, const struct model *model,
                       struct tolerance tolerance)
{
    double *values = malloc(model->d_v * sizeof *values);
    assert_non_null(values);
    for (size_t r = 0; r < data->rows.rows; r++) {
        uint32_t row = (uint32_t)npy_integer(&data->rows, r);
        const double *expected = npy_doubles(&data->row_values) + step * data->row_values.columns + r * model->d_v;
        double bound = NAN;
        assert_int_equal(harness_row(engine, row, values, &bound), ATT_OK);
        for (uint32_t j = 0; j < model->d_v; j++)
            harness_check(values[j], bound + bound_slack(model), expected[j], model->max_value, tolerance, "exp_rows",
                          row, j);
        harness_check_row(engine, model, row, tolerance); /* and against the oracle, without slack */
    }
    free(values);
}

static void apply_step(const struct real_data *data, size_t t, struct att_engine *engine, struct model *model,
                       uint64_t *lsn)
{
    const float *row = npy_floats(&data->row) + t * data->row.columns;
    bool key = npy_integer(&data->kind, t) == 0;
    struct att_op op = {
        .kind = ATT_OP_SET_TOKEN,
        .index = (uint32_t)npy_integer(&data->index, t),
        .key = key ? row : NULL,
        .value = key ? NULL : row,
    };
    harness_update(engine, model, &op, lsn);
}

void real_data_play(const struct real_data *data, enum att_precision precision)
{
    struct model model;
    struct test_random random;
    load_model(data, &model);
    random_init(&random, 1);
    struct att_engine_options options = harness_options(&model);
    options.precision = precision;
    struct att_engine *engine = harness_start(&model, &options);
    struct tolerance tolerance = harness_tolerance(precision);
    uint64_t lsn = 0;
    size_t done = 0;
    for (size_t step = 0; step < data->steps.rows; step++) {
        size_t until = (size_t)npy_integer(&data->steps, step);
        for (; done < until; done++) {
            apply_step(data, done, engine, &model, &lsn);
            if (done % 8 == 0) {
                att_engine_kick(engine);
                harness_check_entry(engine, &model, random_below(&random, model.n_q), random_below(&random, model.d_v),
                                    tolerance);
            }
        }
        check_pairs(data, step, engine, &model, tolerance);
        check_rows(data, step, engine, &model, tolerance);
    }
    assert_int_equal(done, data->index.rows);
    att_engine_free(engine);
    model_release(&model);
}
