/* Reads of a published region: a pure function over read-only memory. The daemon, clients that map the region and the
 * offline inspector call the same one. Any thread of any process, beside the service and merge threads that write. */
#ifndef ATT_READER_H
#define ATT_READER_H

#include "region.h"

/* O[row][column] and a bound on its error. ATT_EMPTY; ATT_AGAIN: the base can't give it now (cold, its row of Q has
 * changed, over the error budget, or the merge thread flipped tiles too often meanwhile): ask the engine.
 * The caller has checked row and column. */
enum att_status att_read_entry(const struct att_region *region, uint32_t row, uint32_t column, double *ret_value,
                               double *ret_error_bound);

/* Begins to bring what att_read_entry will read. The caller has checked row and column. */
void att_read_ahead(const struct att_region *region, uint32_t row, uint32_t column);

/* All d_v values of the row and the largest of their bounds. */
enum att_status att_read_row(const struct att_region *region, uint32_t row, double *ret_values,
                             double *ret_error_bound);

#endif
