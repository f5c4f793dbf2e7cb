#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attnd.h"
#include "options.h"

enum attnd_option {
    OPTION_DIR = 256,
    OPTION_NAME,
    OPTION_SOCKET,
    OPTION_Q,
    OPTION_K,
    OPTION_V,
    OPTION_BIAS,
    OPTION_SCALE,
    OPTION_TAU,
    OPTION_LOG_CAPACITY,
    OPTION_MERGE,
    OPTION_PRECISION,
    OPTION_CAUSAL,
    OPTION_CAPACITY,
    OPTION_DURABILITY,
    OPTION_THREADS,
    OPTION_WAIT,
    OPTION_DIRECT_READS,
    OPTION_ERROR_BUDGET,
    OPTION_ALLOW_UID,
    OPTION_HELP,
    OPTION_VERSION
};

static const char help[] = "attnd --dir DIR [OPTION]...\n"
                           "\n"
                           "Keeps the attention output D^-1 exp(s Q K^T + b) V current.\n"
                           "\n"
                           "  --dir DIR              where the state lives; one that is there is served\n"
                           "  --q Q.npy --k K.npy --v V.npy [--bias B.npy]\n"
                           "                         create it in an empty DIR, from these matrices, or\n"
                           "                         heads x rows x columns (biases: heads x n_k)\n"
                           "  --name NAME            of this daemon, for its default socket [default]\n"
                           "  --socket PATH          listen here instead\n"
                           "  --scale S|auto         s; auto: 1/sqrt(d) [1]\n"
                           "  --precision single|mixed|double [mixed]\n"
                           "  --capacity N           room for N tokens in each head [as many as K has rows]\n"
                           "  --causal               row i of Q sees tokens 0..i only\n"
                           "  --tau T                bound each head's entry log: n_k^T entries, 0 < T <= 1\n"
                           "  --log-capacity N       the same: N entries, at least 64 [from the capacity]\n"
                           "  --merge auto|eager     eager: whenever there is something to merge [auto]\n"
                           "  --error-budget REL     drift at which a row is refreshed [by precision]\n"
                           "  --durability always|interval:MS|off\n"
                           "                         acknowledge an update: on disk; at once, synced every\n"
                           "                         MS ms; at once, snapshots only [always]\n"
                           "  --threads N            of each head's merge team [all, shared by the heads]\n"
                           "  --wait adaptive|spin|block\n"
                           "                         how to wait for clients [adaptive]\n"
                           "  --direct-reads on|off  let clients read from the daemon's memory [on]\n"
                           "  --allow-uid UID        let this user connect too; may be repeated\n"
                           "  --help, --version\n"
                           "\n"
                           "Prints `ready SOCKET` when it serves. SIGTERM, SIGINT, SIGHUP: finish, make\n"
                           "durable, snapshot, exit 0.\n";

static const struct option long_options[] = {
    {"dir", required_argument, NULL, OPTION_DIR},
    {"name", required_argument, NULL, OPTION_NAME},
    {"socket", required_argument, NULL, OPTION_SOCKET},
    {"q", required_argument, NULL, OPTION_Q},
    {"k", required_argument, NULL, OPTION_K},
    {"v", required_argument, NULL, OPTION_V},
    {"bias", required_argument, NULL, OPTION_BIAS},
    {"scale", required_argument, NULL, OPTION_SCALE},
    {"tau", required_argument, NULL, OPTION_TAU},
    {"log-capacity", required_argument, NULL, OPTION_LOG_CAPACITY},
    {"merge", required_argument, NULL, OPTION_MERGE},
    {"precision", required_argument, NULL, OPTION_PRECISION},
    {"causal", no_argument, NULL, OPTION_CAUSAL},
    {"capacity", required_argument, NULL, OPTION_CAPACITY},
    {"durability", required_argument, NULL, OPTION_DURABILITY},
    {"threads", required_argument, NULL, OPTION_THREADS},
    {"wait", required_argument, NULL, OPTION_WAIT},
    {"direct-reads", required_argument, NULL, OPTION_DIRECT_READS},
    {"error-budget", required_argument, NULL, OPTION_ERROR_BUDGET},
    {"allow-uid", required_argument, NULL, OPTION_ALLOW_UID},
    {"help", no_argument, NULL, OPTION_HELP},
    {"version", no_argument, NULL, OPTION_VERSION},
    {NULL, 0, NULL, 0},
};

static enum att_status parse_scale(const char *text, struct attnd_options *o, struct att_error *error)
{
    o->scale_given = true;
    o->scale_auto = strcmp(text, "auto") == 0;
    return o->scale_auto
               ? ATT_OK
               : att_parse_double_in("--scale", text, -ATT_LARGEST_SCALE, ATT_LARGEST_SCALE, &o->scale, error);
}

static enum att_status parse_tau(const char *text, struct attnd_options *o, struct att_error *error)
{
    enum att_status status = att_parse_double_in("--tau", text, 0.0, 1.0, &o->tau, error);

    if (status == ATT_OK && o->tau == 0.0)
        return att_fail(error, ATT_EINVAL, "--tau: 0 is out of range: 0 < T <= 1");
    return status;
}

static enum att_status parse_durability(const char *text, struct attnd_options *o, struct att_error *error)
{
    static const char prefix[] = "interval:";

    if (strncmp(text, prefix, sizeof prefix - 1) == 0) {
        o->durability = ATT_DURABLE_INTERVAL;
        return att_parse_u32("--durability interval", text + sizeof prefix - 1, 1, 3600000, &o->interval_ms, error);
    }
    if (strcmp(text, "always") == 0)
        o->durability = ATT_DURABLE_ALWAYS;
    else if (strcmp(text, "off") == 0)
        o->durability = ATT_DURABLE_OFF;
    else
        return att_fail(error, ATT_EINVAL, "--durability: '%s' is none of always, interval:MS, off", text);
    return ATT_OK;
}

static enum att_status parse_uid(const char *text, struct attnd_options *o, struct att_error *error)
{
    uint32_t uid;
    enum att_status status = att_parse_u32("--allow-uid", text, 0, UINT32_MAX - 1, &uid, error);

    if (status == ATT_OK && o->uid_count == ATTND_MOST_UIDS)
        return att_fail(error, ATT_EINVAL, "--allow-uid: at most %d users", ATTND_MOST_UIDS);
    if (status == ATT_OK)
        o->uids[o->uid_count++] = uid;
    return status;
}

static enum att_status parse_words(enum attnd_option option, const char *text, struct attnd_options *o,
                                   struct att_error *error)
{
    static const char *const merges[] = {"auto", "eager", NULL};
    static const char *const precisions[] = {"single", "mixed", "double", NULL};
    static const char *const switches[] = {"on", "off", NULL};
    static const char *const waits[] = {"adaptive", "spin", "block", NULL};
    enum att_status status;
    int word = 0;

    if (option == OPTION_MERGE) {
        status = att_parse_word("--merge", text, merges, &word, error);
        o->eager = word == 1;
    } else if (option == OPTION_PRECISION) {
        status = att_parse_word("--precision", text, precisions, &word, error);
        o->precision = (enum att_precision)word;
        o->precision_given = true;
    } else if (option == OPTION_DIRECT_READS) {
        status = att_parse_word("--direct-reads", text, switches, &word, error);
        o->direct_off = word == 1;
    } else {
        status = att_parse_word("--wait", text, waits, &word, error);
        o->wait = (enum att_wait)word;
    }
    return status;
}

static enum att_status parse_one(enum attnd_option option, const char *text, struct attnd_options *o,
                                 struct att_error *error)
{
    switch (option) {
    case OPTION_DIR:
        o->directory = text;
        return ATT_OK;
    case OPTION_NAME:
        o->name = text;
        return ATT_OK;
    case OPTION_SOCKET:
        o->socket = text;
        return ATT_OK;
    case OPTION_Q:
        o->q = text;
        return ATT_OK;
    case OPTION_K:
        o->k = text;
        return ATT_OK;
    case OPTION_V:
        o->v = text;
        return ATT_OK;
    case OPTION_CAUSAL:
        o->causal = true;
        return ATT_OK;
    case OPTION_BIAS:
        o->bias = text;
        return ATT_OK;
    case OPTION_SCALE:
        return parse_scale(text, o, error);
    case OPTION_TAU:
        return parse_tau(text, o, error);
    case OPTION_LOG_CAPACITY:
        return att_parse_u32("--log-capacity", text, 64, 1u << 24, &o->log_capacity, error);
    case OPTION_CAPACITY:
        return att_parse_u32("--capacity", text, 1, INT32_MAX, &o->capacity, error);
    case OPTION_DURABILITY:
        return parse_durability(text, o, error);
    case OPTION_THREADS:
        return att_parse_u32("--threads", text, 1, 1024, &o->threads, error);
    case OPTION_ERROR_BUDGET:
        return att_parse_double_in("--error-budget", text, 1e-15, 1.0, &o->error_budget, error);
    case OPTION_ALLOW_UID:
        return parse_uid(text, o, error);
    default:
        return parse_words(option, text, o, error);
    }
}

/* What the options have to say together. */
static enum att_status check_together(const struct attnd_options *o, struct att_error *error)
{
    const int arrays = !!o->q + !!o->k + !!o->v;
    char path[4096];

    if (!o->directory || !*o->directory)
        return att_fail(error, ATT_EINVAL, "--dir DIR is needed");
    if (att_name_check(o->name, error) != ATT_OK ||
        (!o->socket && att_socket_path(o->name, path, sizeof path, error) != ATT_OK))
        return ATT_EINVAL;
    if (arrays != 0 && arrays != 3)
        return att_fail(error, ATT_EINVAL, "--q, --k and --v go together: %s is missing",
                        !o->q   ? "--q"
                        : !o->k ? "--k"
                                : "--v");
    if (o->bias && arrays == 0)
        return att_fail(error, ATT_EINVAL, "--bias goes with --q, --k and --v");
    if (o->causal && arrays == 0)
        return att_fail(error, ATT_EINVAL, "--causal goes with --q, --k and --v: a state that exists knows it already");
    if (o->tau != 0.0 && o->log_capacity != 0)
        return att_fail(error, ATT_EINVAL, "--tau and --log-capacity say the same thing: give one of them");
    return ATT_OK;
}

enum att_status attnd_parse(int count, char **arguments, struct attnd_options *ret_options, int *ret_exit)
{
    struct attnd_options o = {.name = "default", .scale = 1.0, .precision = ATT_MIXED};
    struct att_error error;
    enum att_status status = ATT_OK;
    int option;

    while (status == ATT_OK && (option = getopt_long(count, arguments, ":", long_options, NULL)) != -1) {
        if (option == OPTION_HELP || option == OPTION_VERSION) {
            fputs(option == OPTION_HELP ? help : "attnd " ATTND_VERSION "\n", stdout);
            *ret_exit = att_finish_output(ATTND_PROGRAM, ATT_EXIT_OK);
            return ATT_EINVAL;
        }
        if (option == '?' || option == ':') {
            *ret_exit = att_bad_option(ATTND_PROGRAM, option, arguments);
            return ATT_EINVAL;
        }
        status = parse_one((enum attnd_option)option, optarg, &o, &error);
    }
    if (status == ATT_OK && optind < count)
        status = att_fail(&error, ATT_EINVAL, "'%s' is not an option", arguments[optind]);
    if (status == ATT_OK)
        status = check_together(&o, &error);
    if (status != ATT_OK) {
        *ret_exit = att_usage_error(ATTND_PROGRAM, "%s", error.text);
        return status;
    }
    *ret_options = o;
    return ATT_OK;
}
