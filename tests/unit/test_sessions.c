/* The table of sessions against a plain model: what it knows of each number, after random histories, after being saved
 * and loaded, and after being loaded from an early state and taught the rest by the log. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants those first */
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "random.h"
#include "sessions.h"
#include "wire.h"

enum { IDS = 5, STEPS = 4000, MOST_SEQ = 1 << 17, MOST_ENTRIES = 1 << 21 };

/* Of each number: 0 nothing yet, 1 done, 2 refused; index of an append, else 0. */
struct model {
    uint8_t what[MOST_SEQ];
    uint32_t index[MOST_SEQ];
    uint64_t seq, fence;
    bool there;
};

struct list {
    struct att_session_entry *entries;
    size_t count;
};

static struct model models[IDS];
static struct list saved;

static uint64_t id_of(uint32_t who)
{
    return UINT64_C(0x9000000000000000) + who * 1024; /* some fall into one bucket */
}

static void keep(void *context, const struct att_session_entry *entry)
{
    struct list *list = context;
    assert_true(list->count < MOST_ENTRIES);
    list->entries[list->count++] = *entry;
}

static void few(void *context, const struct att_session_entry *entry)
{
    struct list *list = context;
    assert_true(list->count < 16);
    list->entries[list->count++] = *entry;
}

static void save(struct att_sessions *sessions, struct list *list)
{
    list->count = 0;
    att_sessions_save_begin(sessions, keep, list);
    assert_false(att_sessions_save_step(sessions, UINT32_MAX));
}

static struct att_sessions *load(const struct list *list)
{
    struct att_sessions *sessions = att_sessions_create();
    assert_non_null(sessions);
    for (size_t i = 0; i < list->count; i++)
        assert_int_equal(att_sessions_apply(sessions, &list->entries[i]), ATT_OK);
    return sessions;
}

static void check_number(const struct att_sessions *sessions, uint32_t place, const struct model *model, uint64_t seq)
{
    uint32_t index = 77;
    enum att_sequence found = att_sessions_look(sessions, place, seq, &index);
    if (seq > model->seq) {
        assert_int_equal(found, ATT_SEQUENCE_NEW);
    } else if (seq + ATT_SESSION_WINDOW <= model->seq) {
        assert_int_equal(found, ATT_SEQUENCE_FORGOTTEN);
    } else {
        assert_int_equal(found, model->what[seq] == 1 ? ATT_SEQUENCE_DONE : ATT_SEQUENCE_REFUSED);
        if (found == ATT_SEQUENCE_DONE)
            assert_int_equal(index, model->index[seq]);
    }
}

static void check(const struct att_sessions *sessions, struct test_random *random)
{
    for (uint32_t who = 0; who < IDS; who++) {
        const struct model *model = &models[who];
        uint32_t place = att_sessions_find(sessions, id_of(who));
        assert_int_equal(place != ATT_NO_SESSION, model->there);
        if (!model->there)
            continue;
        assert_int_equal(att_sessions_at(sessions, place)->seq, model->seq);
        assert_int_equal(att_sessions_at(sessions, place)->fence, model->fence);
        assert_int_equal(att_sessions_at(sessions, place)->user, 100 + who);
        for (int i = 0; i < 40; i++)
            check_number(sessions, place, model, 1 + random_below(random, (uint32_t)model->seq + 3));
        for (uint64_t seq = model->seq > 20 ? model->seq - 20 : 1; seq <= model->seq + 1; seq++)
            check_number(sessions, place, model, seq);
        if (model->seq > ATT_SESSION_WINDOW)
            for (uint64_t i = 0; i < 3; i++)
                check_number(sessions, place, model, model->seq - ATT_SESSION_WINDOW + i);
    }
}

/* One thing that happens; as the entry that the log makes of it. */
static struct att_session_entry random_entry(struct test_random *random, uint64_t lsn)
{
    uint32_t who = random_below(random, IDS);
    struct model *model = &models[who];
    struct att_session_entry entry = {.session = id_of(who), .lsn = lsn};
    if (!model->there || random_one_in(random, 500)) {
        memset(model, 0, sizeof *model);
        model->there = true;
        entry.what = ATT_SESSION_NEW;
        entry.seq = model->fence = 1;
        entry.result = 100 + who;
    } else if (random_one_in(random, 20)) {
        entry.what = ATT_SESSION_ATTACHED;
        entry.seq = ++model->fence;
        entry.result = 100 + who;
    } else {
        uint64_t refused = random_one_in(random, 4) ? random_below(random, 5) : 0;
        if (random_one_in(random, 1000))
            refused = random_below(random, 2 * ATT_SESSION_WINDOW);
        if (model->seq + refused + 1 >= MOST_SEQ)
            refused = 0;
        for (uint64_t i = 1; i <= refused; i++)
            model->what[model->seq + i] = 2;
        entry.seq = model->seq += refused + 1;
        entry.what = ATT_SESSION_DONE;
        entry.result = random_one_in(random, 3) ? random_below(random, 1000) : ATT_SESSION_NO_INDEX;
        model->what[entry.seq] = 1;
        model->index[entry.seq] = entry.result == ATT_SESSION_NO_INDEX ? 0 : entry.result;
    }
    return entry;
}

static int by_session(const void *left, const void *right)
{
    const struct att_session_entry *a = left, *b = right;
    if (a->session != b->session)
        return a->session < b->session ? -1 : 1;
    return a->seq != b->seq ? (a->seq < b->seq ? -1 : 1) : (int)a->what - (int)b->what;
}

static void assert_same(struct list *a, struct list *b)
{
    qsort(a->entries, a->count, sizeof *a->entries, by_session);
    qsort(b->entries, b->count, sizeof *b->entries, by_session);
    assert_int_equal(a->count, b->count);
    assert_memory_equal(a->entries, b->entries, a->count * sizeof *a->entries);
}

static void knows_what_the_model_knows(void **unused)
{
    (void)unused;
    struct test_random random;
    struct list history = {calloc(STEPS, sizeof *history.entries), 0};
    struct list whole = {calloc(MOST_ENTRIES, sizeof *whole.entries), 0};
    bool saving = true;
    saved.entries = calloc(MOST_ENTRIES, sizeof *saved.entries);
    assert_non_null(history.entries);
    assert_non_null(whole.entries);
    assert_non_null(saved.entries);
    random_seed(&random, 17, "sessions");
    struct att_sessions *sessions = att_sessions_create();
    assert_non_null(sessions);
    uint32_t cut = STEPS / 3 + random_below(&random, STEPS / 3);
    struct att_sessions *later = NULL;
    for (uint32_t step = 0; step < STEPS; step++) {
        struct att_session_entry entry = random_entry(&random, step + 1);
        if (entry.what == ATT_SESSION_DONE)
            assert_true(att_sessions_reserve(sessions, att_sessions_find(sessions, entry.session), entry.seq));
        assert_int_equal(att_sessions_apply(sessions, &entry), ATT_OK);
        keep(&history, &entry);
        if (step % 50 == 0)
            check(sessions, &random);
        if (step == cut) { /* a snapshot's */
            save(sessions, &whole);
            later = load(&whole);
            check(later, &random);
            att_sessions_save_begin(sessions, keep, &saved);
        }
        if (step >= cut && saving) { /* and another's, while all goes on: it is the same */
            const size_t before = saved.count, most = 1 + random_below(&random, 5);
            saving = att_sessions_save_step(sessions, (uint32_t)most);
            assert_true(saved.count <= before + most + 4);
        }
    }
    assert_false(saving);
    assert_same(&saved, &whole);
    check(sessions, &random);
    for (uint32_t step = cut + 1; step < STEPS; step++) /* the log behind it */
        assert_int_equal(att_sessions_apply(later, &history.entries[step]), ATT_OK);
    check(later, &random);
    struct att_sessions *all = load(&history);
    check(all, &random);
    att_sessions_free(all);
    att_sessions_free(later);
    att_sessions_free(sessions);
    free(whole.entries);
    free(saved.entries);
    free(history.entries);
}

static void those_not_used_for_longest_expire(void **unused)
{
    (void)unused;
    struct att_sessions *sessions = att_sessions_create();
    assert_non_null(sessions);
    for (uint32_t i = 0; i < ATT_SESSIONS_MOST; i++) {
        const struct att_session_entry entry = {i + 1, 1, 10 + i, ATT_SESSION_NEW, 0};
        assert_true(att_sessions_make_room(sessions, 0));
        assert_int_equal(att_sessions_apply(sessions, &entry), ATT_OK);
    }
    /* 1 has a client, 2 was used again; so 3 goes first, then 4 */
    const struct att_session_entry used = {2, 1, 5000, ATT_SESSION_DONE, ATT_SESSION_NO_INDEX};
    att_sessions_bind(sessions, att_sessions_find(sessions, 1), 99);
    assert_int_equal(att_sessions_apply(sessions, &used), ATT_OK);
    for (uint64_t next = 3; next < 5; next++) {
        const struct att_session_entry entry = {10000 + next, 1, 6000, ATT_SESSION_NEW, 0};
        assert_true(att_sessions_find(sessions, next) != ATT_NO_SESSION);
        assert_true(att_sessions_make_room(sessions, 0));
        assert_true(att_sessions_find(sessions, next) == ATT_NO_SESSION);
        assert_int_equal(att_sessions_apply(sessions, &entry), ATT_OK);
    }
    assert_true(att_sessions_find(sessions, 1) != ATT_NO_SESSION);
    assert_true(att_sessions_find(sessions, 2) != ATT_NO_SESSION);
    for (uint64_t id = 1; id < 20000; id++)
        if (att_sessions_find(sessions, id) != ATT_NO_SESSION)
            att_sessions_bind(sessions, att_sessions_find(sessions, id), id);
    assert_false(att_sessions_make_room(sessions, 0));
    att_sessions_unbind(sessions, 77);
    assert_true(att_sessions_make_room(sessions, 0));
    assert_true(att_sessions_find(sessions, 77) == ATT_NO_SESSION);
    att_sessions_free(sessions);
}

/* The log brings back those that had expired: the ones used last stay, whatever order they came in. */
static void a_log_brings_back_twice_as_many_at_most(void **unused)
{
    (void)unused;
    enum { ALL = 5 * ATT_SESSIONS_MOST, KEPT = 2 * ATT_SESSIONS_MOST };
    struct att_sessions *sessions = att_sessions_create();
    uint32_t index;
    assert_non_null(sessions);
    for (uint32_t i = 0; i < ALL; i++) {
        const struct att_session_entry begin = {i + 1, 1, i + 1, ATT_SESSION_NEW, i};
        assert_int_equal(att_sessions_apply(sessions, &begin), ATT_OK);
    }
    for (uint32_t i = ALL; i-- > 0;) { /* so the first were used last */
        const struct att_session_entry append = {i + 1, 1, 2 * ALL - i, ATT_SESSION_DONE, i + 7};
        assert_int_equal(att_sessions_apply(sessions, &append), ATT_OK);
    }
    att_sessions_forget(sessions);
    for (uint32_t i = 0; i < ALL; i++) {
        const uint32_t place = att_sessions_find(sessions, i + 1);
        assert_int_equal(place != ATT_NO_SESSION, i < KEPT);
        if (i >= KEPT)
            continue;
        assert_int_equal(att_sessions_at(sessions, place)->user, i);
        assert_int_equal(att_sessions_look(sessions, place, 1, &index), ATT_SEQUENCE_DONE);
        assert_int_equal(index, i + 7);
    }
    assert_true(att_sessions_make_room(sessions, ALL));
    const struct att_session_entry next = {ALL + 1, 1, 3 * ALL, ATT_SESSION_NEW, ALL};
    assert_int_equal(att_sessions_apply(sessions, &next), ATT_OK);
    for (uint32_t i = 0; i <= ALL; i++)
        assert_int_equal(att_sessions_find(sessions, i + 1) != ATT_NO_SESSION, i < ATT_SESSIONS_MOST - 1 || i == ALL);
    att_sessions_free(sessions);
}

static void begin_one(struct att_sessions *sessions, uint64_t id, uint32_t user)
{
    const struct att_session_entry entry = {id, 1, id, ATT_SESSION_NEW, user};
    assert_int_equal(att_sessions_apply(sessions, &entry), ATT_OK);
}

/* Whoever opens many makes his own expire, also when a log brings them all back, and not those of others. */
static void users_have_as_many_each(void **unused)
{
    (void)unused;
    enum { FEW = 10, ALL = 5 * ATT_SESSIONS_MOST, OWNER = 1000, GUEST = 2000 };
    for (int replayed = 0; replayed < 2; replayed++) {
        struct att_sessions *sessions = att_sessions_create();
        assert_non_null(sessions);
        for (uint64_t id = 1; id <= ALL; id++) {
            const uint32_t user = id <= FEW ? OWNER : GUEST;
            assert_true(replayed || att_sessions_make_room(sessions, user));
            begin_one(sessions, id, user);
        }
        att_sessions_forget(sessions);
        assert_true(att_sessions_make_room(sessions, GUEST));
        for (uint64_t id = 1; id <= ALL; id++)
            assert_int_equal(att_sessions_find(sessions, id) != ATT_NO_SESSION,
                             id <= FEW || id > ALL - (ATT_SESSIONS_MOST - 1 - FEW));
        /* Those with clients stay, and then he gets no more; another may have his oldest. */
        const uint64_t oldest = ALL - (ATT_SESSIONS_MOST - 1 - FEW) + 1;
        begin_one(sessions, ALL + 1, OWNER);
        for (uint64_t id = oldest; id <= ALL; id++)
            att_sessions_bind(sessions, att_sessions_find(sessions, id), id);
        assert_false(att_sessions_make_room(sessions, GUEST));
        att_sessions_unbind(sessions, oldest);
        assert_true(att_sessions_make_room(sessions, OWNER));
        assert_true(att_sessions_find(sessions, oldest) == ATT_NO_SESSION);
        for (uint64_t id = 1; id <= FEW; id++)
            assert_true(att_sessions_find(sessions, id) != ATT_NO_SESSION);
        att_sessions_free(sessions);
    }
}

/* An update may leave out as many numbers as it likes: what is kept and saved of that is the same. */
static void gaps_cost_nothing(void **unused)
{
    (void)unused;
    struct att_session_entry entries[16];
    struct list list = {entries, 0};
    struct att_sessions *sessions = att_sessions_create();
    uint32_t index;
    assert_non_null(sessions);
    const struct att_session_entry begin = {5, 1, 1, ATT_SESSION_NEW, 0},
                                   far = {5, UINT64_C(1) << 40, 2, ATT_SESSION_DONE, ATT_SESSION_NO_INDEX},
                                   farther = {5, UINT64_C(1) << 41, 3, ATT_SESSION_DONE, 7};
    assert_int_equal(att_sessions_apply(sessions, &begin), ATT_OK);
    assert_int_equal(att_sessions_apply(sessions, &far), ATT_OK);
    assert_int_equal(att_sessions_look(sessions, 0, far.seq - 1, &index), ATT_SEQUENCE_REFUSED);
    assert_int_equal(att_sessions_look(sessions, 0, far.seq, &index), ATT_SEQUENCE_DONE);
    assert_int_equal(att_sessions_apply(sessions, &farther), ATT_OK);
    att_sessions_save_begin(sessions, few, &list);
    assert_false(att_sessions_save_step(sessions, UINT32_MAX));
    att_sessions_free(sessions);
    sessions = load(&list);
    assert_int_equal(att_sessions_look(sessions, 0, farther.seq, &index), ATT_SEQUENCE_DONE);
    assert_int_equal(index, 7);
    assert_int_equal(att_sessions_look(sessions, 0, farther.seq - 1, &index), ATT_SEQUENCE_REFUSED);
    assert_int_equal(att_sessions_look(sessions, 0, farther.seq - ATT_SESSION_WINDOW + 1, &index),
                     ATT_SEQUENCE_REFUSED);
    assert_int_equal(att_sessions_look(sessions, 0, farther.seq - ATT_SESSION_WINDOW, &index), ATT_SEQUENCE_FORGOTTEN);
    att_sessions_free(sessions);
}

/* What a save has not handed out yet stays, whatever becomes of it meanwhile. */
static void a_save_is_of_the_moment_when_it_began(void **unused)
{
    (void)unused;
    struct att_session_entry entries[16];
    struct list list = {entries, 0};
    struct att_sessions *sessions = att_sessions_create();
    uint32_t index, place;
    assert_non_null(sessions);
    for (uint64_t id = 5; id < 7; id++)
        begin_one(sessions, id, 0);
    for (uint64_t n = 0; n < 8; n++) { /* tokens 100 to 107 */
        const struct att_session_entry append = {5 + n % 2, 1 + n / 2, 10 + n, ATT_SESSION_DONE, 100 + (uint32_t)n};
        assert_int_equal(att_sessions_apply(sessions, &append), ATT_OK);
    }
    att_sessions_save_begin(sessions, few, &list);
    assert_true(att_sessions_save_step(sessions, 1));
    const struct att_session_entry far = {5, UINT64_C(1) << 40, 30, ATT_SESSION_DONE, 200};
    assert_true(att_sessions_reserve(sessions, att_sessions_find(sessions, 5), far.seq));
    assert_int_equal(att_sessions_apply(sessions, &far), ATT_OK);
    begin_one(sessions, 6, 0); /* so the one before expires */
    begin_one(sessions, 7, 0);
    while (att_sessions_save_step(sessions, 1))
        ;
    att_sessions_free(sessions);
    sessions = load(&list);
    assert_int_equal(att_sessions_find(sessions, 7), ATT_NO_SESSION);
    for (uint64_t n = 0; n < 8; n++) {
        place = att_sessions_find(sessions, 5 + n % 2);
        assert_int_equal(att_sessions_at(sessions, place)->seq, 4);
        assert_int_equal(att_sessions_look(sessions, place, 1 + n / 2, &index), ATT_SEQUENCE_DONE);
        assert_int_equal(index, 100 + n);
    }
    att_sessions_free(sessions);
}

static void nonsense_is_refused(void **unused)
{
    (void)unused;
    struct att_sessions *sessions = att_sessions_create();
    assert_non_null(sessions);
    const struct att_session_entry bad[] = {
        {5, 1, 1, ATT_SESSION_DONE, 0},
        {5, 1, 1, ATT_SESSION_SEEN, 0},
        {5, 2, 1, ATT_SESSION_ATTACHED, 0},
        {0, 1, 1, ATT_SESSION_NEW, 0},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(att_sessions_apply(sessions, &bad[i]), ATT_ECORRUPT);
    const struct att_session_entry begin = {5, 1, 1, ATT_SESSION_NEW, 0}, unknown = {5, 1, 1, 6, 0};
    assert_int_equal(att_sessions_apply(sessions, &begin), ATT_OK);
    assert_int_equal(att_sessions_apply(sessions, &unknown), ATT_ECORRUPT);
    att_sessions_free(sessions);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(knows_what_the_model_knows),
        cmocka_unit_test(those_not_used_for_longest_expire),
        cmocka_unit_test(a_log_brings_back_twice_as_many_at_most),
        cmocka_unit_test(users_have_as_many_each),
        cmocka_unit_test(gaps_cost_nothing),
        cmocka_unit_test(a_save_is_of_the_moment_when_it_began),
        cmocka_unit_test(nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
