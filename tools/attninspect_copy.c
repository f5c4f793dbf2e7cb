/* copy and repair: the only commands that write, and never in DIR's own files. */
#include "attninspect.h"

#include <inttypes.h>
#include <stdio.h>

#include "answer.h"

enum { MOST_RETRIES = 10 };

int inspect_copy(struct inspect *inspect, char **argv)
{
    struct att_copy_info info;
    struct att_error error = {0};
    enum att_status status = att_store_copy(inspect->store, argv[1], UINT64_MAX, &info, &error);
    /* The daemon may replace the snapshot meanwhile: then what is there now is copied. */
    for (int i = 0; i < MOST_RETRIES && status == ATT_AGAIN; i++) {
        struct att_store *store;
        status = inspect_open(inspect->directory, &store, &error);
        if (status != ATT_OK)
            break;
        att_store_close(inspect->store);
        inspect->store = store;
        status = att_store_copy(store, argv[1], UINT64_MAX, &info, &error);
    }
    if (status != ATT_OK)
        return att_failure(INSPECT_PROGRAM, "%s: %s", inspect->directory, error.text);
    if (inspect->json) {
        fputs("{\"directory\":", stdout);
        att_print_json_string(stdout, inspect->directory);
        fputs(",\"to\":", stdout);
        att_print_json_string(stdout, argv[1]);
        printf(",\"snapshot_lsn\":%" PRIu64 ",\"records\":%" PRIu64 ",\"lsn\":%" PRIu64 "}\n", info.snapshot_lsn,
               info.records, info.lsn);
    } else {
        printf("copied %s to %s: the snapshot at LSN %" PRIu64 " and %" PRIu64 " records of the log, to LSN %" PRIu64
               "\n",
               inspect->directory, argv[1], info.snapshot_lsn, info.records, info.lsn);
    }
    return ATT_EXIT_OK;
}

static void print_lost(const struct att_repair_info *info)
{
    uint64_t from = info->lost_from;
    if (info->known_lsn < from && !info->open_end)
        puts("lost: nothing");
    else if (info->known_lsn < from)
        puts("lost: what the damaged part of the log held");
    else
        printf("lost: the updates with LSN %" PRIu64 " to %" PRIu64 "%s\n", from, info->known_lsn,
               info->open_end ? " and what else the damaged part of the log held" : "");
}

int inspect_repair(struct inspect *inspect, char **argv)
{
    struct att_repair_info info;
    struct att_error error = {0};
    (void)argv;
    if (!inspect->to_lsn_given)
        return att_usage_error(INSPECT_PROGRAM, "repair: --to-lsn N is needed: the last update to keep; verify and "
                                                "attnd say what is whole");
    if (att_store_repair(inspect->directory, inspect->to_lsn, &info, &error) != ATT_OK)
        return att_failure(INSPECT_PROGRAM, "%s: not repaired: %s", inspect->directory, error.text);
    if (inspect->json) {
        fputs("{\"directory\":", stdout);
        att_print_json_string(stdout, inspect->directory);
        fputs(",\"kept\":", stdout);
        att_print_json_string(stdout, info.kept);
        printf(",\"snapshot_lsn\":%" PRIu64 ",\"records\":%" PRIu64 ",\"lsn\":%" PRIu64 ",\"known_lsn\":%" PRIu64
               ",\"open_end\":%s}\n",
               info.copy.snapshot_lsn, info.copy.records, info.copy.lsn, info.known_lsn,
               info.open_end ? "true" : "false");
        return ATT_EXIT_OK;
    }
    printf("repaired %s: the snapshot at LSN %" PRIu64 " and %" PRIu64 " records of the log, to LSN %" PRIu64 "\n",
           inspect->directory, info.copy.snapshot_lsn, info.copy.records, info.copy.lsn);
    print_lost(&info);
    printf("kept: the state as it was is %s\n", info.kept);
    return ATT_EXIT_OK;
}
