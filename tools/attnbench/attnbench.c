/* attnbench: how fast, how accurate and how large the engine is, each figure against a floor or rival that is measured
 * in the same run. Names and units of the figures are a contract: CLI.md in the project's design. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "bench.h"
#include "blas_core.h"
#include "options.h"
#include "rig.h"
#include "rival.h"

struct suite {
    const char *name;
    void (*run)(const struct bench *bench);
    const char *what;
};

static const struct suite suites[] = {
    {"query", suite_query, "queries with entries pending, against a row from scratch"},
    {"merge", suite_merge, "merges and Init, against sgemm and recomputing everything"},
    {"update", suite_update, "replacing a key and a value row"},
    {"accuracy", suite_accuracy, "error bounds against the true error, and drift"},
    {"crossover", suite_crossover, "mixes of reads and updates, against two plain strategies"},
    {"scale", suite_scale, "resident bytes of the published region"},
    {"ipc", suite_ipc, "round trips through the ring, against a bare echo"},
    {"direct", suite_direct, "reads of the published region by other processes"},
    {"durable", suite_durable, "acknowledged on disk, against the bare disk and Redis"},
    {"recovery", suite_recovery, "kill to first answer; disk use of 100 snapshots"},
    {"paper", suite_paper, "the paper's bounds as curves, the worst update, rivals"},
    {"hmv", suite_hmv, "the paper's lower bound as a program"},
};

enum { SUITES = sizeof suites / sizeof *suites };

static void print_help(void)
{
    printf("usage: attnbench [SUITE]... [--json] [--quick]\n\n"
           "Prints one line for each figure: suite case value unit floor ratio (- for none).\n"
           "A floor or rival is measured in the same run, interleaved. Comments go to\n"
           "standard error.\n\n"
           "  --json     one JSON object a line instead\n"
           "  --quick    ends within 45 s a suite\n"
           "  --help     this text\n"
           "  --version  the version\n\n"
           "suites (default: all):\n");
    for (size_t i = 0; i < SUITES; i++)
        printf("  %-10s %s\n", suites[i].name, suites[i].what);
}

static void processor_name(char *ret_name, size_t size)
{
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[256], *value;

    snprintf(ret_name, size, "unknown processor");
    while (file && fgets(line, sizeof line, file)) {
        value = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !value)
            continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(ret_name, size, "%s", value + 2);
        break;
    }
    if (file)
        fclose(file);
}

static void print_machine(void)
{
    static const char *const harmful[] = {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"};
    const struct att_engine_options options = rig_options(1, 1, 1);
    struct rig rig;
    char name[128];
    double load[3] = {0};

    rig_create(&rig, &options, 1);
    processor_name(name, sizeof name);
    if (getloadavg(load, 3) < 1)
        load[0] = -1.0;
    fprintf(stderr, "# %s, %ld processors, load %.2f; kernel %s; rivals: %s, 1 thread; oneDNN %s\n", name,
            sysconf(_SC_NPROCESSORS_ONLN), load[0], rig_stats(&rig).kernel, rival_name(),
            rival_has_onednn() ? "too" : "is not installed");
    rig_release(&rig);
    for (size_t i = 0; i < sizeof harmful / sizeof *harmful; i++)
        if (getenv(harmful[i]))
            fprintf(stderr, "# warning: %s is set: the rival may be slower than it is; unset it\n", harmful[i]);
}

static const struct suite *find(const char *name)
{
    for (size_t i = 0; i < SUITES; i++)
        if (strcmp(suites[i].name, name) == 0)
            return &suites[i];
    return NULL;
}

/* Fills in what to run. Returns the exit code, or -1 to go on. */
static int parse(int argc, char **argv, struct bench *bench, const struct suite **chosen, size_t *ret_count)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            print_help();
            return att_finish_output("attnbench", ATT_EXIT_OK);
        }
        if (strcmp(argv[i], "--version") == 0) {
            printf("attnbench %s\n", ATTND_VERSION);
            return att_finish_output("attnbench", ATT_EXIT_OK);
        }
        if (strcmp(argv[i], "--json") == 0) {
            bench->json = true;
        } else if (strcmp(argv[i], "--quick") == 0) {
            bench->quick = true;
        } else if (argv[i][0] == '-') {
            return att_usage_error("attnbench", "unknown option %s", argv[i]);
        } else {
            const struct suite *suite = find(argv[i]);
            if (!suite)
                return att_usage_error("attnbench", "unknown suite %s", argv[i]);
            if (*ret_count == SUITES)
                return att_usage_error("attnbench", "more than %d suites are given", SUITES);
            chosen[(*ret_count)++] = suite;
        }
    }
    return -1;
}

/* As attnd does: the team's threads must sleep when they wait; libgomp reads this only when the program is loaded. */
static void wait_passively(char **arguments)
{
    if (getenv("OMP_WAIT_POLICY"))
        return;
    setenv("OMP_WAIT_POLICY", "passive", 1);
    execv("/proc/self/exe", arguments); /* failing is harmless: the team spins a little */
}

int main(int argc, char **argv)
{
    struct bench bench = {0};
    const struct suite *chosen[SUITES];
    size_t count = 0;
    int code = parse(argc, argv, &bench, chosen, &count);

    if (code >= 0)
        return code;
    wait_passively(argv);
    att_blas_core_choose(argv);
    for (size_t i = 0; count == 0 && i < SUITES; i++)
        chosen[i] = &suites[i];
    count = count ? count : SUITES;
    /* As low as the engine puts its merge thread, so that on a busy machine rivals get the same share of it. */
    setpriority(PRIO_PROCESS, 0, 5);
    rival_init();
    print_machine();
    for (size_t i = 0; i < count; i++) {
        const double start = bench_now();
        bench.suite = chosen[i]->name;
        chosen[i]->run(&bench);
        bench_note(&bench, "%.1f s", (bench_now() - start) * 1e-9);
    }
    return att_finish_output("attnbench", ATT_EXIT_OK);
}
