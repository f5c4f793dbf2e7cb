/* The engine's inside: who owns what. Not for other folders. */
#ifndef ATT_ENGINE_IMPL_H
#define ATT_ENGINE_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine.h"
#include "peak.h"
#include "region.h"
#include "stretch.h"

/* A live token that is not masked, and one that is. */
enum { ATT_VISIBLE = 1, ATT_HIDDEN = 2 };

/* A token, where it lies, with what is kept of its head columns. */
struct att_token {
    const float *key, *value; /* d and d_v floats */
    float bias;
    float head[ATT_HEAD_KEPT];
};

/* Owned by the service thread. */
struct att_index {
    uint64_t *newest;   /* [capacity]: 1 + position of the token's newest + entry; 0: none since the settled one */
    uint8_t *live;      /* [capacity]: 0, ATT_VISIBLE or ATT_HIDDEN */
    uint64_t *newest_q; /* [n_q]: the same for rows of Q */
    double *q_norm;     /* [n_q]: |s||q|_2 of the live rows of Q: the door looks at all of them now and then */
    struct att_free_tokens *free;
    uint32_t used; /* highest token ever live + 1 */
    uint32_t live_count;
    uint64_t count; /* what `count` in the region says */
    uint64_t tail;  /* as last read */
    uint64_t lsn;
    uint64_t updates, queries;
    uint64_t updates_noted, queries_noted, spent; /* see policy.c */
    double mean_reads;                            /* for each update */
    struct att_peak q_peak;                       /* |s||q| of rows of Q, */
    struct att_peak g_peak;                       /* and g of tokens: the door checks the product of the largest */
    float *scratch;                               /* [d + d_v]: a token's row of which one entry changes */
    uint32_t visible;                             /* live tokens that are not masked */
    bool started; /* before: nobody reads yet, so a token's pending entry is replaced in place */
};

/* Bases under construction, with what folding into them needs. */
struct att_work_tile {
    struct att_tile *own;  /* private memory; layout as in the region */
    struct att_tile *tile; /* where they are: that, or a spare tile of the region */
    uint32_t rows;         /* in use, from 0 on */
    void *scaled_q;        /* [64][d] */
    /* Of a tile that was loaded: */
    struct att_tile *from;
    uint32_t waiting;            /* so many rows, the last ones, are still to be copied: att_tile_take */
    uint8_t slot[ATT_TILE_ROWS]; /* where in it each row is */
};

/* Rows whose weights are made, multiplied and added before the next ones' are. */
enum { ATT_BAND_ROWS = 12 };
/* Times that folding a tile fetches a part of the next one: three in each band. */
enum { ATT_FETCHES = 3 * ((ATT_TILE_ROWS + ATT_BAND_ROWS - 1) / ATT_BAND_ROWS) };

/* One thread's scratch for folding, in cache lines of its own. */
struct att_scratch {
    _Alignas(64) void *weights; /* [ATT_BAND_ROWS][ATT_BLOCK], as the kernel makes them */
    float *keys;                /* [tiles][d][16]: of a stretch that is not packed */
    double largest[ATT_BAND_ROWS];
    double shift[ATT_BAND_ROWS];
    struct att_work_tile work;
    const char *ahead, *ahead_end; /* what is read next: fetched while something else is computed */
    uint32_t ahead_lines;          /* at a time; more than the processor can wait for at once would hold it up */
};

/* Groups of tiles rebuilt at once share the packed tokens: few enough for an L2 cache. */
enum { ATT_GROUP_TILES = 16, ATT_GROUP_ROWS = ATT_GROUP_TILES * ATT_TILE_ROWS, ATT_PACK_BLOCKS = 4 };

/* A snapshot being handed out. Owned by the merge thread. */
struct att_saving {
    struct att_job *job; /* NULL: none */
    uint64_t bytes[ATT_ARRAY_COUNT];
    uint8_t *saved[ATT_ARRAY_COUNT]; /* for each piece of the array: already handed out */
    uint32_t
        *kept[ATT_ARRAY_BASES]; /* for each block of the array: 1 + where in `blocks` it is as it was; 0: unchanged */
    uint8_t *blocks;            /* room for all */
    uint64_t blocks_bytes, blocks_kept;
    uint8_t *piece; /* one, while it is made of what is there and what was kept */
    uint32_t array; /* the sequential cursor */
    uint64_t next;
    uint32_t tiles; /* of bases at the cut */
};

/* A column, or everything, being computed: a group of rows at a time, of what is settled. Owned by the merge thread. */
struct att_wide {
    struct att_job *job; /* NULL: none */
    uint32_t *rows;      /* [n_q]: those that their base can't answer */
    uint32_t left;       /* how many */
    uint64_t next;       /* of all rows; from n_q on, of `rows` */
};

/* Owned by the merge thread; its team uses scratch[thread number] and disjoint tiles. */
struct att_merger {
    pthread_t thread;
    bool running;
    uint64_t settled_lsn;
    uint64_t cut_lsn;              /* of the cut scanned last */
    uint32_t used;                 /* settled tokens lie below this */
    float (*heads)[ATT_HEAD_KEPT]; /* [capacity]: of the settled tokens */
    uint32_t *newest;              /* [capacity]: 1 + offset in the stretch of a token's newest entry; 0: untouched */
    uint32_t changed;              /* tokens with an entry in the stretch */
    uint64_t *changed_q;           /* [n_q]: 1 + position of the row's newest Q entry in the stretch; 0: unchanged */
    uint32_t *settled_q_version;   /* [n_q]: of the settled rows of Q */
    uint8_t *review;               /* [n_q]: set by the team during a merge: to be marked for refresh */
    uint8_t *needs_refresh;        /* [n_q] */
    uint32_t needed;               /* how many */
    uint32_t cursor;               /* where the search for them goes on */
    uint64_t *occupied;            /* [tiles]: a bit for each slot that holds a row */
    uint32_t tiles_used;           /* tiles with rows lie below this */
    uint32_t room;                 /* tiles below this are full */
    uint32_t restored_tiles;       /* before the start: from 0 on */
    uint8_t *wanted;               /* [physical_tiles]: give_back.c's */
    bool keeps_memory;             /* it does not help */
    uint32_t *spare;               /* [threads]: physical tiles that no word names */
    struct att_stretch *entries;   /* [entry_blocks]: the compacted log up to a cut */
    uint32_t entry_blocks;
    struct att_stretch *tokens;  /* [ATT_PACK_BLOCKS]: packed settled tokens */
    struct att_scratch *scratch; /* [threads] */
    struct att_work_tile *group; /* [ATT_GROUP_TILES] */
    struct att_saving saving;
    struct att_wide wide;
    uint32_t passed_over;               /* turns since refreshing had its own */
    double recent_merged, recent_reads; /* of late: see policy.c */
    uint64_t row_reads;                 /* as last seen */
    bool merge_now;                     /* a hot row was over budget: a merge, then its refresh */
    struct att_job *waiting;            /* taken from `submitted`, oldest first */
};

struct att_engine {
    struct att_engine_options options;
    struct att_region region;
    int region_fds[ATT_REGION_FDS];
    char base_tag[64];
    struct att_index index;
    struct att_merger merger;
    bool prepared;
    uint64_t expected; /* updates before the start */

    _Atomic uint64_t merges, refreshes; /* by the merge thread; relaxed counters */
    _Atomic uint64_t rows_hot;
    _Atomic uint64_t settled_lsn;

    /* The policy's books: see policy.c. */
    _Atomic uint64_t spent;      /* ns that queries have spent on the log. Owner: service */
    _Atomic uint64_t spent_jobs; /* and jobs. Owner: merge */
    _Atomic uint64_t *last_read; /* [n_q]: 1 + `merged` at the row's last read; 0: never. Service and merge write it */
    _Atomic uint64_t window;     /* `merged` where the window began. Owner: merge */
    _Atomic uint64_t row_reads;  /* rows read in each window, all added up. Owner: service */
    _Atomic uint64_t spent_merged; /* both at the last merge. Owner: merge */
    _Atomic uint64_t merged;       /* ns that merging has cost a hot row so far. Owner: merge */
    _Atomic double reads_expected; /* after the last update. Owner: service */
    _Atomic double mean_gap;       /* Owner: merge, as the rates */
    _Atomic double merge_ns_term, refresh_ns_term;

    /* What of `count` merges and jobs may take: whole batches. Owner: service. Release, with att_merge_count. */
    _Atomic uint64_t offered;

    /* Jobs: a stack pushed by the service, emptied by the merge thread (release, acquire); and back. */
    _Atomic(struct att_job *) submitted;
    _Atomic(struct att_job *) finished;
    struct att_job *completed; /* the service's */

    _Atomic uint32_t sleeping; /* futex: 1 while the merge thread sleeps or is about to; see worker.c */
    _Atomic bool stop;
    _Atomic bool hungry; /* an apply found the log full; see worker.c */
    _Atomic bool held;   /* no merge but for room */
};

/* free_tokens.c. One block of memory: free() frees it. */
struct att_free_tokens *att_free_tokens_create(uint32_t capacity);
void att_free_tokens_take(struct att_free_tokens *tokens, uint32_t token); /* it may be taken already */
void att_free_tokens_give(struct att_free_tokens *tokens, uint32_t token);
/* The lowest token that is not taken; at least the capacity when all are. */
uint32_t att_free_tokens_lowest(const struct att_free_tokens *tokens);

/* entries.c: the service's side of the log */
enum att_status att_entries_room(struct att_engine *engine, uint32_t entries);
void att_entries_put_token(struct att_engine *engine, uint64_t position, uint32_t token, int32_t sign, uint64_t lsn,
                           const struct att_token *value);
void att_entries_put_q(struct att_engine *engine, uint64_t position, uint32_t row, uint32_t q_version, uint64_t lsn,
                       const float *q);
void att_entries_cancel(struct att_engine *engine, uint64_t position, uint64_t lsn);
/* The heads of a + entry. */
void att_entries_head(const struct att_region *region, uint64_t position, float ret_head[ATT_HEAD_KEPT]);
void att_entries_publish(struct att_engine *engine, uint64_t count);
/* Lets merges and jobs take all that is published. */
void att_entries_offer(struct att_engine *engine);

/* update.c: the heads of a live token, as they were when it became what it is. */
void att_live_head(const struct att_engine *engine, uint32_t token, float ret_head[ATT_HEAD_KEPT]);

/* door.c. A token's heads are filled in. What the door lets in it does not know before it is told: of a token before that is
 * published, for readers look at the largest there ever were. */
enum att_status att_check_token(struct att_engine *engine, uint32_t index, struct att_token *token,
                                struct att_error *error);
enum att_status att_check_q(struct att_engine *engine, uint32_t row, const float *q, double *ret_norm,
                            struct att_error *error);
void att_door_note_token(struct att_engine *engine, uint32_t token, const float head[ATT_HEAD_KEPT]);
void att_door_note_q(struct att_engine *engine, uint32_t row, double norm); /* in the place of what was there */

/* fold.c */
enum att_status att_fold_init(struct att_engine *engine, struct att_error *error);
void att_fold_free(struct att_engine *engine);
void att_work_tile_add(struct att_engine *engine, struct att_work_tile *work, uint32_t row, uint32_t q_version,
                       const float *q);
void att_work_tile_take(struct att_engine *engine, struct att_work_tile *work, const struct att_row *row,
                        const double *sums, const float *q);
void att_fold(struct att_engine *engine, struct att_scratch *scratch, struct att_work_tile *work,
              const struct att_stretch *stretches, uint32_t count);

/* rebuild.c: refresh, and every row that is answered over the live tokens */
void att_rebuild(struct att_engine *engine, uint32_t tiles, uint32_t blocks, uint32_t column, uint32_t columns);
uint32_t att_rebuild_rows(const struct att_engine *engine); /* so many at a time hold up others for a moment only */
void att_refresh(struct att_engine *engine, const uint32_t *rows, uint32_t count);
uint32_t att_refresh_some(struct att_engine *engine);

/* tiles.c */
void att_slot_occupy(struct att_engine *engine, uint32_t slot);
void att_slot_free(struct att_engine *engine, uint32_t slot);
void att_tile_load(struct att_engine *engine, struct att_work_tile *work, uint32_t tile, uint64_t slots);
void att_tile_build_at(const struct att_engine *engine, struct att_work_tile *work, uint32_t spare);
void att_tile_take(struct att_engine *engine, struct att_work_tile *work, uint32_t end);
void att_flip(struct att_engine *engine, uint32_t tile, struct att_work_tile *work, uint64_t position, uint32_t *spare);
void att_tiles_publish(struct att_engine *engine, const uint32_t *rows, uint32_t count);
bool att_tiles_compact(struct att_engine *engine);

/* give_back.c */
bool att_give_back(struct att_engine *engine);

/* merge.c */
void att_merge_scan(struct att_engine *engine, uint64_t cut);
void att_merge_unscan(struct att_engine *engine, uint64_t cut);
uint32_t att_merge_pack(struct att_engine *engine, uint64_t cut, bool live_only);
uint64_t att_merge_count(const struct att_engine *engine);
void att_merge_to(struct att_engine *engine, uint64_t cut);
void att_mark_for_refresh(struct att_engine *engine, uint32_t row);
const float *att_row_q(const struct att_engine *engine, uint32_t row, uint32_t *ret_version);

/* jobs.c */
bool att_jobs_run(struct att_engine *engine);
void att_job_row_now(struct att_engine *engine, struct att_job *job);
void att_job_finish(struct att_engine *engine, struct att_job *job);
void att_job_leave(struct att_engine *engine, struct att_job *job);
static inline bool att_job_is_row(const struct att_job *job)
{
    return job->kind == ATT_JOB_ROW || job->kind == ATT_JOB_ENTRY;
}
static inline bool att_job_is_wanted(const struct att_job *job)
{
    /* Relaxed: who is still asked for too long costs a moment. */
    return !job->asker || atomic_load_explicit(job->asker, memory_order_relaxed) == job->asked_by;
}

/* policy.c */
void att_policy_init(struct att_engine *engine);
double att_policy_row_cost(const struct att_engine *engine, uint64_t entries);
double att_policy_refresh_cost(const struct att_engine *engine, uint32_t tokens);
void att_policy_sample_merge(struct att_engine *engine, double ns, uint64_t rows, uint64_t entries);
void att_policy_sample_row(struct att_engine *engine, double ns);
void att_policy_spend(struct att_engine *engine, uint64_t pending, uint32_t columns);
void att_policy_spend_many(struct att_engine *engine, uint64_t pending, uint32_t columns, uint32_t queries);
void att_policy_spend_jobs(struct att_engine *engine, uint64_t cut, uint32_t rows, uint32_t changed);
void att_policy_note_updates(struct att_engine *engine);
void att_policy_settle(struct att_engine *engine);
bool att_policy_merge_due(const struct att_engine *engine, uint64_t entries);
void att_policy_note_merge(struct att_engine *engine, uint64_t entries);
void att_policy_note_read(struct att_engine *engine, uint32_t row);
void att_policy_note_wide_read(struct att_engine *engine, uint32_t row);
bool att_policy_keep(const struct att_engine *engine, uint32_t row);
bool att_policy_keep_wide(const struct att_engine *engine, uint32_t row);
bool att_policy_goes_cold(const struct att_engine *engine, uint32_t row, uint64_t entries);

/* saving.c: snapshots */
bool att_saving_init(struct att_engine *engine);
void att_saving_begin(struct att_engine *engine, struct att_job *job);
bool att_saving_step(struct att_engine *engine);
void att_saving_before_token(struct att_engine *engine, uint32_t token);
void att_saving_before_q(struct att_engine *engine, uint32_t row);
void att_saving_before_bases(struct att_engine *engine);
void att_saving_free(struct att_engine *engine);

/* worker.c: the merge thread */
double att_thread_ns(void); /* processor time of the calling thread */
enum att_status att_worker_start(struct att_engine *engine, struct att_error *error);
void att_worker_stop(struct att_engine *engine);

/* How many threads are worth it for so many multiply-adds: a fork-join can cost a scheduler's quantum. */
static inline int att_team(const struct att_engine *engine, double multiply_adds)
{
    return multiply_adds < 8e6 ? 1 : (int)engine->options.threads;
}

#endif
