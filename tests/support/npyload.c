#include "npyload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Noreturn void give_up(const char *path, const char *why)
{
    fprintf(stderr, "%s: %s\n", path, why);
    abort();
}

static size_t element_size(const char *path, const char *type)
{
    if (type[1] == 'f' || type[1] == 'i' || type[1] == 'u')
        if (type[0] == '<' || (type[0] == '|' && type[2] == '1'))
            return (size_t)atoi(type + 2);
    give_up(path, "the test loader does not know this dtype");
}

static void parse_header(const char *path, const char *header, struct npy *npy)
{
    const char *type = strstr(header, "'descr': '");
    const char *shape = strstr(header, "'shape': (");
    if (!type || !shape || !strstr(header, "'fortran_order': False"))
        give_up(path, "the test loader does not know this header");
    type += strlen("'descr': '");
    size_t length = strcspn(type, "'");
    if (length >= sizeof npy->type)
        give_up(path, "the test loader does not know this dtype");
    memcpy(npy->type, type, length);
    shape += strlen("'shape': (");
    char *end = NULL;
    npy->rows = npy->columns = 1;
    if (*shape == ')')
        return;
    npy->rows = strtoull(shape, &end, 10);
    while (end[0] == ',' && end[1] == ' ')
        npy->columns *= strtoull(end + 1, &end, 10);
}

struct npy npy_load(const char *directory, const char *name)
{
    char path[4096], header[4096] = {0};
    unsigned char start[12];
    struct npy npy = {0};
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "rb");
    if (!file)
        give_up(path, "cannot be opened");
    if (fread(start, 1, 10, file) != 10 || memcmp(start, "\x93NUMPY", 6) != 0)
        give_up(path, "is no .npy file");
    size_t length = start[8] + 256u * start[9];
    if (start[6] > 1) {
        if (fread(start + 10, 1, 2, file) != 2)
            give_up(path, "is truncated");
        length += (size_t)65536 * start[10] + (size_t)16777216 * start[11];
    }
    if (length >= sizeof header || fread(header, 1, length, file) != length)
        give_up(path, "has a bad header");
    parse_header(path, header, &npy);
    size_t bytes = npy.rows * npy.columns * element_size(path, npy.type);
    npy.data = malloc(bytes ? bytes : 1);
    if (!npy.data || fread(npy.data, 1, bytes, file) != bytes)
        give_up(path, "is truncated");
    fclose(file);
    return npy;
}

void npy_release(struct npy *npy)
{
    free(npy->data);
    *npy = (struct npy){0};
}

const float *npy_floats(const struct npy *npy)
{
    if (strcmp(npy->type, "<f4") != 0)
        give_up(npy->type, "is not float32");
    return npy->data;
}

const double *npy_doubles(const struct npy *npy)
{
    if (strcmp(npy->type, "<f8") != 0)
        give_up(npy->type, "is not float64");
    return npy->data;
}

int64_t npy_integer(const struct npy *npy, size_t i)
{
    const char *type = npy->type + 1;
    if (strcmp(type, "i4") == 0)
        return ((const int32_t *)npy->data)[i];
    if (strcmp(type, "i8") == 0)
        return ((const int64_t *)npy->data)[i];
    if (strcmp(type, "i1") == 0)
        return ((const int8_t *)npy->data)[i];
    if (strcmp(type, "u1") == 0)
        return ((const uint8_t *)npy->data)[i];
    if (strcmp(type, "u4") == 0)
        return ((const uint32_t *)npy->data)[i];
    give_up(npy->type, "is not an integer type");
}

void npy_save(const char *path, const float *data, size_t rows, size_t columns)
{
    char header[128];
    memset(header, ' ', sizeof header);
    memcpy(header, "\x93NUMPY\x01\x00\x76\x00", 10);
    int length = snprintf(header + 10, sizeof header - 10,
                          "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %zu), }", rows, columns);
    header[10 + length] = ' ';
    header[sizeof header - 1] = '\n';
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(header, 1, sizeof header, file) != sizeof header ||
        fwrite(data, sizeof *data, rows * columns, file) != rows * columns || fclose(file) != 0)
        give_up(path, "cannot be written");
}
