/* attninspect: looks at a state directory that no daemon serves, or a live one, and changes nothing in it (repair puts
 * another in its place, and keeps it). Options and the command table; info and log are in attninspect_store.c, dump,
 * query and row in attninspect_state.c, copy and repair in attninspect_copy.c. */
#include "attninspect.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct inspect_command commands[] = {
    {"info", "", "shape, snapshots and log", 0, false, inspect_info},
    {"verify", "", "check all checksums and the log, recompute rows; 0: all well", 0, false, inspect_verify},
    {"log", "", "the log's records, a line each [--from LSN] [--limit N]", 0, false, inspect_log},
    {"dump", "OUTDIR", "write Q.npy K.npy V.npy as they are after the whole log", 1, false, inspect_dump},
    {"query", "I J", "O[I][J] and its error bound", 2, false, inspect_query},
    {"row", "I", "row I of the output, then the row's error bound", 1, false, inspect_row},
    {"copy", "TO", "a copy of the state, as it is now, in a new directory", 1, false, inspect_copy},
    {"repair", "", "the state up to --to-lsn N takes DIR's place; DIR is kept", 0, true, inspect_repair},
    {"heatmap", "OUT.png", "the attention weights [--rows A:B] [--keys A:B] [--head H]", 1, false, inspect_heatmap},
    {"report", "OUT.html", "scores, entropy, bounds, hot rows, the log [--head H]", 1, false, inspect_report},
};
enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

static void print_help(void)
{
    puts("attninspect DIR COMMAND [--json]\n"
         "  --json        one JSON object a line\n"
         "  --from LSN    log: begin at this LSN\n"
         "  --limit N     log: print at most N records\n"
         "  --to-lsn N    repair: the last update to keep\n"
         "  --rows A:B    heatmap: rows A..B-1 of Q\n"
         "  --keys A:B    heatmap: tokens A..B-1\n"
         "  --head H      heatmap and report: of this head [0]\n"
         "  --help, --version\n"
         "Commands but repair change nothing in DIR, which may be in use. With several\n"
         "heads a row is written HEAD:I, and dump writes heads x rows x columns.\n");
    for (int i = 0; i < COMMAND_COUNT; i++) {
        char left[40];
        snprintf(left, sizeof left, "%s %s", commands[i].name, commands[i].arguments);
        printf("  %-16s %s\n", left, commands[i].help);
    }
}

struct settings {
    bool help, version, log_only, repair_only, heatmap_only, head;
};

/* A:B, not empty. */
static enum att_status parse_range(const char *what, const char *text, struct inspect_range *ret,
                                   struct att_error *error)
{
    char first[16] = "";
    const char *colon = strchr(text, ':');
    struct inspect_range range = {.given = true};
    if (!colon || (size_t)(colon - text) >= sizeof first)
        return att_fail(error, ATT_EINVAL, "%s: '%.40s' is not A:B", what, text);
    memcpy(first, text, (size_t)(colon - text));
    enum att_status status = att_parse_u32(what, first, 0, UINT32_MAX - 1, &range.begin, error);
    if (status == ATT_OK)
        status = att_parse_u32(what, colon + 1, range.begin + 1, UINT32_MAX - 1, &range.end, error);
    if (status == ATT_OK)
        *ret = range;
    return status;
}

static int parse_options(struct inspect *inspect, struct settings *settings, int argc, char **argv)
{
    static const struct option options[] = {
        {"json", no_argument, NULL, 'j'},        {"from", required_argument, NULL, 'f'},
        {"limit", required_argument, NULL, 'l'}, {"to-lsn", required_argument, NULL, 't'},
        {"rows", required_argument, NULL, 'r'},  {"keys", required_argument, NULL, 'k'},
        {"head", required_argument, NULL, 'H'},  {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},     {NULL, 0, NULL, 0}};
    struct att_error error;
    enum att_status status = ATT_OK;
    int option;
    opterr = 0;
    while (status == ATT_OK && (option = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        settings->log_only = settings->log_only || option == 'f' || option == 'l';
        settings->repair_only = settings->repair_only || option == 't';
        settings->heatmap_only = settings->heatmap_only || option == 'r' || option == 'k';
        settings->head = settings->head || option == 'H';
        switch (option) {
        case 'j':
            inspect->json = true;
            break;
        case 'f':
            status = att_parse_u64("--from", optarg, 0, UINT64_MAX, &inspect->from, &error);
            break;
        case 'l':
            status = att_parse_u64("--limit", optarg, 0, UINT64_MAX, &inspect->limit, &error);
            break;
        case 't':
            status = att_parse_u64("--to-lsn", optarg, 0, UINT64_MAX - 1, &inspect->to_lsn, &error);
            inspect->to_lsn_given = true;
            break;
        case 'r':
            status = parse_range("--rows", optarg, &inspect->rows, &error);
            break;
        case 'k':
            status = parse_range("--keys", optarg, &inspect->keys, &error);
            break;
        case 'H':
            status = att_parse_u32("--head", optarg, 0, UINT32_MAX - 1, &inspect->head, &error);
            break;
        case 'h':
            settings->help = true;
            break;
        case 'V':
            settings->version = true;
            break;
        default:
            return att_bad_option(INSPECT_PROGRAM, option, argv);
        }
    }
    if (status != ATT_OK)
        return att_usage_error(INSPECT_PROGRAM, "%s", error.text);
    return ATT_EXIT_OK;
}

enum att_status inspect_open(const char *directory, struct att_store **ret_store, struct att_error *error)
{
    struct att_store_options options = {.read_only = true};
    return att_store_open(directory, &options, ret_store, error);
}

FILE *inspect_begin_file(const struct inspect *inspect, const char *path, struct att_error *error)
{
    static const char *const own[] = {"lock", "log/data.mdb", "log/lock.mdb", "snap/data.mdb", "snap/lock.mdb"};
    struct stat target, file;
    char name[4096];
    if (stat(path, &target) == 0)
        for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) {
            snprintf(name, sizeof name, "%s/%s", inspect->directory, own[i]);
            if (stat(name, &file) == 0 && file.st_dev == target.st_dev && file.st_ino == target.st_ino) {
                att_fail(error, ATT_EEXIST, "%s: is part of the state: not replaced", path);
                return NULL;
            }
        }
    FILE *to = fopen(path, "we");
    if (!to)
        att_fail(error, ATT_EIO, "%s: cannot write: %s", path, strerror(errno));
    return to;
}

enum att_status inspect_end_file(FILE *file, const char *path, const char *wrong, struct att_error *error)
{
    struct stat info;
    if (fclose(file) != 0 && !wrong)
        wrong = strerror(errno);
    if (!wrong)
        return ATT_OK;
    att_fail(error, ATT_EIO, "%s: cannot write: %s", path, wrong);
    if (lstat(path, &info) == 0 && S_ISREG(info.st_mode)) /* no device, and no link to one */
        unlink(path);
    return ATT_EIO;
}

static int run_command(struct inspect *inspect, const struct inspect_command *command, char **argv)
{
    struct att_error error = {0};
    if (command->opens)
        return command->run(inspect, argv);
    enum att_status status = inspect_open(inspect->directory, &inspect->store, &error);
    if (status == ATT_ECORRUPT && command->run == inspect_verify)
        return inspect_verify_unopened(inspect, &error);
    if (status != ATT_OK)
        return att_failure(INSPECT_PROGRAM, "%s", error.text);
    int code = command->run(inspect, argv);
    att_store_close(inspect->store);
    return code;
}

int main(int argc, char **argv)
{
    struct inspect inspect = {.limit = UINT64_MAX};
    struct settings settings = {0};
    att_hold_standard_files();
    int code = parse_options(&inspect, &settings, argc, argv);
    if (code != ATT_EXIT_OK)
        return code;
    if (settings.help || settings.version) {
        if (settings.help)
            print_help();
        else
            puts(INSPECT_PROGRAM " " ATTND_VERSION);
        return att_finish_output(INSPECT_PROGRAM, ATT_EXIT_OK);
    }
    int given = argc - optind;
    if (given < 2)
        return att_usage_error(INSPECT_PROGRAM, "DIR and a COMMAND are needed");
    inspect.directory = argv[optind];
    argv += optind + 1;
    for (int i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(argv[0], commands[i].name) != 0)
            continue;
        if (given - 2 != commands[i].count)
            return att_usage_error(INSPECT_PROGRAM, "%s: %d argument%s given; usage: %s DIR %s%s%s", argv[0], given - 2,
                                   given == 3 ? "" : "s", INSPECT_PROGRAM, commands[i].name,
                                   commands[i].arguments[0] ? " " : "", commands[i].arguments);
        if (settings.log_only && commands[i].run != inspect_log)
            return att_usage_error(INSPECT_PROGRAM, "--from and --limit belong to log");
        if (settings.repair_only && commands[i].run != inspect_repair)
            return att_usage_error(INSPECT_PROGRAM, "--to-lsn belongs to repair");
        if (settings.heatmap_only && commands[i].run != inspect_heatmap)
            return att_usage_error(INSPECT_PROGRAM, "--rows and --keys belong to heatmap");
        if (settings.head && commands[i].run != inspect_heatmap && commands[i].run != inspect_report)
            return att_usage_error(INSPECT_PROGRAM, "--head belongs to heatmap and report");
        return att_finish_output(INSPECT_PROGRAM, run_command(&inspect, &commands[i], argv));
    }
    return att_usage_error(INSPECT_PROGRAM, "unknown command '%s'", argv[0]);
}
