/* The charts of attninspect report: SVG, into a stream of HTML. Colours come from the page's style sheet.
 *
 * Thread rule: as stdio. Nothing is kept. */
#ifndef ATT_ATTNINSPECT_REPORT_SVG_H
#define ATT_ATTNINSPECT_REPORT_SVG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Text with &, <, > and quotes escaped. */
void svg_text(FILE *to, const char *text);

/* A histogram of `count` finite numbers, with their median marked. `log`: they are decimal logarithms, and the axis says
 * what they are of. Nothing but a remark when there are none. */
void svg_histogram(FILE *to, const char *label, const char *things, const double *numbers, size_t count, bool log);

enum { SVG_MOST_LAYERS = 8 };

/* Bars over positions [first, last], in layers one above the other; amounts[bar * layers + layer]. */
void svg_bars(FILE *to, const char *label, const char *const *names, size_t layers, const uint64_t *amounts,
              size_t bars, uint64_t first, uint64_t last);

/* A strip: a cell for each of `count` marks, or for groups of them, the darker the more are true. */
void svg_strip(FILE *to, const char *label, const uint8_t *marks, size_t count);

/* Horizontal bars, the longest first: named by a number. */
void svg_ranking(FILE *to, const char *name, const uint32_t *indices, const double *amounts, size_t count);

#endif
