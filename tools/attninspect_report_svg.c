#include "attninspect_report_svg.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 640, HEIGHT = 220, LEFT = 60, RIGHT = 15, TOP = 14, BOTTOM = 42, BINS = 40, TICKS = 6 };

void svg_text(FILE *to, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '&':
            fputs("&amp;", to);
            break;
        case '<':
            fputs("&lt;", to);
            break;
        case '>':
            fputs("&gt;", to);
            break;
        case '"':
            fputs("&quot;", to);
            break;
        default:
            fputc(*text, to);
        }
    }
}

static void open_svg(FILE *to, int height, const char *label)
{
    fprintf(to, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", WIDTH, height);
    svg_text(to, label);
    fputs("\">\n", to);
}

static void put_label(FILE *to, double x, double y, const char *anchor, const char *text)
{
    fprintf(to, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", x, y, anchor);
    svg_text(to, text);
    fputs("</text>\n", to);
}

/* A round number near `range` / TICKS: 1, 2 or 5 times a power of ten. */
static double tick_step(double range)
{
    double rough = range / TICKS;
    double power = pow(10, floor(log10(rough)));
    double ratio = rough / power;
    return power * (ratio < 1.5 ? 1 : ratio < 3.5 ? 2 : ratio < 7.5 ? 5 : 10);
}

static void x_axis(FILE *to, double low, double high, bool log, const char *label)
{
    const double wide = WIDTH - LEFT - RIGHT;
    double step = tick_step(high - low);
    char text[40];
    if (log && step < 1)
        step = high - low > 1 ? 1 : step;
    fprintf(to, "<path class=\"axis\" d=\"M%d %dH%d\"/>\n", LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT);
    for (double at = ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step) {
        double x = LEFT + (at - low) / (high - low) * wide;
        if (log)
            snprintf(text, sizeof text, "%.3g", pow(10, at));
        else
            snprintf(text, sizeof text, "%.6g", fabs(at) < step * 1e-6 ? 0 : at);
        fprintf(to, "<path class=\"axis\" d=\"M%.1f %dv5\"/>\n", x, HEIGHT - BOTTOM);
        put_label(to, x, HEIGHT - BOTTOM + 18, "middle", text);
    }
    put_label(to, LEFT + wide / 2, HEIGHT - 6, "middle", label);
}

static void y_axis(FILE *to, double most, const char *label)
{
    const double high = HEIGHT - TOP - BOTTOM;
    double step = fmax(tick_step(most), 1);
    char text[40];
    for (double at = 0; at <= most * (1 + 1e-9); at += step) {
        double y = HEIGHT - BOTTOM - at / most * high;
        snprintf(text, sizeof text, "%.6g", at);
        fprintf(to, "<path class=\"grid\" d=\"M%d %.1fH%d\"/>\n", LEFT, y, WIDTH - RIGHT);
        put_label(to, LEFT - 6, y + 4, "end", text);
    }
    fprintf(to, "<text transform=\"translate(12 %d) rotate(-90)\" text-anchor=\"middle\">", HEIGHT / 2 - TOP);
    svg_text(to, label);
    fputs("</text>\n", to);
}

static int compare_numbers(const void *left, const void *right)
{
    double a = *(const double *)left;
    double b = *(const double *)right;
    return (a > b) - (a < b);
}

static double median(const double *numbers, size_t count)
{
    double *sorted = malloc(count * sizeof *sorted);
    if (!sorted)
        return numbers[0];
    memcpy(sorted, numbers, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, compare_numbers);
    double middle = sorted[count / 2];
    free(sorted);
    return middle;
}

void svg_histogram(FILE *to, const char *label, const char *things, const double *numbers, size_t count, bool log)
{
    uint64_t bins[BINS] = {0};
    double low = INFINITY;
    double high = -INFINITY;
    double most = 1;
    if (count == 0) {
        fputs("<p>There is nothing to show.</p>\n", to);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        low = fmin(low, numbers[i]);
        high = fmax(high, numbers[i]);
    }
    if (high - low < 1e-9 * fmax(fabs(high), 1)) { /* all the same */
        double around = fmax(fabs(high), 1) * 0.05;
        low -= around;
        high += around;
    }
    for (size_t i = 0; i < count; i++) {
        size_t bin = (size_t)((numbers[i] - low) / (high - low) * BINS);
        most = fmax(most, (double)++bins[bin < BINS ? bin : BINS - 1]);
    }
    const double wide = WIDTH - LEFT - RIGHT;
    const double tall = HEIGHT - TOP - BOTTOM;
    open_svg(to, HEIGHT, label);
    y_axis(to, most, things);
    for (int i = 0; i < BINS; i++) {
        double height = (double)bins[i] / most * tall;
        if (bins[i])
            fprintf(to, "<rect class=\"c0\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n",
                    LEFT + i * wide / BINS, HEIGHT - BOTTOM - height, wide / BINS - 1, height);
    }
    double x = LEFT + (median(numbers, count) - low) / (high - low) * wide;
    fprintf(to, "<path class=\"mark\" d=\"M%.1f %dV%d\"/>\n", x, TOP, HEIGHT - BOTTOM);
    put_label(to, x > WIDTH - 90 ? x - 4 : x + 4, TOP, x > WIDTH - 90 ? "end" : "start", "median");
    x_axis(to, low, high, log, label);
    fputs("</svg>\n", to);
}

void svg_bars(FILE *to, const char *label, const char *const *names, size_t layers, const uint64_t *amounts,
              size_t bars, uint64_t first, uint64_t last)
{
    const double wide = WIDTH - LEFT - RIGHT;
    const double tall = HEIGHT - TOP - BOTTOM;
    double most = 1;
    for (size_t bar = 0; bar < bars; bar++) {
        uint64_t sum = 0;
        for (size_t layer = 0; layer < layers; layer++)
            sum += amounts[bar * layers + layer];
        most = fmax(most, (double)sum);
    }
    fputs("<p class=\"legend\">", to);
    for (size_t layer = 0; layer < layers; layer++) {
        uint64_t sum = 0;
        for (size_t bar = 0; bar < bars; bar++)
            sum += amounts[bar * layers + layer];
        if (sum)
            fprintf(to, "<span class=\"b%zu\">&#9632;</span> %s: %" PRIu64 " &nbsp; ", layer, names[layer], sum);
    }
    fputs("</p>\n", to);
    open_svg(to, HEIGHT, label);
    y_axis(to, most, "updates");
    for (size_t bar = 0; bar < bars; bar++) {
        double y = HEIGHT - BOTTOM;
        for (size_t layer = 0; layer < layers; layer++) {
            double height = (double)amounts[bar * layers + layer] / most * tall;
            y -= height;
            if (height > 0)
                fprintf(to, "<rect class=\"c%zu\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n", layer,
                        LEFT + (double)bar * wide / (double)bars, y, wide / (double)bars - 1, height);
        }
    }
    x_axis(to, (double)first, (double)last > (double)first ? (double)last : (double)first + 1, false, label);
    fputs("</svg>\n", to);
}

void svg_strip(FILE *to, const char *label, const uint8_t *marks, size_t count)
{
    enum { STRIP_HEIGHT = 60, MOST_CELLS = 280 };
    const double wide = WIDTH - LEFT - RIGHT;
    size_t group = (count + MOST_CELLS - 1) / MOST_CELLS;
    size_t cells = (count + group - 1) / group;
    char text[40];
    open_svg(to, STRIP_HEIGHT, label);
    fprintf(to, "<rect class=\"frame\" x=\"%d\" y=\"4\" width=\"%.1f\" height=\"24\"/>\n", LEFT, wide);
    for (size_t cell = 0; cell < cells; cell++) {
        size_t end = (cell + 1) * group < count ? (cell + 1) * group : count;
        size_t set = 0;
        for (size_t i = cell * group; i < end; i++)
            set += marks[i];
        if (set)
            fprintf(to, "<rect class=\"c0 crisp\" x=\"%.2f\" y=\"4\" width=\"%.2f\" height=\"24\" opacity=\"%.2f\"/>\n",
                    LEFT + (double)cell * wide / (double)cells, wide / (double)cells,
                    0.25 + 0.75 * (double)set / (double)(end - cell * group));
    }
    put_label(to, LEFT, 42, "start", "0");
    snprintf(text, sizeof text, "%zu", count - 1);
    put_label(to, WIDTH - RIGHT, 42, "end", text);
    put_label(to, LEFT + wide / 2, 56, "middle", label);
    fputs("</svg>\n", to);
}

void svg_ranking(FILE *to, const char *name, const uint32_t *indices, const double *amounts, size_t count)
{
    enum { LINE = 20 };
    const double wide = WIDTH - 120 - 90;
    char text[60];
    open_svg(to, (int)count * LINE + 6, name);
    for (size_t i = 0; i < count; i++) {
        int y = (int)i * LINE + 4;
        snprintf(text, sizeof text, "%s %" PRIu32, name, indices[i]);
        put_label(to, 112, y + 13, "end", text);
        fprintf(to, "<rect class=\"c0\" x=\"120\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>\n", y,
                fmax(1, amounts[i] / amounts[0] * wide), LINE - 5);
        snprintf(text, sizeof text, "%.4g", amounts[i]);
        put_label(to, 126 + amounts[i] / amounts[0] * wide, y + 13, "start", text);
    }
    fputs("</svg>\n", to);
}
