#include "redis.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

enum { START_TRIES = 500 };

static bool installed(void)
{
    return access("/usr/bin/redis-server", X_OK) == 0 && access("/usr/bin/redis-benchmark", X_OK) == 0;
}

static _Noreturn void become_redis(const struct redis *redis)
{
    const int null = open("/dev/null", O_WRONLY);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(null, 1);
    dup2(null, 2);
    execl("/usr/bin/redis-server", "redis-server", "--port", "0", "--unixsocket", redis->socket, "--dir", redis->root,
          "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--daemonize", "no", (char *)NULL);
    _exit(127);
}

bool redis_start(struct redis *redis, const char *root)
{
    if (!installed())
        return false;
    snprintf(redis->root, sizeof redis->root, "%s/redis", root);
    snprintf(redis->socket, sizeof redis->socket, "%s/r", redis->root);
    if (mkdir(redis->root, 0700) != 0)
        bench_die("%s: %s", redis->root, strerror(errno));
    fflush(NULL);
    redis->pid = fork();
    if (redis->pid < 0)
        bench_die("fork: %s", strerror(errno));
    if (redis->pid == 0)
        become_redis(redis);
    for (int i = 0; i < START_TRIES && access(redis->socket, F_OK) != 0; i++)
        usleep(10000);
    if (access(redis->socket, F_OK) != 0)
        bench_die("redis-server has not opened %s", redis->socket);
    return true;
}

void redis_stop(struct redis *redis)
{
    kill(redis->pid, SIGKILL);
    waitpid(redis->pid, NULL, 0);
}

double redis_sets(const struct redis *redis, int clients, int pipeline, int count)
{
    char command[300], line[200];
    double rate = 0;

    snprintf(command, sizeof command,
             "/usr/bin/redis-benchmark -s %s -t set -n %d -c %d -P %d -d 4 -r 10000 --csv 2>/dev/null", redis->socket,
             count, clients, pipeline);
    FILE *output = popen(command, "re");
    while (output && fgets(line, sizeof line, output)) /* "SET","302114.80",... */
        if (strncmp(line, "\"SET\",\"", 7) == 0)
            rate = strtod(line + 7, NULL);
    if (!output || pclose(output) != 0 || !(rate > 0))
        bench_die("redis-benchmark has failed");
    return rate;
}
