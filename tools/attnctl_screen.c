#include "attnctl_screen.h"

#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

enum { DEFAULT_COLUMNS = 80, DEFAULT_ROWS = 24 };

static const char enter[] = "\x1b[?1049h\x1b[?25l"; /* the other page, no cursor */
static const char leave[] = "\x1b[?25h\x1b[?1049l";

static volatile sig_atomic_t resized, ended; /* set by the handler, which is all that volatile is for here */
static struct termios before;
static bool changed; /* `before` is to be restored */

static void on_signal(int number)
{
    if (number == SIGWINCH)
        resized = 1;
    else
        ended = 1;
}

static void catch_signals(void)
{
    static const int numbers[] = {SIGWINCH, SIGINT, SIGTERM, SIGHUP, SIGPIPE};
    struct sigaction action = {.sa_handler = on_signal};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        sigaction(numbers[i], &action, NULL);
}

static bool write_all(const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t written = write(STDOUT_FILENO, bytes, length);
        if (written < 0 && errno != EINTR)
            return false;
        if (written > 0) {
            bytes += written;
            length -= (size_t)written;
        }
    }
    return true;
}

void screen_open(struct screen *screen)
{
    const char *term = getenv("TERM");
    const char *no_color = getenv("NO_COLOR");
    struct termios now;
    screen->live = isatty(STDOUT_FILENO) && term && strcmp(term, "dumb") != 0;
    screen->styles = screen->live && !(no_color && *no_color);
    setlocale(LC_CTYPE, "");
    screen->unicode = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    if (!screen->live)
        return;
    catch_signals();
    if (isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &before) == 0) {
        now = before;
        now.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        now.c_cc[VMIN] = 1;
        now.c_cc[VTIME] = 0;
        now.c_cc[VSUSP] = _POSIX_VDISABLE; /* else the shell would get the terminal as it is now */
        changed = tcsetattr(STDIN_FILENO, TCSANOW, &now) == 0;
    }
    write_all(enter, sizeof enter - 1);
}

void screen_close(struct screen *screen)
{
    if (!screen->live)
        return;
    write_all(leave, sizeof leave - 1);
    if (changed)
        tcsetattr(STDIN_FILENO, TCSANOW, &before);
    changed = false;
}

int screen_key(const struct screen *screen, int timeout_ms)
{
    bool listens = screen->live && isatty(STDIN_FILENO);
    struct pollfd poller = {.fd = listens ? STDIN_FILENO : -1, .events = POLLIN};
    char key = 0;
    if (poll(&poller, 1, timeout_ms) <= 0)
        return 0;
    if (read(STDIN_FILENO, &key, 1) != 1) {
        ended = 1; /* the terminal has gone */
        return 0;
    }
    return key;
}

bool screen_resized(void)
{
    bool yes = resized != 0;
    resized = 0;
    return yes;
}

bool screen_ended(void)
{
    return ended != 0;
}

static void append(struct screen *screen, const char *bytes, size_t length)
{
    if (length <= SCREEN_BYTES - screen->length) {
        memcpy(screen->bytes + screen->length, bytes, length);
        screen->length += length;
    }
}

static void append_text(struct screen *screen, const char *text)
{
    append(screen, text, strlen(text));
}

void screen_begin(struct screen *screen)
{
    struct winsize size = {0};
    if (screen->live)
        ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    screen->columns = size.ws_col ? size.ws_col : DEFAULT_COLUMNS;
    screen->rows = size.ws_row ? size.ws_row : DEFAULT_ROWS;
    if (screen->columns > SCREEN_MOST_COLUMNS)
        screen->columns = SCREEN_MOST_COLUMNS;
    if (screen->rows > SCREEN_MOST_ROWS)
        screen->rows = SCREEN_MOST_ROWS;
    screen->row = screen->column = 0;
    screen->length = 0;
    if (screen->live)
        append_text(screen, "\x1b[H");
}

/* Whether the line that is composed is still on the terminal. */
static bool visible(const struct screen *screen)
{
    return !screen->live || screen->row < screen->rows;
}

void screen_put(struct screen *screen, enum screen_style style, const char *format, ...)
{
    static const char *const sequences[] = {"", "\x1b[1m", "\x1b[2m", "\x1b[7m", "\x1b[1;31m"};
    char text[SCREEN_MOST_COLUMNS + 1];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    size_t length = strlen(text);
    size_t room = screen->columns - screen->column;
    length = length < room ? length : room;
    if (!visible(screen) || length == 0)
        return;
    bool styled = screen->styles && style != SCREEN_PLAIN;
    if (styled)
        append_text(screen, sequences[style]);
    for (size_t i = 0; i < length; i++) /* what a daemon says must not steer the terminal */
        append(screen, text[i] >= ' ' && text[i] <= '~' ? &text[i] : "?", 1);
    if (styled)
        append_text(screen, "\x1b[0m");
    screen->column += (uint32_t)length;
}

void screen_to(struct screen *screen, uint32_t column)
{
    if (column > screen->column)
        screen_put(screen, SCREEN_PLAIN, "%*s", (int)(column - screen->column), "");
}

void screen_cell(struct screen *screen, unsigned part)
{
    static const char *const blocks[] = {" ",      "\u2581", "\u2582", "\u2583", "\u2584",
                                         "\u2585", "\u2586", "\u2587", "\u2588"};
    static const char *const letters[] = {" ", ".", ".", ":", "-", "=", "+", "*", "#"};
    part = part < 9 ? part : 8;
    if (!visible(screen) || screen->column >= screen->columns)
        return;
    append_text(screen, screen->unicode ? blocks[part] : letters[part]);
    screen->column++;
}

void screen_line(struct screen *screen)
{
    if (!screen->live)
        append_text(screen, "\n");
    else if (screen->row + 1 < screen->rows) /* a new line below the last would scroll */
        append_text(screen, screen->column < screen->columns ? "\x1b[K\r\n" : "\r\n");
    screen->row++;
    screen->column = 0;
}

bool screen_show(struct screen *screen)
{
    if (screen->live && screen->row < screen->rows)
        append_text(screen, "\x1b[J");
    return write_all(screen->bytes, screen->length);
}
