/* OpenBLAS as fast as it can be, for programs that measure against it: one that is older than the processor may take it
 * for something much older, without its vectors, and any comparison with that would flatter. */
#ifndef ATT_BLAS_CORE_H
#define ATT_BLAS_CORE_H

/* First thing in main. Where OpenBLAS chose narrower kernels than the processor has, and the user asked for none, the
 * program starts itself again with OPENBLAS_CORETYPE set; and once more if that made sgemm slower. */
void att_blas_core_choose(char **arguments);

/* OpenBLAS's name for the kernels in use; where they were asked for, what it would have taken too. A static string. */
const char *att_blas_core(void);

#endif
