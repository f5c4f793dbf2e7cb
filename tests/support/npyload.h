/* Reads and writes the simplest .npy files, for tests: little endian, C order, up to three dimensions. */
#ifndef ATT_TEST_NPYLOAD_H
#define ATT_TEST_NPYLOAD_H

#include <stddef.h>
#include <stdint.h>

struct npy {
    char type[8];         /* "<f4", "<f8", "<i4", "<i8", "|u1", ... */
    size_t rows, columns; /* columns: the product of all dimensions but the first */
    void *data;           /* malloc'd */
};

/* Loads directory/name. Aborts with a message when it cannot. */
struct npy npy_load(const char *directory, const char *name);
void npy_release(struct npy *npy);

const float *npy_floats(const struct npy *npy);       /* aborts unless float32 */
const double *npy_doubles(const struct npy *npy);     /* aborts unless float64 */
int64_t npy_integer(const struct npy *npy, size_t i); /* of an int32, int64, uint8 or int8 array */

/* Writes a float32 matrix. Aborts when it cannot. */
void npy_save(const char *path, const float *data, size_t rows, size_t columns);

#endif
