#include "kernel.h"

#include <stdlib.h>
#include <string.h>

static int supports(const struct att_kernel *kernel)
{
#if defined(__x86_64__)
    if (kernel == &att_kernel_avx512)
        return __builtin_cpu_supports("avx512f");
    if (kernel == &att_kernel_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return kernel == &att_kernel_plain;
}

const struct att_kernel *att_kernel_choose(void)
{
    static const struct att_kernel *const kernels[] = {
#if defined(__x86_64__)
        &att_kernel_avx512,
        &att_kernel_avx2,
#endif
        &att_kernel_plain,
    };
    const size_t count = sizeof kernels / sizeof *kernels;
    const char *wanted = getenv("ATTND_ISA");

    for (size_t i = 0; wanted && i < count; i++)
        if (strcmp(kernels[i]->name, wanted) == 0 && supports(kernels[i]))
            return kernels[i];
    for (size_t i = 0; i < count; i++)
        if (supports(kernels[i]))
            return kernels[i];
    return &att_kernel_plain;
}
