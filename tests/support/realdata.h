/* A real workload with expected outputs (tests/data/README.md), and the test that plays it through an engine. */
#ifndef ATT_TEST_REALDATA_H
#define ATT_TEST_REALDATA_H

#include "engine.h"
#include "npyload.h"

struct real_data {
    struct npy q, k, v, scale, kind, index, row, steps, ij, ij_values, rows, row_values;
};

/* The directory of the workload that lies in tests/data. */
const char *real_data_directory(void);

void real_data_load(struct real_data *data, const char *directory);
void real_data_release(struct real_data *data);

/* Applies the whole trace, querying in between, and compares all expected outputs at every step. Errors may be
 * 1e-6 of max |V| (single: 1e-5); no bound may be below the true error. */
void real_data_play(const struct real_data *data, enum att_precision precision);

#endif
