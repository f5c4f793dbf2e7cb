/* heatmap: the attention weights of some rows and keys as a PNG picture, on a logarithmic scale of colours. */
#include "attninspect_weights.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef ATTND_HAVE_PNG
#include <png.h>

enum {
    MOST_WIDE = 1000, /* pixels of the weights themselves */
    MOST_HIGH = 700,
    LARGEST_CELL = 24, /* pixels */
    DECADES = 6,       /* of the scale */
    LEFT = 110,
    TOP = 60,
    RIGHT = 130,
    BOTTOM = 70,
    LEAST_WIDE = 360, /* for the title */
    LEAST_HIGH = 160,
    GLYPH = 5,
    ADVANCE = 12 /* a character's width at twice the font's size */
};

/* Five columns of eight pixels for each character from space to '~'; the lowest bit is the top. */
static const uint8_t font[][GLYPH] = {
    {0, 0, 0, 0, 0},
    {0, 0, 0x5f, 0, 0},
    {0, 7, 0, 7, 0},
    {0x14, 0x7f, 0x14, 0x7f, 0x14},
    {0x24, 0x2a, 0x7f, 0x2a, 0x12},
    {0x23, 0x13, 0x08, 0x64, 0x62},
    {0x36, 0x49, 0x56, 0x20, 0x50},
    {0, 0, 7, 0, 0},
    {0, 0x1c, 0x22, 0x41, 0},
    {0, 0x41, 0x22, 0x1c, 0},
    {0x2a, 0x1c, 0x7f, 0x1c, 0x2a},
    {0x08, 0x08, 0x3e, 0x08, 0x08},
    {0, 0xa0, 0x60, 0, 0},
    {0x08, 0x08, 0x08, 0x08, 0x08},
    {0, 0x60, 0x60, 0, 0},
    {0x20, 0x10, 0x08, 0x04, 0x02},
    {0x3e, 0x51, 0x49, 0x45, 0x3e},
    {0, 0x42, 0x7f, 0x40, 0},
    {0x42, 0x61, 0x51, 0x49, 0x46},
    {0x21, 0x41, 0x45, 0x4b, 0x31},
    {0x18, 0x14, 0x12, 0x7f, 0x10},
    {0x27, 0x45, 0x45, 0x45, 0x39},
    {0x3c, 0x4a, 0x49, 0x49, 0x30},
    {0x01, 0x71, 0x09, 0x05, 0x03},
    {0x36, 0x49, 0x49, 0x49, 0x36},
    {0x06, 0x49, 0x49, 0x29, 0x1e},
    {0, 0x36, 0x36, 0, 0},
    {0, 0x56, 0x36, 0, 0},
    {0x08, 0x14, 0x22, 0x41, 0},
    {0x14, 0x14, 0x14, 0x14, 0x14},
    {0, 0x41, 0x22, 0x14, 0x08},
    {0x02, 0x01, 0x59, 0x09, 0x06},
    {0x3e, 0x41, 0x5d, 0x59, 0x4e},
    {0x7e, 0x11, 0x11, 0x11, 0x7e},
    {0x7f, 0x49, 0x49, 0x49, 0x36},
    {0x3e, 0x41, 0x41, 0x41, 0x22},
    {0x7f, 0x41, 0x41, 0x41, 0x3e},
    {0x7f, 0x49, 0x49, 0x49, 0x41},
    {0x7f, 0x09, 0x09, 0x09, 0x01},
    {0x3e, 0x41, 0x41, 0x51, 0x73},
    {0x7f, 0x08, 0x08, 0x08, 0x7f},
    {0, 0x41, 0x7f, 0x41, 0},
    {0x20, 0x40, 0x41, 0x3f, 0x01},
    {0x7f, 0x08, 0x14, 0x22, 0x41},
    {0x7f, 0x40, 0x40, 0x40, 0x40},
    {0x7f, 0x02, 0x1c, 0x02, 0x7f},
    {0x7f, 0x04, 0x08, 0x10, 0x7f},
    {0x3e, 0x41, 0x41, 0x41, 0x3e},
    {0x7f, 0x09, 0x09, 0x09, 0x06},
    {0x3e, 0x41, 0x51, 0x21, 0x5e},
    {0x7f, 0x09, 0x19, 0x29, 0x46},
    {0x26, 0x49, 0x49, 0x49, 0x32},
    {0x03, 0x01, 0x7f, 0x01, 0x03},
    {0x3f, 0x40, 0x40, 0x40, 0x3f},
    {0x1f, 0x20, 0x40, 0x20, 0x1f},
    {0x3f, 0x40, 0x38, 0x40, 0x3f},
    {0x63, 0x14, 0x08, 0x14, 0x63},
    {0x03, 0x04, 0x78, 0x04, 0x03},
    {0x61, 0x59, 0x49, 0x4d, 0x43},
    {0, 0x7f, 0x41, 0x41, 0},
    {0x02, 0x04, 0x08, 0x10, 0x20},
    {0, 0x41, 0x41, 0x7f, 0},
    {0x04, 0x02, 0x01, 0x02, 0x04},
    {0x40, 0x40, 0x40, 0x40, 0x40},
    {0, 0x03, 0x07, 0x08, 0},
    {0x20, 0x54, 0x54, 0x78, 0x40},
    {0x7f, 0x28, 0x44, 0x44, 0x38},
    {0x38, 0x44, 0x44, 0x44, 0x28},
    {0x38, 0x44, 0x44, 0x28, 0x7f},
    {0x38, 0x54, 0x54, 0x54, 0x18},
    {0, 0x08, 0x7e, 0x09, 0x02},
    {0x18, 0xa4, 0xa4, 0x9c, 0x78},
    {0x7f, 0x08, 0x04, 0x04, 0x78},
    {0, 0x44, 0x7d, 0x40, 0},
    {0x20, 0x40, 0x40, 0x3d, 0},
    {0x7f, 0x10, 0x28, 0x44, 0},
    {0, 0x41, 0x7f, 0x40, 0},
    {0x7c, 0x04, 0x78, 0x04, 0x78},
    {0x7c, 0x08, 0x04, 0x04, 0x78},
    {0x38, 0x44, 0x44, 0x44, 0x38},
    {0xfc, 0x18, 0x24, 0x24, 0x18},
    {0x18, 0x24, 0x24, 0x18, 0xfc},
    {0x7c, 0x08, 0x04, 0x04, 0x08},
    {0x48, 0x54, 0x54, 0x54, 0x24},
    {0x04, 0x04, 0x3f, 0x44, 0x24},
    {0x3c, 0x40, 0x40, 0x20, 0x7c},
    {0x1c, 0x20, 0x40, 0x20, 0x1c},
    {0x3c, 0x40, 0x30, 0x40, 0x3c},
    {0x44, 0x28, 0x10, 0x28, 0x44},
    {0x4c, 0x90, 0x90, 0x90, 0x7c},
    {0x44, 0x64, 0x54, 0x4c, 0x44},
    {0, 0x08, 0x36, 0x41, 0},
    {0, 0, 0x77, 0, 0},
    {0, 0x41, 0x36, 0x08, 0},
    {0x02, 0x01, 0x02, 0x04, 0x02},
};

struct image {
    uint32_t width, height;
    uint8_t *pixels; /* three bytes each */
};

/* A stretch of rows or keys, and how it meets the pixels: several to a pixel, or several pixels to one. */
struct axis {
    uint32_t first, count;
    uint32_t group;  /* this many to a cell */
    uint32_t cells;  /* of the picture */
    uint32_t pixels; /* of a cell */
};

static void set_pixel(struct image *image, uint32_t x, uint32_t y, const uint8_t colour[3])
{
    if (x < image->width && y < image->height)
        memcpy(image->pixels + 3 * ((size_t)y * image->width + x), colour, 3);
}

static void fill(struct image *image, uint32_t x, uint32_t y, uint32_t width, uint32_t height, const uint8_t colour[3])
{
    for (uint32_t dy = 0; dy < height; dy++)
        for (uint32_t dx = 0; dx < width; dx++)
            set_pixel(image, x + dx, y + dy, colour);
}

static void text(struct image *image, uint32_t x, uint32_t y, const char *words)
{
    static const uint8_t black[3] = {20, 20, 20};
    for (; *words; words++, x += ADVANCE) {
        unsigned glyph = *words >= ' ' && *words <= '~' ? (unsigned)(*words - ' ') : '?' - ' ';
        for (uint32_t column = 0; column < GLYPH; column++)
            for (uint32_t row = 0; row < 8; row++)
                if (font[glyph][column] >> row & 1)
                    fill(image, x + 2 * column, y + 2 * row, 2, 2, black);
    }
}

/* From 0 (dark) to 1 (light): even steps look even, also to the colour-blind and in grey (after matplotlib's viridis). */
static void colour_of(double level, uint8_t ret[3])
{
    static const uint8_t stops[][3] = {{68, 1, 84},    {71, 44, 122}, {59, 81, 139},  {44, 113, 142}, {33, 144, 141},
                                       {39, 173, 129}, {92, 200, 99}, {170, 220, 50}, {253, 231, 37}};
    enum { STEPS = sizeof stops / sizeof stops[0] - 1 };
    double at = fmin(fmax(level, 0), 1) * STEPS;
    int step = at >= STEPS ? STEPS - 1 : (int)at;
    for (int i = 0; i < 3; i++)
        ret[i] = (uint8_t)(stops[step][i] + (at - step) * (stops[step + 1][i] - stops[step][i]) + 0.5);
}

static struct axis fit(uint32_t first, uint32_t count, uint32_t most)
{
    struct axis axis = {.first = first, .count = count, .group = (count + most - 1) / most};
    axis.cells = (count + axis.group - 1) / axis.group;
    axis.pixels = most / axis.cells < LARGEST_CELL ? most / axis.cells : LARGEST_CELL;
    return axis;
}

/* The largest weight that falls into each cell. */
static enum att_status collect(struct inspect_view *view, const struct axis *rows, const struct axis *keys,
                               double *cells, struct att_error *error)
{
    double *weights = malloc((view->tokens.count + 1) * sizeof *weights);
    enum att_status status = weights ? ATT_OK : att_fail(error, ATT_ENOMEM, "not enough memory");
    for (uint32_t i = 0; i < rows->count && status == ATT_OK; i++) {
        status = inspect_scores(view, rows->first + i, weights, error);
        if (status != ATT_OK || inspect_softmax(weights, view->tokens.count) < 0)
            continue;
        double *line = cells + (size_t)(i / rows->group) * keys->cells;
        for (uint32_t j = 0; j < keys->count; j++)
            line[j / keys->group] = fmax(line[j / keys->group], weights[keys->first + j]);
    }
    free(weights);
    return status;
}

/* About so many labels along an axis, at round numbers; step 1, 2 or 5 times a power of ten. */
static uint32_t label_step(uint32_t count, uint32_t labels)
{
    uint32_t step = 1;
    for (int i = 0; count / step > labels; i++)
        step = i % 3 == 1 ? step / 2 * 5 : step * 2;
    return step;
}

static void draw_axes(struct image *image, const struct axis *rows, const struct axis *keys)
{
    static const uint8_t grey[3] = {90, 90, 90};
    char label[32];
    uint32_t bottom = TOP + rows->cells * rows->pixels;
    uint32_t step = label_step(keys->count, keys->cells * keys->pixels / 90 + 1);
    for (uint32_t j = (keys->first + step - 1) / step * step; j < keys->first + keys->count; j += step) {
        uint32_t x = LEFT + (j - keys->first) / keys->group * keys->pixels + keys->pixels / 2;
        snprintf(label, sizeof label, "%" PRIu32, j);
        fill(image, x, bottom, 2, 6, grey);
        text(image, x + 1 - (uint32_t)strlen(label) * ADVANCE / 2, bottom + 10, label);
    }
    text(image, LEFT, bottom + 40, "key (token)");
    step = label_step(rows->count, rows->cells * rows->pixels / 30 + 1);
    for (uint32_t i = (rows->first + step - 1) / step * step; i < rows->first + rows->count; i += step) {
        uint32_t y = TOP + (i - rows->first) / rows->group * rows->pixels + rows->pixels / 2;
        snprintf(label, sizeof label, "%" PRIu32, i);
        fill(image, LEFT - 6, y, 6, 2, grey);
        uint32_t width = (uint32_t)strlen(label) * ADVANCE;
        text(image, LEFT - 8 > width ? LEFT - 8 - width : 0, y > 7 ? y - 7 : 0, label);
    }
    text(image, 4, TOP - 24, "row of Q");
}

static void draw_scale(struct image *image, uint32_t x, uint32_t height, double top)
{
    char label[32];
    uint8_t colour[3];
    for (uint32_t y = 0; y < height; y++) {
        colour_of(1 - (double)y / height, colour);
        fill(image, x, TOP + y, 18, 1, colour);
    }
    for (int decade = 0; decade <= DECADES; decade++) {
        uint32_t y = TOP + (uint32_t)((double)decade / DECADES * (height - 1));
        int power = (int)top - decade;
        snprintf(label, sizeof label, power ? "1e%d" : "1", power);
        text(image, x + 26, y > 7 ? y - 7 : 0, label);
    }
}

static void draw(struct image *image, const struct inspect_view *view, const struct axis *rows, const struct axis *keys,
                 const double *cells)
{
    char title[120];
    uint8_t colour[3];
    uint32_t high = rows->cells * rows->pixels;
    uint32_t wide = keys->cells * keys->pixels;
    double most = 0;
    for (size_t i = 0; i < (size_t)rows->cells * keys->cells; i++)
        most = fmax(most, cells[i]);
    double top = most > 0 ? fmin(0, ceil(log10(most) - 1e-9)) : 0;
    memset(image->pixels, 255, 3 * (size_t)image->width * image->height);
    for (uint32_t i = 0; i < rows->cells; i++)
        for (uint32_t j = 0; j < keys->cells; j++) {
            double weight = cells[(size_t)i * keys->cells + j];
            colour_of(weight > 0 ? 1 + (log10(weight) - top) / DECADES : 0, colour);
            fill(image, LEFT + j * keys->pixels, TOP + i * rows->pixels, keys->pixels, rows->pixels, colour);
        }
    if (view->what.snapshot.shape.heads > 1)
        snprintf(title, sizeof title, "attention weights, head %" PRIu32, view->head);
    else
        snprintf(title, sizeof title, "attention weights");
    text(image, LEFT, 6, title);
    if (rows->group > 1 || keys->group > 1) {
        snprintf(title, sizeof title, "largest of %" PRIu32 " x %" PRIu32, rows->group, keys->group);
        text(image, LEFT + 4 * ADVANCE, TOP - 24, title);
    }
    draw_axes(image, rows, keys);
    draw_scale(image, LEFT + wide + 24, high < LEAST_HIGH ? LEAST_HIGH : high, top);
}

static enum att_status write_png(const struct inspect *inspect, const struct image *image, const char *path,
                                 struct att_error *error)
{
    png_image png = {.version = PNG_IMAGE_VERSION,
                     .width = image->width,
                     .height = image->height,
                     .format = PNG_FORMAT_RGB};
    FILE *file = inspect_begin_file(inspect, path, error);
    if (!file)
        return error->status;
    errno = 0;
    bool well = png_image_write_to_stdio(&png, file, 0, image->pixels, 0, NULL) != 0;
    return inspect_end_file(file, path, well ? NULL : errno ? strerror(errno) : png.message, error);
}

static enum att_status paint(struct inspect *inspect, struct inspect_view *view, const char *path,
                             struct att_error *error)
{
    const struct inspect_range *rows_wanted = &inspect->rows;
    const struct inspect_range *keys_wanted = &inspect->keys;
    uint32_t rows_end = rows_wanted->given ? rows_wanted->end : view->what.snapshot.shape.n_q;
    uint32_t keys_end = keys_wanted->given ? keys_wanted->end : view->tokens.count;
    if (rows_end > view->what.snapshot.shape.n_q)
        return att_fail(error, ATT_ERANGE, "--rows: row %" PRIu32 " is outside Q, whose rows are 0..%" PRIu32,
                        rows_end - 1, view->what.snapshot.shape.n_q - 1);
    if (view->tokens.count == 0)
        return att_fail(error, ATT_EMPTY, "there is no token, so there is nothing to show");
    if (keys_end > view->tokens.count)
        return att_fail(error, ATT_ERANGE, "--keys: token %" PRIu32 " is not there: the highest is %" PRIu32,
                        keys_end - 1, view->tokens.count - 1);
    struct axis rows = fit(rows_wanted->begin, rows_end - rows_wanted->begin, MOST_HIGH);
    struct axis keys = fit(keys_wanted->begin, keys_end - keys_wanted->begin, MOST_WIDE);
    uint32_t wide = keys.cells * keys.pixels;
    uint32_t high = rows.cells * rows.pixels;
    struct image image = {.width = LEFT + (wide < LEAST_WIDE ? LEAST_WIDE : wide) + RIGHT,
                          .height = TOP + (high < LEAST_HIGH ? LEAST_HIGH : high) + BOTTOM};
    double *cells = calloc((size_t)rows.cells * keys.cells, sizeof *cells);
    image.pixels = malloc(3 * (size_t)image.width * image.height);
    enum att_status status = cells && image.pixels ? collect(view, &rows, &keys, cells, error)
                                                   : att_fail(error, ATT_ENOMEM, "not enough memory");
    if (status == ATT_OK) {
        draw(&image, view, &rows, &keys, cells);
        status = write_png(inspect, &image, path, error);
    }
    free(image.pixels);
    free(cells);
    return status;
}

int inspect_heatmap(struct inspect *inspect, char **argv)
{
    struct inspect_view view;
    struct att_error error = {0};
    enum att_status status = inspect_view_open(inspect, &view, &error);
    if (status == ATT_OK)
        status = paint(inspect, &view, argv[1], &error);
    inspect_view_release(&view);
    return status == ATT_OK ? ATT_EXIT_OK
                            : att_failure(INSPECT_PROGRAM, "%s: heatmap: %s", inspect->directory, error.text);
}

#else

int inspect_heatmap(struct inspect *inspect, char **argv)
{
    (void)inspect, (void)argv;
    return att_failure(INSPECT_PROGRAM, "heatmap: this attninspect was built without libpng: install libpng-dev and "
                                        "build it again");
}

#endif
