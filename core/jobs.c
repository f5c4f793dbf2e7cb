/* Reads for the merge thread's team: rows that their base can't answer, columns, everything. Each at one cut.
 *
 * A row with a base is its base plus the pending entries, compacted; a column, or everything, is read from the bases after a
 * merge. A row without a base, or whose sum is not certain, is computed over the live tokens. */
#include <float.h>
#include <math.h>
#include <omp.h>

#include "engine_impl.h"

/* A row asked for, and by which job. */
struct ask {
    uint32_t row;
    struct att_job *job;
    bool keep; /* if it is cold it is to become hot */
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

/* Ends one that nobody wants any more. */
void att_job_leave(struct att_engine *engine, struct att_job *job)
{
    job->status = ATT_ECLOSED;
    att_job_finish(engine, job);
}

/* The values of work row i, and the largest bound. ATT_EMPTY, ATT_EMAGNITUDE: NaN everywhere. The latter: the denominator may
 * be rounding alone, which the door forbids. */
static enum att_status answer_row(const struct att_engine *engine, const struct att_work_tile *work, uint32_t i,
                                  uint32_t first, uint32_t count, double *ret_values, double *ret_bound)
{
    const struct att_row *row = &work->tile->rows[i];
    const double *sums = att_tile_sums(work->tile, i, engine->region.columns);
    const enum att_status status = att_row_check(row, sums, DBL_MAX); /* nobody can do better than these */

    if (status != ATT_OK) {
        for (uint32_t j = 0; j < count; j++)
            ret_values[j] = NAN;
        *ret_bound = NAN;
        return status == ATT_EMPTY ? ATT_EMPTY : ATT_EMAGNITUDE;
    }
    att_row_answer(row, sums, sums + ATT_HEAD_COLUMNS + first, count, &engine->region.numerics, ret_values, ret_bound);
    return ATT_OK;
}

static void answer_into(const struct att_engine *engine, struct att_job *job, const struct att_work_tile *work,
                        uint32_t i)
{
    const uint32_t row = att_row_id(&work->tile->rows[i]), d_v = engine->region.d_v;
    enum att_status status;

    if (job->kind == ATT_JOB_COLUMN)
        status = answer_row(engine, work, i, job->index, 1, job->values + row, job->bounds + row);
    else if (job->kind == ATT_JOB_ALL)
        status = answer_row(engine, work, i, 0, d_v, job->values + (size_t)row * d_v, job->bounds + row);
    else if (job->kind == ATT_JOB_ENTRY)
        status = answer_row(engine, work, i, job->column, 1, job->values, job->bounds);
    else
        status = answer_row(engine, work, i, 0, d_v, job->values, job->bounds);
    if (att_job_is_row(job) || status == ATT_EMAGNITUDE)
        job->status = status;
}

/* ---- Rows that have a base ---- */

/* The row's tile when it has a base that belongs to its live row of Q. */
static struct att_tile *base_of(const struct att_engine *engine, uint32_t row, uint32_t *ret_at)
{
    const struct att_region *region = &engine->region;
    const uint32_t slot = atomic_load_explicit(&region->slots[row], memory_order_relaxed);
    uint64_t word;

    if (slot == ATT_NO_SLOT || engine->merger.changed_q[row] != 0)
        return NULL;
    word = atomic_load_explicit(&region->words[slot / ATT_TILE_ROWS], memory_order_relaxed);
    *ret_at = slot % ATT_TILE_ROWS;
    return att_region_tile(region, ATT_WORD_PHYSICAL(word));
}

/* Copies the base of an ask into the group; false when it has none. */
static bool gather(struct att_engine *engine, const struct ask *ask, uint32_t at)
{
    const struct att_region *region = &engine->region;
    struct att_work_tile *work = &engine->merger.group[at / ATT_TILE_ROWS];
    struct att_tile *tile;
    uint32_t from;

    tile = base_of(engine, ask->row, &from);
    if (!tile)
        return false;
    work->rows = at % ATT_TILE_ROWS;
    att_work_tile_take(engine, work, &tile->rows[from], att_tile_sums(tile, from, region->columns),
                       region->q + (size_t)ask->row * region->d);
    return true;
}

static void fold_group(struct att_engine *engine, uint32_t rows, uint32_t blocks)
{
    struct att_merger *merger = &engine->merger;
    const uint32_t tiles = (rows + ATT_TILE_ROWS - 1) / ATT_TILE_ROWS;
    const double terms = (double)rows * blocks * ATT_BLOCK * (engine->region.d + engine->region.columns);

#pragma omp parallel for schedule(dynamic) num_threads(att_team(engine, terms))
    for (uint32_t t = 0; t < tiles; t++)
        for (uint32_t b = 0; b < blocks; b++)
            att_fold(engine, &merger->scratch[omp_get_thread_num()], &merger->group[t], &merger->entries[b], 1);
}

/* Answers what it can of up to a group of asks; moves the others to the front and returns how many they are. A hot row whose
 * sum is not certain is mended: by a merge if anything is pending, then a refresh. (While the key that left is still in the log,
 * a refresh could not.) */
static uint32_t answer_hot(struct att_engine *engine, struct ask *asks, uint32_t count, uint32_t blocks)
{
    struct att_merger *merger = &engine->merger;
    struct ask hot[ATT_GROUP_ROWS];
    uint32_t gathered = 0, left = 0;

    for (uint32_t a = 0; a < count; a++) {
        if (gather(engine, &asks[a], gathered))
            hot[gathered++] = asks[a];
        else
            asks[left++] = asks[a];
    }
    fold_group(engine, gathered, blocks);
    for (uint32_t a = 0; a < gathered; a++) {
        const struct att_work_tile *work = &merger->group[a / ATT_TILE_ROWS];
        const uint32_t i = a % ATT_TILE_ROWS;
        const double *sums = att_tile_sums(work->tile, i, engine->region.columns);
        if (att_row_check(&work->tile->rows[i], sums, engine->region.numerics.budget) == ATT_AGAIN) {
            att_mark_for_refresh(engine, hot[a].row);
            merger->merge_now |= blocks > 0;
            asks[left++] = hot[a];
        } else {
            answer_into(engine, hot[a].job, work, i);
        }
    }
    return left;
}

/* ---- Rows over the live tokens ---- */

static void answer_live(struct att_engine *engine, const struct ask *asks, uint32_t count, uint32_t blocks)
{
    struct att_merger *merger = &engine->merger;
    const bool entry = count == 1 && asks->job->kind == ATT_JOB_ENTRY; /* of the values it needs one column */
    const double start = att_thread_ns();
    uint32_t version;

    for (uint32_t a = 0; a < count; a++) {
        struct att_work_tile *work = &merger->group[a / ATT_TILE_ROWS];
        const float *q = att_row_q(engine, asks[a].row, &version);
        if (a % ATT_TILE_ROWS == 0)
            work->rows = 0;
        att_work_tile_add(engine, work, asks[a].row, version, q);
    }
    att_rebuild(engine, (count + ATT_TILE_ROWS - 1) / ATT_TILE_ROWS, blocks, entry ? asks->job->column : 0, entry);
    for (uint32_t a = 0; a < count; a++)
        answer_into(engine, asks[a].job, &merger->group[a / ATT_TILE_ROWS], a % ATT_TILE_ROWS);
    if (count == 1 && !entry)
        att_policy_sample_row(engine, att_thread_ns() - start);
}

/* ---- Both ---- */

/* Scans the stretch up to a cut and packs it; what that costs, and rows whose Q is pending, a merge would spare the next. */
static uint32_t open_cut(struct att_engine *engine, uint64_t cut, const struct ask *asks, uint32_t count)
{
    uint32_t changed = 0;

    att_merge_scan(engine, cut);
    for (uint32_t a = 0; a < count; a++)
        changed += engine->merger.changed_q[asks[a].row] != 0;
    att_policy_spend_jobs(engine, cut, count - changed, changed);
    return att_merge_pack(engine, cut, false);
}

/* Answers up to a group of asks at a cut; merger.cut_lsn is its LSN then. */
static void answer_all(struct att_engine *engine, uint64_t cut, struct ask *asks, uint32_t count)
{
    const uint32_t blocks = open_cut(engine, cut, asks, count);
    const uint32_t left = answer_hot(engine, asks, count, blocks);

    if (left > 0)
        answer_live(engine, asks, left, att_merge_pack(engine, cut, true));
    att_merge_unscan(engine, cut);
}

/* Whether a row of Q that is not settled yet has replaced the row's: a base would be of the one before. */
static bool q_is_pending(const struct att_engine *engine, uint32_t row)
{
    /* Relaxed: what comes later is told by the scan. */
    return atomic_load_explicit(&engine->region.row_version[row], memory_order_relaxed) !=
           engine->merger.settled_q_version[row];
}

static bool is_hot(const struct att_engine *engine, uint32_t row)
{
    return atomic_load_explicit(&engine->region.slots[row], memory_order_relaxed) != ATT_NO_SLOT;
}

/* Cold rows that the policy keeps get their base first; then they are hot rows. */
static void keep_rows(struct att_engine *engine, const struct ask *asks, uint32_t count)
{
    uint32_t rows[ATT_GROUP_ROWS], kept = 0;

    for (uint32_t i = 0; i < count; i++) {
        const uint32_t row = asks[i].row;
        if (!asks[i].keep || engine->merger.review[row] || q_is_pending(engine, row) || is_hot(engine, row))
            continue;
        engine->merger.review[row] = 1; /* so that a row asked for twice is kept once */
        rows[kept++] = row;
    }
    for (uint32_t i = 0; i < kept; i++)
        engine->merger.review[rows[i]] = 0;
    att_refresh(engine, rows, kept);
}

static void compute_rows(struct att_engine *engine, struct att_job **jobs, uint32_t count)
{
    struct ask asks[ATT_GROUP_ROWS];

    for (uint32_t i = 0; i < count; i++)
        asks[i] = (struct ask){jobs[i]->index, jobs[i], jobs[i]->keep};
    keep_rows(engine, asks, count);
    answer_all(engine, att_merge_count(engine), asks, count);
    for (uint32_t i = 0; i < count; i++) {
        jobs[i]->lsn = engine->merger.cut_lsn;
        att_job_finish(engine, jobs[i]);
    }
}

/* A row job on the calling thread, for att_engine_recompute: the merge thread is idle. Over the live tokens. */
void att_job_row_now(struct att_engine *engine, struct att_job *job)
{
    const struct ask ask = {.row = job->index, .job = job};
    const uint64_t cut = att_merge_count(engine);

    att_merge_scan(engine, cut);
    answer_live(engine, &ask, 1, att_merge_pack(engine, cut, true));
    att_merge_unscan(engine, cut);
    job->lsn = engine->merger.cut_lsn;
}

/* ---- Columns, everything ---- */

/* Merges what is pending now. */
static void merge_all(struct att_engine *engine)
{
    const uint64_t cut = att_merge_count(engine);

    if (cut != atomic_load_explicit(&engine->region.header->settled, memory_order_relaxed))
        att_merge_to(engine, cut);
}

/* A merge first: it costs what folding the pending entries into every row costs, and the bases have them for good. No row goes
 * cold in it for want of reads: this is one. */
static void wide_begin(struct att_engine *engine, struct att_job *job)
{
    struct att_wide *wide = &engine->merger.wide;

    job->status = ATT_OK;
    for (uint32_t row = 0; row < engine->region.n_q; row++)
        if (is_hot(engine, row))
            att_policy_note_wide_read(engine, row);
    merge_all(engine);
    wide->job = job;
    wide->next = 0;
    wide->left = 0;
}

/* Rows that their base can't answer; cold ones that the policy keeps become hot. */
static void answer_left(struct att_engine *engine, struct ask *asks, uint32_t count)
{
    for (uint32_t a = 0; a < count; a++)
        if (!is_hot(engine, asks[a].row)) {
            asks[a].keep = att_policy_keep_wide(engine, asks[a].row);
            att_policy_note_wide_read(engine, asks[a].row);
        }
    keep_rows(engine, asks, count);
    count = answer_hot(engine, asks, count, 0);
    if (count > 0)
        answer_live(engine, asks, count, 0);
}

/* The next group of rows: first all that have bases, then those that were left over. No merge comes in between, so that
 * the cut stays what is settled. */
static void wide_step(struct att_engine *engine)
{
    struct att_wide *wide = &engine->merger.wide;
    const bool first = wide->next < engine->region.n_q;
    const uint32_t begin = first ? wide->next : wide->next - engine->region.n_q;
    const uint32_t left = (first ? engine->region.n_q : wide->left) - begin;
    const uint32_t most = first ? ATT_GROUP_ROWS : att_rebuild_rows(engine), count = left < most ? left : most;
    struct ask asks[ATT_GROUP_ROWS];
    uint32_t more;

    for (uint32_t a = 0; a < count; a++)
        asks[a] = (struct ask){.row = first ? begin + a : wide->rows[begin + a], .job = wide->job};
    if (first) {
        more = answer_hot(engine, asks, count, 0);
        for (uint32_t a = 0; a < more; a++)
            wide->rows[wide->left++] = asks[a].row;
    } else {
        answer_left(engine, asks, count);
    }
    wide->next += count;
    if (wide->next < engine->region.n_q + (uint64_t)wide->left)
        return;
    wide->job->lsn = engine->merger.settled_lsn;
    att_job_finish(engine, wide->job);
    wide->job = NULL;
}

/* ---- The list ---- */

/* Takes the waiting row jobs, up to a group of them, out of the list; of those whose row is computed no more than hold up others
 * for a moment. */
static uint32_t take_rows(struct att_engine *engine, struct att_job **ret_jobs)
{
    struct att_job **link = &engine->merger.waiting;
    const uint32_t most = att_rebuild_rows(engine);
    uint32_t count = 0, computed = 0;

    while (*link && count < ATT_GROUP_ROWS && computed < most) {
        if (att_job_is_row(*link)) {
            computed += !is_hot(engine, (*link)->index) || q_is_pending(engine, (*link)->index);
            ret_jobs[count++] = *link;
            *link = (*link)->next;
        } else {
            link = &(*link)->next;
        }
    }
    return count;
}

static void run_merge(struct att_engine *engine, struct att_job *job)
{
    job->status = ATT_OK;
    merge_all(engine);
    job->lsn = engine->merger.settled_lsn;
    att_job_finish(engine, job);
}

/* Takes the oldest of the jobs that are not rows out of the list: more rows may wait than a group holds. NULL: there is none. */
static struct att_job *take_other(struct att_merger *merger)
{
    struct att_job **link = &merger->waiting, *job;

    while (*link && att_job_is_row(*link))
        link = &(*link)->next;
    job = *link;
    if (job)
        *link = job->next;
    return job;
}

/* The oldest of the jobs that are not rows; a group of rows of the one that is under way. False when there is none. */
static bool run_other(struct att_engine *engine)
{
    struct att_job *job = engine->merger.wide.job;

    if (job && !att_job_is_wanted(job)) {
        engine->merger.wide.job = NULL;
        att_job_leave(engine, job);
    }
    if (!engine->merger.wide.job) {
        job = take_other(&engine->merger);
        if (!job)
            return false;
        if (job->kind == ATT_JOB_SNAPSHOT)
            att_saving_begin(engine, job);
        else if (job->kind == ATT_JOB_MERGE)
            run_merge(engine, job);
        else
            wide_begin(engine, job);
    }
    if (engine->merger.wide.job)
        wide_step(engine);
    return true;
}

/* Runs what waits: in turn a group of row jobs, and something of the others. False when nothing does. */
bool att_jobs_run(struct att_engine *engine)
{
    struct att_job *rows[ATT_GROUP_ROWS];
    const uint32_t count = take_rows(engine, rows);

    if (count > 0)
        compute_rows(engine, rows, count);
    return run_other(engine) || count > 0;
}
