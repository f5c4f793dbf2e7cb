/* recovery: from the start of attnd to its first answer, after a kill, with files that are not in memory; and how much disk
 * many snapshots take. The floor reads the same files from the same disk (as cat does) and allows 0.2 s / 1.5 for all else,
 * so that 1.5 times the floor is 1.5 times cat and 0.2 s. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "disk.h"
#include "served.h"

enum {
    N_Q = 10000,
    N_K = 100000,
    D = 64,
    LOG = 65536,
    RECORDS = 10000,
    ROUNDS = 5,
    SNAPSHOTS = 100,
    DISK_N_Q = 1000,
    DISK_N_K = 20000,
    DEPTH = 256, /* so many rows fit in the request ring */
    AGE = 20     /* after so many snapshots the size must be what it is after all */
};

static double first_answer(struct served *served, const char *directory)
{
    double value, bound;

    disk_forget(directory);
    const double start = bench_now();
    served_resume(served);
    struct att_client *client = served_connect(served, false);
    if (att_query(client, N_Q / 2, 3, &value, &bound) != ATT_OK)
        bench_die("%s", att_last_error(client));
    const double ns = bench_now() - start;
    att_close(client);
    served_kill(served);
    return ns;
}

static void snapshot(struct att_client *client)
{
    if (att_snapshot(client) != ATT_OK)
        bench_die("%s", att_last_error(client));
}

static void start_again(const struct bench *bench)
{
    struct served served;
    struct bench_random random = {5};
    char directory[96];
    double answers[ROUNDS], cats[ROUNDS];

    served_start_durable(&served, N_Q, N_K, D, LOG, "always");
    snprintf(directory, sizeof directory, "%s/state", served.root);
    struct att_client *client = served_connect(&served, false);
    snapshot(client);
    served_update(client, &served, &random, RECORDS, DEPTH);
    att_close(client);
    served_kill(&served);
    first_answer(&served, directory);
    for (int i = 0; i < ROUNDS; i++) {
        cats[i] = disk_cat(directory);
        answers[i] = first_answer(&served, directory);
    }
    const double answer = 1e-9 * bench_median(answers, ROUNDS), cat = 1e-9 * bench_median(cats, ROUNDS);
    const double floor = cat + 0.2 / 1.5;
    bench_figure(bench, "first-answer", answer, "s", floor, answer / floor);
    bench_figure(bench, "cat", cat, "s", (double)NAN, (double)NAN);
    served_resume(&served); /* for served_stop */
    served_stop(&served);
}

/* A copy has one, and this one has nothing in its log. */
static double one_snapshot(const struct served *served)
{
    char program[4096], command[4400], copy[96];

    served_program("attninspect", program, sizeof program);
    snprintf(command, sizeof command, "%s %s/state copy %s/one >/dev/null", program, served->root, served->root);
    if (system(command) != 0)
        bench_die("attninspect, which should lie beside this program, did not copy the state");
    snprintf(copy, sizeof copy, "%s/one", served->root);
    return disk_bytes(copy);
}

static void disk_use(const struct bench *bench)
{
    struct served served;
    struct bench_random random = {6};
    char directory[96];
    double one, aged = 0;

    served_start_durable(&served, DISK_N_Q, DISK_N_K, D, LOG, "always");
    snprintf(directory, sizeof directory, "%s/state", served.root);
    struct att_client *client = served_connect(&served, false);
    snapshot(client);
    one = one_snapshot(&served);
    for (int i = 0; i < SNAPSHOTS; i++) {
        served_update(client, &served, &random, 500, DEPTH);
        snapshot(client);
        if (i == AGE)
            aged = disk_bytes(directory);
    }
    const double all = disk_bytes(directory);
    bench_figure(bench, "disk", 1e-6 * all, "MB", 1e-6 * one, all / one);
    bench_figure(bench, "disk-flat", 1e-6 * all, "MB", 1e-6 * aged, all / aged);
    att_close(client);
    served_stop(&served);
}

void suite_recovery(const struct bench *bench)
{
    start_again(bench);
    disk_use(bench);
}
