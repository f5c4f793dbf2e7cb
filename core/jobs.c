/* Reads for the merge thread's team: rows that their base can't answer, columns, everything. Each at one cut. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "engine_impl.h"

/* Whose base stands, with what is pending folded in, or has to be computed over the live tokens. */
struct answers {
    struct att_job *job; /* column or all */
    uint32_t *lone;      /* rows that need the live tokens */
    uint32_t lone_count;
};

void att_job_finish(struct att_engine *engine, struct att_job *job)
{
    struct att_job *head = atomic_load_explicit(&engine->finished, memory_order_relaxed);

    do
        job->next = head;
    /* Release: the job's results. Partner: the acquire in att_engine_completed. */
    while (!atomic_compare_exchange_weak_explicit(&engine->finished, &head, job, memory_order_release,
                                                  memory_order_relaxed));
    if (engine->options.on_completion)
        engine->options.on_completion(engine->options.context);
}

static uint64_t lsn_at(const struct att_engine *engine, uint64_t cut)
{
    return cut == atomic_load_explicit(&engine->region.header->settled, memory_order_relaxed)
               ? engine->merger.settled_lsn
               : engine->region.log_entries[att_log_slot(&engine->region, cut - 1)].lsn;
}

/* The values of work row i, and the largest bound. ATT_EMPTY: NaN everywhere. */
static enum att_status answer_row(const struct att_engine *engine, const struct att_work_tile *work, uint32_t i,
                                  uint32_t first, uint32_t count, double *ret_values, double *ret_bound)
{
    const struct att_row *row = &work->tile->rows[i];
    const double *sums = att_tile_sums(work->tile, i, engine->region.columns);
    double bound, worst = 0.0;

    if (row->tokens == 0) {
        for (uint32_t j = 0; j < count; j++)
            ret_values[j] = NAN;
        *ret_bound = NAN;
        return ATT_EMPTY;
    }
    for (uint32_t j = 0; j < count; j++) {
        att_row_answer(row, sums, sums[ATT_HEAD_COLUMNS + first + j], &engine->region.numerics, &ret_values[j], &bound);
        worst = bound > worst ? bound : worst;
    }
    *ret_bound = worst;
    return ATT_OK;
}

static enum att_status answer_into(const struct att_engine *engine, const struct att_job *job,
                                   const struct att_work_tile *work, uint32_t i)
{
    const uint32_t row = work->tile->rows[i].row, d_v = engine->region.d_v;

    if (job->kind == ATT_JOB_COLUMN)
        return answer_row(engine, work, i, job->index, 1, job->values + row, job->bounds + row);
    if (job->kind == ATT_JOB_ALL)
        return answer_row(engine, work, i, 0, d_v, job->values + (size_t)row * d_v, job->bounds + row);
    return answer_row(engine, work, i, 0, d_v, job->values, job->bounds);
}

/* Adds the row to the group for a rebuild; tiles fill up in order. */
static void add_to_group(struct att_engine *engine, uint32_t at, uint32_t row)
{
    struct att_work_tile *work = &engine->merger.group[at / ATT_TILE_ROWS];
    float scratch[ATT_MAX_COLUMNS];
    uint32_t version;
    const float *q = att_row_q(engine, row, scratch, &version);

    if (at % ATT_TILE_ROWS == 0)
        att_work_tile_clear(engine, work);
    att_work_tile_add(engine, work, row, version, q);
}

/* ---- single rows ---- */

/* A hot row came here because its base is over budget, now or with what is pending: a merge, then a refresh mend it.
 * (If the key that left is still in the log, a refresh before the merge could not.) */
static void review_asked(struct att_engine *engine, uint32_t row)
{
    if (atomic_load_explicit(&engine->region.slots[row], memory_order_relaxed) == ATT_NO_SLOT)
        return;
    att_mark_for_refresh(engine, row);
    engine->merger.merge_now = true;
}

/* Answers up to a group of row jobs together: the tokens are packed once for all. */
static void compute_rows(struct att_engine *engine, struct att_job **jobs, uint32_t count)
{
    struct att_merger *merger = &engine->merger;
    const uint64_t cut = att_merge_count(engine);
    uint32_t blocks;

    att_merge_scan(engine, cut);
    blocks = att_merge_pack(engine, cut, true);
    for (uint32_t i = 0; i < count; i++)
        add_to_group(engine, i, jobs[i]->index);
    att_rebuild(engine, (count + ATT_TILE_ROWS - 1) / ATT_TILE_ROWS, blocks);
    for (uint32_t i = 0; i < count; i++) {
        jobs[i]->status = answer_into(engine, jobs[i], &merger->group[i / ATT_TILE_ROWS], i % ATT_TILE_ROWS);
        jobs[i]->lsn = lsn_at(engine, cut);
        if (merger->changed_q[jobs[i]->index] == 0)
            review_asked(engine, jobs[i]->index);
    }
    att_merge_unscan(engine, cut);
}

static void run_rows(struct att_engine *engine, struct att_job **jobs, uint32_t count)
{
    compute_rows(engine, jobs, count);
    for (uint32_t i = 0; i < count; i++)
        att_job_finish(engine, jobs[i]);
}

/* A row job on the calling thread, for att_engine_recompute: the merge thread is idle. */
void att_job_row_now(struct att_engine *engine, struct att_job *job)
{
    compute_rows(engine, &job, 1);
}

/* ---- columns and everything ---- */

/* Loads the hot rows of [first, first + 64) into the work tile, in row order; lists the others. */
static void gather(struct att_engine *engine, struct answers *answers, struct att_work_tile *work, uint32_t first)
{
    const struct att_region *region = &engine->region;
    const uint32_t columns = region->columns;

    att_work_tile_clear(engine, work);
    for (uint32_t row = first; row < first + ATT_TILE_ROWS && row < region->n_q; row++) {
        const uint32_t slot = atomic_load_explicit(&region->slots[row], memory_order_relaxed);
        struct att_tile *tile = NULL;
        if (slot != ATT_NO_SLOT)
            tile = att_region_tile(region, ATT_WORD_PHYSICAL(atomic_load_explicit(&region->words[slot / ATT_TILE_ROWS],
                                                                                  memory_order_relaxed)));
        if (!tile || tile->rows[slot % ATT_TILE_ROWS].row != row || engine->merger.changed_q[row] != 0) {
            answers->lone[answers->lone_count++] = row;
            continue;
        }
        att_work_tile_add(engine, work, row, 0, region->q + (size_t)row * region->d);
        work->tile->rows[work->rows - 1] = tile->rows[slot % ATT_TILE_ROWS];
        memcpy(att_tile_sums(work->tile, work->rows - 1, columns), att_tile_sums(tile, slot % ATT_TILE_ROWS, columns),
               sizeof(double) * columns);
    }
}

/* The hot rows of a group of tiles: base plus the packed stretch. */
static void answer_hot(struct att_engine *engine, struct answers *answers, uint32_t first, uint32_t blocks)
{
    struct att_merger *merger = &engine->merger;
    const uint32_t n_q = engine->region.n_q;
    uint32_t tiles = 0;

    for (; tiles < ATT_GROUP_TILES && first + tiles * ATT_TILE_ROWS < n_q; tiles++)
        gather(engine, answers, &merger->group[tiles], first + tiles * ATT_TILE_ROWS);
#pragma omp parallel for schedule(dynamic) num_threads( \
    att_team(engine, (double)tiles *ATT_TILE_ROWS *blocks *ATT_BLOCK *(engine->region.d + engine->region.columns)))
    for (uint32_t t = 0; t < tiles; t++)
        for (uint32_t b = 0; b < blocks; b++)
            att_fold(engine, &merger->scratch[omp_get_thread_num()], &merger->group[t], &merger->entries[b]);
    for (uint32_t t = 0; t < tiles; t++)
        for (uint32_t i = 0; i < merger->group[t].rows; i++) {
            const struct att_row *row = &merger->group[t].tile->rows[i];
            if (att_row_check(row, att_tile_sums(merger->group[t].tile, i, engine->region.columns),
                              engine->region.numerics.budget) == ATT_AGAIN)
                answers->lone[answers->lone_count++] = row->row;
            else
                answer_into(engine, answers->job, &merger->group[t], i);
        }
}

static void answer_lone(struct att_engine *engine, const struct answers *answers, uint32_t blocks)
{
    for (uint32_t done = 0; done < answers->lone_count; done += ATT_GROUP_ROWS) {
        uint32_t count = answers->lone_count - done < ATT_GROUP_ROWS ? answers->lone_count - done : ATT_GROUP_ROWS;
        for (uint32_t i = 0; i < count; i++)
            add_to_group(engine, i, answers->lone[done + i]);
        att_rebuild(engine, (count + ATT_TILE_ROWS - 1) / ATT_TILE_ROWS, blocks);
        for (uint32_t i = 0; i < count; i++)
            answer_into(engine, answers->job, &engine->merger.group[i / ATT_TILE_ROWS], i % ATT_TILE_ROWS);
    }
}

static void run_all(struct att_engine *engine, struct att_job *job)
{
    const uint64_t cut = att_merge_count(engine);
    struct answers answers = {.job = job, .lone = malloc(sizeof(uint32_t) * engine->region.n_q)};
    uint32_t blocks;

    if (!answers.lone) {
        job->status = ATT_ENOMEM;
        att_job_finish(engine, job);
        return;
    }
    att_merge_scan(engine, cut);
    blocks = att_merge_pack(engine, cut, false);
    for (uint32_t first = 0; first < engine->region.n_q; first += ATT_GROUP_ROWS)
        answer_hot(engine, &answers, first, blocks);
    blocks = att_merge_pack(engine, cut, true);
    answer_lone(engine, &answers, blocks);
    job->status = ATT_OK;
    job->lsn = lsn_at(engine, cut);
    att_merge_unscan(engine, cut);
    free(answers.lone);
    att_job_finish(engine, job);
}

/* ---- the list ---- */

/* Takes the waiting row jobs, up to a group of them, out of the list. */
static uint32_t take_rows(struct att_merger *merger, struct att_job **ret_jobs)
{
    struct att_job **link = &merger->waiting;
    uint32_t count = 0;

    while (*link && count < ATT_GROUP_ROWS) {
        if ((*link)->kind == ATT_JOB_ROW) {
            ret_jobs[count++] = *link;
            *link = (*link)->next;
        } else {
            link = &(*link)->next;
        }
    }
    return count;
}

/* Runs what waits: a group of row jobs, else the oldest of the others. */
void att_jobs_run(struct att_engine *engine)
{
    struct att_job *rows[ATT_GROUP_ROWS], *job;
    uint32_t count = take_rows(&engine->merger, rows);
    uint64_t cut;

    if (count > 0) {
        run_rows(engine, rows, count);
        return;
    }
    job = engine->merger.waiting;
    engine->merger.waiting = job->next;
    switch (job->kind) {
    case ATT_JOB_SNAPSHOT:
        att_saving_begin(engine, job);
        break;
    case ATT_JOB_MERGE:
        cut = att_merge_count(engine);
        if (cut != atomic_load_explicit(&engine->region.header->settled, memory_order_relaxed))
            att_merge(engine, cut);
        job->status = ATT_OK;
        job->lsn = engine->merger.settled_lsn;
        att_job_finish(engine, job);
        break;
    default:
        run_all(engine, job);
    }
}
