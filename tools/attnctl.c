/* attnctl: the client of attnd. Options and the connection; the commands are in attnctl_commands.c. */
#include "attnctl.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

struct settings {
    struct att_connect_options connect;
    bool help, version;
};

static void print_help(void)
{
    puts("attnctl [OPTION]... COMMAND\n"
         "  --name NAME     the daemon's name (default: default)\n"
         "  --socket PATH   the daemon's socket\n"
         "  --json          one JSON object a line\n"
         "  --direct        answer query and row from the daemon's memory\n"
         "  --durable       query and row wait until what they reflect is on disk\n"
         "  --timeout MS    give up after so many milliseconds without a reply\n"
         "  --help, --version\n"
         "Options end at COMMAND. With several heads, rows, tokens and columns are HEAD:I.\n");
    for (const struct ctl_command *command = ctl_commands; command->name; command++) {
        char left[120];
        snprintf(left, sizeof left, "%s %s", command->name, command->arguments);
        if (strlen(left) > 25)
            printf("  %s\n  %-25s %s\n", left, "", command->help);
        else
            printf("  %-25s %s\n", left, command->help);
    }
}

static int parse_options(struct ctl *ctl, struct settings *settings, int argc, char **argv)
{
    static const struct option options[] = {{"name", required_argument, NULL, 'n'},
                                            {"socket", required_argument, NULL, 's'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"durable", no_argument, NULL, 'd'},
                                            {"timeout", required_argument, NULL, 't'},
                                            {"help", no_argument, NULL, 'h'},
                                            {"direct", no_argument, NULL, 'D'},
                                            {"version", no_argument, NULL, 'V'},
                                            {NULL, 0, NULL, 0}};
    struct att_error error;
    char path[4096];
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, "+:", options, NULL)) != -1) {
        switch (option) {
        case 'n':
            settings->connect.name = optarg;
            break;
        case 's':
            settings->connect.socket = optarg;
            break;
        case 'j':
            ctl->json = true;
            break;
        case 'd':
            ctl->durable = true;
            break;
        case 'D':
            ctl->direct = true;
            break;
        case 't':
            if (att_parse_u32("--timeout", optarg, 1, 1000u * 1000 * 1000, &ctl->timeout_ms, &error) != ATT_OK)
                return att_usage_error(CTL_PROGRAM, "%s", error.text);
            break;
        case 'h':
            settings->help = true;
            break;
        case 'V':
            settings->version = true;
            break;
        default:
            return att_bad_option(CTL_PROGRAM, option, argv);
        }
    }
    if (settings->connect.name && settings->connect.socket)
        return att_usage_error(CTL_PROGRAM, "--name and --socket: give one of them");
    if (settings->connect.name && att_socket_path(settings->connect.name, path, sizeof path, &error) != ATT_OK)
        return att_usage_error(CTL_PROGRAM, "%s", error.text);
    return ATT_EXIT_OK;
}

int main(int argc, char **argv)
{
    struct ctl ctl = {0};
    struct settings settings = {0};
    const struct ctl_command *command;
    struct att_error error = {0};
    att_hold_standard_files();
    int code = parse_options(&ctl, &settings, argc, argv);
    if (code != ATT_EXIT_OK)
        return code;
    if (settings.help || settings.version) {
        if (settings.help)
            print_help();
        else
            puts(CTL_PROGRAM " " ATTND_VERSION);
        return att_finish_output(CTL_PROGRAM, ATT_EXIT_OK);
    }
    if (optind == argc)
        return att_usage_error(CTL_PROGRAM, "a COMMAND is needed");
    argc -= optind;
    argv += optind;
    code = ctl_find(&ctl, argc, argv, &command); /* a usage error, whether a daemon runs or not */
    if (code != ATT_EXIT_OK)
        return code;
    settings.connect.timeout_ms = ctl.timeout_ms;
    settings.connect.stay_closed =
        true; /* a command says that the daemon has gone; it does not wait for the next one */
    settings.connect.direct = ctl.direct;
    if (att_connect(&settings.connect, &ctl.client, &error) != ATT_OK)
        return att_failure(CTL_PROGRAM, "%s", error.text);
    att_get_info(ctl.client, &ctl.info);
    code = command->run(&ctl, argc, argv);
    att_close(ctl.client);
    return att_finish_output(CTL_PROGRAM, code);
}
