/* Writes .npy files, good and bad ones, for shell tests: mknpy FILE TYPE ORDER ROWS COLUMNS [PATTERN]
 * TYPE: f4 f8 i4 ...; ORDER: C or F; PATTERN: ramp (default), zero, nan, inf, or a number for every element. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double element(const char *pattern, size_t i, size_t count)
{
    if (strcmp(pattern, "ramp") == 0)
        return (double)(i % 17) / 16 - 0.5;
    if (strcmp(pattern, "zero") == 0)
        return 0;
    if (strcmp(pattern, "nan") == 0)
        return i == count / 2 ? NAN : 0.25;
    if (strcmp(pattern, "inf") == 0)
        return i == count / 2 ? INFINITY : 0.25;
    return atof(pattern);
}

static int write_element(FILE *file, const char *type, double number)
{
    float single = (float)number;
    int32_t integer = isfinite(number) ? (int32_t)number : 0;
    if (strcmp(type, "f8") == 0)
        return fwrite(&number, sizeof number, 1, file) == 1;
    if (strcmp(type, "i4") == 0)
        return fwrite(&integer, sizeof integer, 1, file) == 1;
    return fwrite(&single, sizeof single, 1, file) == 1;
}

int main(int count, char **arguments)
{
    if (count < 6 || count > 7) {
        fprintf(stderr, "usage: mknpy FILE TYPE ORDER ROWS COLUMNS [PATTERN]\n");
        return 2;
    }
    const char *type = arguments[2], *pattern = count > 6 ? arguments[6] : "ramp";
    size_t rows = strtoull(arguments[4], NULL, 10), columns = strtoull(arguments[5], NULL, 10);
    char shape[64], header[128];
    if (columns == 0)
        snprintf(shape, sizeof shape, "(%zu,)", rows);
    else
        snprintf(shape, sizeof shape, "(%zu, %zu)", rows, columns);
    memset(header, ' ', sizeof header);
    memcpy(header, "\x93NUMPY\x01\x00\x76\x00", 10);
    int length = snprintf(header + 10, sizeof header - 10, "{'descr': '<%s', 'fortran_order': %s, 'shape': %s, }", type,
                          arguments[3][0] == 'F' ? "True" : "False", shape);
    header[10 + length] = ' ';
    header[sizeof header - 1] = '\n';
    FILE *file = fopen(arguments[1], "wb");
    if (!file || fwrite(header, 1, sizeof header, file) != sizeof header) {
        perror(arguments[1]);
        return 1;
    }
    size_t elements = rows * (columns ? columns : 1);
    for (size_t i = 0; i < elements; i++)
        if (!write_element(file, type, element(pattern, i, elements)))
            return 1;
    return fclose(file) == 0 ? 0 : 1;
}
