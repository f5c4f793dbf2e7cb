/* Runs the programs under test: attnd on a directory of its own, and others to their end. */
#ifndef ATT_TEST_DAEMON_H
#define ATT_TEST_DAEMON_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum { DAEMON_PATH = 96 };

struct daemon {
    pid_t pid;              /* 0: not running */
    char root[DAEMON_PATH]; /* temporary; everything below is in it */
    char dir[DAEMON_PATH + 16];
    char socket[DAEMON_PATH + 16];
    char log[DAEMON_PATH + 16]; /* what attnd says on stderr, appended */
};

/* Makes the temporary root; starts nothing. Aborts when it cannot. */
void daemon_init(struct daemon *daemon);

/* Kills a running daemon and removes the root, unless ATT_TEST_KEEP is set. */
void daemon_release(struct daemon *daemon);

/* Starts attnd --dir --socket and these arguments (NULL-terminated; NULL: none), and waits for its ready line.
 * False, with the end of its log printed, when it ends or is not ready after a minute. It dies with the caller. */
bool daemon_start(struct daemon *daemon, const char *const *arguments);

/* The same on the arrays in its root (daemon_write_arrays), a few arguments at most. */
bool daemon_start_new(struct daemon *daemon, const char *const *arguments);

/* Sends the signal and waits for the end. The wait status; -1 when it has not ended after a minute (then killed). */
int daemon_stop(struct daemon *daemon, int signal);

/* Writes Q.npy, K.npy, V.npy into the root: normal numbers from this seed. */
void daemon_write_arrays(const struct daemon *daemon, unsigned n_q, unsigned n_k, unsigned d, unsigned d_v,
                         unsigned long seed);

/* Runs build/NAME with these arguments to its end; its standard output and errors go into ret_text (may be NULL). The
 * exit code, or 128 + signal: SIGALRM when it has not ended after a minute. */
int daemon_run(const char *name, const char *const *arguments, char *ret_text, size_t size);

/* The path of a program under test. */
void daemon_program(const char *name, char *ret_path, size_t size);

/* Whether it has been built. */
bool daemon_has(const char *name);

/* CPU time that a process has used so far, in clock ticks; -1 when there is none. */
long daemon_cpu_ticks(pid_t pid);

#endif
