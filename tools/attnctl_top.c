/* top: a live view of a daemon. It asks for the daemon's state ten times a second, pings it fifty times a second, and
 * draws what came of that. One thread: between two draws it waits for a key. */
#include "attnctl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "attnctl_screen.h"
#include "progress.h"

enum {
    PING_MS = 20,
    SAMPLE_MS = 100,
    SECONDS = 60,                             /* of history */
    MOST_PINGS = SECONDS * 1000 / PING_MS,    /* kept */
    MOST_SAMPLES = SECONDS * 1000 / SAMPLE_MS /* kept */
};

enum counter { UPDATES, QUERIES, MERGES, REFRESHES, COUNTERS };

static const char *const counter_names[COUNTERS] = {"updates", "queries", "merges", "refreshes"};

struct sample {
    uint64_t ns;
    uint64_t lsn;
    uint64_t counters[COUNTERS];
};

/* What was observed. Rings: the newest element is at (count - 1) % size. */
struct top {
    struct ctl *ctl;
    uint64_t interval_ns;
    struct att_stat stat;
    struct sample samples[MOST_SAMPLES];
    uint64_t sample_count;
    uint32_t pings[MOST_PINGS]; /* ns */
    uint64_t pings_ns[MOST_PINGS];
    uint64_t ping_count;
    double seconds[COUNTERS][SECONDS]; /* rates, second by second */
    uint64_t second_count;
    struct sample second_began;
    struct screen screen;
    int lost; /* errno: the last view could not be written */
};

/* ---- Observing ----------------------------------------------------------------------------------------- */

static enum att_status sample(struct top *top)
{
    struct att_completion done;
    struct att_request request = {.type = ATT_REQ_STAT, .buffer = &top->stat, .buffer_bytes = sizeof top->stat};
    enum att_status status = ctl_call(top->ctl, &request, CTL_TIMEOUT_MS, &done);
    const struct att_stat *stat = &top->stat;
    if (status != ATT_OK)
        return status;
    struct sample now = {.ns = att_clock_ns(),
                         .lsn = stat->lsn,
                         .counters = {stat->updates, stat->queries, stat->merges, stat->refreshes}};
    top->samples[top->sample_count++ % MOST_SAMPLES] = now;
    if (top->sample_count == 1)
        top->second_began = now;
    uint64_t passed = now.ns - top->second_began.ns;
    if (passed >= 1000000000) {
        for (int i = 0; i < COUNTERS; i++)
            top->seconds[i][top->second_count % SECONDS] =
                (double)(now.counters[i] - top->second_began.counters[i]) * 1e9 / (double)passed;
        top->second_count++;
        top->second_began = now;
    }
    return ATT_OK;
}

static enum att_status ping(struct top *top)
{
    struct att_completion done;
    struct att_request request = {.type = ATT_REQ_PING};
    uint64_t start = att_clock_ns();
    enum att_status status = ctl_call(top->ctl, &request, CTL_TIMEOUT_MS, &done);
    if (status != ATT_OK)
        return status;
    uint64_t now = att_clock_ns();
    uint64_t at = top->ping_count++ % MOST_PINGS;
    top->pings[at] = now - start < UINT32_MAX ? (uint32_t)(now - start) : UINT32_MAX;
    top->pings_ns[at] = now;
    return ATT_OK;
}

/* The i-th newest sample. */
static const struct sample *sample_back(const struct top *top, uint64_t i)
{
    return &top->samples[(top->sample_count - 1 - i) % MOST_SAMPLES];
}

static uint64_t samples_kept(const struct top *top)
{
    return top->sample_count < MOST_SAMPLES ? top->sample_count : MOST_SAMPLES;
}

/* The rate between now and the newest sample that is at least so old, or the oldest there is. */
static double rate(const struct top *top, enum counter counter, uint64_t age_ns)
{
    const struct sample *newest = sample_back(top, 0);
    const struct sample *from = newest;
    for (uint64_t i = 1; i < samples_kept(top) && newest->ns - from->ns < age_ns; i++)
        from = sample_back(top, i);
    if (from->ns == newest->ns)
        return 0;
    return (double)(newest->counters[counter] - from->counters[counter]) * 1e9 / (double)(newest->ns - from->ns);
}

static double peak(const struct top *top, enum counter counter)
{
    double most = top->second_count == 0 ? rate(top, counter, UINT64_MAX) : 0; /* the first second is not over */
    uint64_t kept = top->second_count < SECONDS ? top->second_count : SECONDS;
    for (uint64_t i = 0; i < kept; i++)
        if (top->seconds[counter][i] > most)
            most = top->seconds[counter][i];
    return most;
}

/* How long the oldest update that is not on disk has been waiting, at most: since the sample before it was seen. */
static double durable_lag_ms(const struct top *top)
{
    uint64_t now = sample_back(top, 0)->ns;
    for (uint64_t i = 0; i < samples_kept(top); i++)
        if (sample_back(top, i)->lsn <= top->stat.durable_lsn)
            return (double)(now - sample_back(top, i)->ns) * 1e-6;
    return (double)(now - sample_back(top, samples_kept(top) - 1)->ns) * 1e-6;
}

static int compare_times(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left;
    uint32_t b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

/* The pings of the last `age_ns`, sorted. */
static size_t sorted_pings(const struct top *top, uint64_t age_ns, uint32_t *ret)
{
    uint64_t now = att_clock_ns();
    uint64_t kept = top->ping_count < MOST_PINGS ? top->ping_count : MOST_PINGS;
    size_t count = 0;
    for (uint64_t i = 0; i < kept; i++)
        if (now - top->pings_ns[i] <= age_ns)
            ret[count++] = top->pings[i];
    qsort(ret, count, sizeof *ret, compare_times);
    return count;
}

/* ---- Drawing ------------------------------------------------------------------------------------------- */

enum { NUMBER_CHARS = 32, LABEL = 11, FIGURE = 12 };

/* 1234567 as 1,234,567. */
static const char *grouped(char text[NUMBER_CHARS], uint64_t number)
{
    char digits[NUMBER_CHARS];
    int length = snprintf(digits, sizeof digits, "%" PRIu64, number);
    int at = 0;
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0)
            text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = '\0';
    return text;
}

static const char *short_rate(char text[NUMBER_CHARS], double per_second)
{
    if (per_second < 100)
        snprintf(text, NUMBER_CHARS, "%.1f", per_second);
    else
        grouped(text, (uint64_t)(per_second + 0.5));
    return text;
}

static const char *short_bytes(char text[NUMBER_CHARS], uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double number = (double)bytes;
    int unit = 0;
    for (; number >= 1024 && unit < 4; unit++)
        number /= 1024;
    snprintf(text, NUMBER_CHARS, unit ? "%.1f %s" : "%.0f %s", number, units[unit]);
    return text;
}

static void draw_head(struct top *top)
{
    static const char *const precisions[] = {"single", "mixed", "double"};
    struct screen *screen = &top->screen;
    const struct att_stat *stat = &top->stat;
    const bool serving = strncmp(stat->state, "serving", 7) == 0;
    char clock[16] = "";
    char number[2][NUMBER_CHARS];
    time_t now = time(NULL);
    struct tm local;
    if (localtime_r(&now, &local))
        strftime(clock, sizeof clock, "%H:%M:%S", &local);
    screen_put(screen, SCREEN_BOLD, "attnd %.*s", (int)sizeof stat->name, stat->name);
    screen_put(screen, SCREEN_PLAIN, "  ");
    screen_put(screen, serving ? SCREEN_PLAIN : SCREEN_ALARM, "%.*s", (int)sizeof stat->state, stat->state);
    screen_put(screen, SCREEN_PLAIN, "  start %" PRIu64 ", pid %" PRIu32 "  %" PRIu32 " client%s", stat->incarnation,
               top->ctl->info.daemon_pid, stat->clients, stat->clients == 1 ? "" : "s");
    if (screen->columns > 8 + screen->column)
        screen_to(screen, screen->columns - 8);
    screen_put(screen, SCREEN_PLAIN, "%s", clock);
    screen_line(screen);
    screen_put(screen, SCREEN_DIM,
               "%s%" PRIu32 " x %" PRIu32 " queries, %s of %s tokens, d_v %" PRIu32 ", %s, %.*s, %" PRIu32 " thread%s",
               stat->heads > 1 ? "each head: " : "", stat->n_q, stat->d, grouped(number[0], stat->tokens),
               grouped(number[1], (uint64_t)stat->capacity * stat->heads), stat->d_v,
               stat->precision < 3 ? precisions[stat->precision] : "?", (int)sizeof stat->isa, stat->isa, stat->threads,
               stat->threads == 1 ? "" : "s");
    screen_line(screen);
    screen_line(screen);
}

/* The last seconds of a counter as a row of cells. */
static void draw_spark(struct top *top, enum counter counter, uint32_t cells)
{
    double most = peak(top, counter);
    for (uint32_t i = cells; i-- > 0;) {
        double value = i < top->second_count ? top->seconds[counter][(top->second_count - 1 - i) % SECONDS] : 0;
        unsigned part = most > 0 ? (unsigned)(8 * value / most + 0.5) : 0;
        screen_cell(&top->screen, value > 0 && part == 0 ? 1 : part);
    }
}

static void draw_rates(struct top *top)
{
    enum { BEFORE = LABEL + 3 * FIGURE + 2 };
    struct screen *screen = &top->screen;
    uint32_t cells = screen->columns > BEFORE ? screen->columns - BEFORE : 0;
    char text[NUMBER_CHARS];
    cells = cells < SECONDS ? cells : SECONDS;
    screen_put(screen, SCREEN_REVERSE, "%-*s%*s%*s%*s", LABEL, "rates", FIGURE, "per second", FIGURE, "mean 60 s",
               FIGURE, "peak 60 s");
    screen_put(screen, SCREEN_REVERSE, "  last %" PRIu32 " s", cells);
    screen_put(screen, SCREEN_REVERSE, "%*s", (int)(screen->columns - screen->column), "");
    screen_line(screen);
    for (int i = 0; i < COUNTERS; i++) {
        screen_put(screen, SCREEN_PLAIN, "%-*s", LABEL, counter_names[i]);
        screen_put(screen, SCREEN_BOLD, "%*s", FIGURE, short_rate(text, rate(top, i, top->interval_ns)));
        screen_put(screen, SCREEN_PLAIN, "%*s", FIGURE, short_rate(text, rate(top, i, (uint64_t)SECONDS * 1000000000)));
        screen_put(screen, SCREEN_PLAIN, "%*s  ", FIGURE, short_rate(text, peak(top, i)));
        draw_spark(top, i, cells);
        screen_line(screen);
    }
    screen_line(screen);
}

static void draw_pings(struct top *top)
{
    static const double levels[] = {0.5, 0.9, 0.99, 1};
    uint32_t times[MOST_PINGS];
    struct screen *screen = &top->screen;
    uint64_t ages[] = {top->interval_ns, (uint64_t)SECONDS * 1000000000};
    screen_put(screen, SCREEN_REVERSE, "%-*s%*s%*s%*s%*s", LABEL, "ping, us", FIGURE, "p50", FIGURE, "p90", FIGURE,
               "p99", FIGURE, "max");
    screen_put(screen, SCREEN_REVERSE, "%*s", (int)(screen->columns - screen->column), "");
    screen_line(screen);
    for (int age = 0; age < 2; age++) {
        size_t count = sorted_pings(top, ages[age], times);
        char label[NUMBER_CHARS];
        snprintf(label, sizeof label, "last %.4g s", (double)ages[age] * 1e-9);
        screen_put(screen, SCREEN_PLAIN, "%-*s", LABEL, label);
        for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
            size_t at = (size_t)(levels[i] * (double)count);
            if (count)
                screen_put(screen, age ? SCREEN_PLAIN : SCREEN_BOLD, "%*.1f", FIGURE,
                           (double)times[at < count ? at : count - 1] * 1e-3);
            else
                screen_put(screen, SCREEN_PLAIN, "%*s", FIGURE, "-");
        }
        screen_line(screen);
    }
    screen_line(screen);
}

/* "label [####....] text". */
static void draw_bar(struct top *top, const char *label, uint64_t part, uint64_t whole, const char *text)
{
    struct screen *screen = &top->screen;
    uint32_t cells = screen->columns > 2 * LABEL + 44 ? screen->columns - LABEL - 44 : 10;
    cells = cells < 60 ? cells : 60;
    uint32_t full = whole ? (uint32_t)((double)part / (double)whole * cells + 0.5) : 0;
    screen_put(screen, SCREEN_PLAIN, "%-*s[", LABEL, label);
    for (uint32_t i = 0; i < cells; i++)
        screen_put(screen, SCREEN_PLAIN, "%c", i < full ? '#' : '.');
    screen_put(screen, SCREEN_PLAIN, "] %s", text);
    screen_line(screen);
}

static void draw_state(struct top *top)
{
    const struct att_stat *stat = &top->stat;
    struct screen *screen = &top->screen;
    char text[3 * NUMBER_CHARS];
    char number[3][NUMBER_CHARS];
    uint64_t rows = stat->rows_hot + stat->rows_cold;
    uint64_t behind = stat->lsn > stat->durable_lsn ? stat->lsn - stat->durable_lsn : 0;
    snprintf(text, sizeof text, "%s of %s entries", grouped(number[0], stat->log_pending),
             grouped(number[1], stat->log_capacity));
    draw_bar(top, "pending", stat->log_pending, stat->log_capacity, text);
    snprintf(text, sizeof text, "%s of %s", grouped(number[0], stat->rows_hot), grouped(number[1], rows));
    draw_bar(top, "hot rows", stat->rows_hot, rows, text);
    screen_put(screen, SCREEN_PLAIN, "%-*sup to LSN %s of %s, ", LABEL, "on disk",
               grouped(number[0], stat->durable_lsn), grouped(number[1], stat->lsn));
    if (behind == 0)
        screen_put(screen, SCREEN_PLAIN, "nothing behind");
    else
        screen_put(screen, SCREEN_BOLD, "%s behind, %.0f ms", grouped(number[0], behind), durable_lag_ms(top));
    screen_put(screen, SCREEN_PLAIN, " (%.*s)", (int)sizeof stat->durability, stat->durability);
    screen_line(screen);
    screen_put(screen, SCREEN_PLAIN, "%-*sgeneration %" PRIu64 " at LSN %s", LABEL, "snapshot", stat->generation,
               grouped(number[0], stat->snapshot_lsn));
    screen_line(screen);
    screen_put(screen, SCREEN_PLAIN, "%-*s%s of state, %s resident", LABEL, "memory",
               short_bytes(number[0], stat->region_bytes), short_bytes(number[1], stat->rss_bytes));
    screen_line(screen);
}

static bool draw(struct top *top)
{
    screen_begin(&top->screen);
    draw_head(top);
    draw_rates(top);
    draw_pings(top);
    draw_state(top);
    if (top->screen.live) {
        screen_line(&top->screen);
        screen_put(&top->screen, SCREEN_DIM, "q ends it");
    }
    return screen_show(&top->screen);
}

/* ---- The loop ------------------------------------------------------------------------------------------ */

static enum att_status observe(struct top *top, uint64_t *next_ping, uint64_t *next_sample)
{
    enum att_status status = ATT_OK;
    uint64_t now = att_clock_ns();
    if (now >= *next_ping) {
        status = ping(top);
        *next_ping = att_clock_ns() + PING_MS * 1000000ull;
    }
    if (status == ATT_OK && now >= *next_sample) {
        status = sample(top);
        *next_sample = now + SAMPLE_MS * 1000000ull;
    }
    return status;
}

static enum att_status watch(struct top *top)
{
    uint64_t next_ping = 0;
    uint64_t next_sample = 0;
    uint64_t next_draw = att_clock_ns() + (top->screen.live ? SAMPLE_MS * 3000000ull : top->interval_ns);
    while (!screen_ended()) {
        enum att_status status = observe(top, &next_ping, &next_sample);
        if (status != ATT_OK)
            return status;
        bool due = att_clock_ns() >= next_draw;
        if (due || screen_resized()) {
            top->lost = draw(top) ? 0 : errno;
            if (top->lost || !top->screen.live)
                return ATT_OK;
            if (due)
                next_draw = att_clock_ns() + top->interval_ns;
        }
        int key = screen_key(&top->screen, PING_MS / 2);
        if (key == 'q' || key == 'Q')
            return ATT_OK;
    }
    return ATT_OK;
}

int ctl_top(struct ctl *ctl, int argc, char **argv)
{
    double seconds = 1;
    struct att_error error;
    if (ctl->json)
        return ctl_error(ctl, ATT_EXIT_USAGE, "draws for people; for JSON use stat");
    if (argc > 1 && att_parse_double_in("SECONDS", argv[1], 0.1, 3600, &seconds, &error) != ATT_OK)
        return ctl_error(ctl, ATT_EXIT_USAGE, "%s", error.text);
    struct top *top = calloc(1, sizeof *top);
    if (!top)
        return ctl_error(ctl, ATT_EXIT_FAILURE, "not enough memory");
    top->ctl = ctl;
    top->interval_ns = (uint64_t)(seconds * 1e9);
    fflush(stdout); /* the screen is written past it */
    screen_open(&top->screen);
    enum att_status status = watch(top);
    screen_close(&top->screen);
    const int lost = top->lost;
    free(top);
    if (lost)
        return ctl_error(ctl, ATT_EXIT_FAILURE, "standard output: %s", strerror(lost));
    return status == ATT_OK ? ATT_EXIT_OK : ctl_status_error(ctl, status);
}
