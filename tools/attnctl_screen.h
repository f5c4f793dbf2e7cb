/* A screen of text: lines that are composed, clipped to the terminal, and written at once. Plain ANSI sequences, nothing
 * of terminfo. When standard output is no terminal, the same lines without any sequence.
 *
 * Thread rule: one thread, one screen at a time (the terminal's settings are restored by a signal handler too). */
#ifndef ATT_ATTNCTL_SCREEN_H
#define ATT_ATTNCTL_SCREEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum screen_style { SCREEN_PLAIN, SCREEN_BOLD, SCREEN_DIM, SCREEN_REVERSE, SCREEN_ALARM };

enum { SCREEN_MOST_COLUMNS = 500, SCREEN_MOST_ROWS = 200, SCREEN_BYTES = 64 * 1024 };

struct screen {
    bool live;    /* standard output is a terminal */
    bool styles;  /* it understands ANSI sequences, and NO_COLOR is not set */
    bool unicode; /* the locale's character set is UTF-8 */
    uint32_t columns, rows;
    uint32_t row, column; /* where the next character goes */
    size_t length;
    char bytes[SCREEN_BYTES];
};

/* Looks at the terminal and takes it over if there is one: another page, no echo, no cursor. */
void screen_open(struct screen *screen);

/* Puts the terminal back. */
void screen_close(struct screen *screen);

/* A character that was typed, or 0 after that many milliseconds or when a signal came. */
int screen_key(const struct screen *screen, int timeout_ms);

/* Whether the terminal was resized since the last call. */
bool screen_resized(void);

/* Whether a signal asked for the end. */
bool screen_ended(void);

/* Begins the picture anew, in the size that the terminal has now. */
void screen_begin(struct screen *screen);

/* Text into the line, what fits: ASCII only. */
void screen_put(struct screen *screen, enum screen_style style, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Moves to a column of the line, if it is not beyond it. */
void screen_to(struct screen *screen, uint32_t column);

/* One cell whose height says `part` of 8: 0..8. */
void screen_cell(struct screen *screen, unsigned part);

/* The next line. */
void screen_line(struct screen *screen);

/* Writes the picture. False: nobody can read it any more. */
bool screen_show(struct screen *screen);

#endif
