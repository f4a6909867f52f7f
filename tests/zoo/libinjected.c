/* Another tool's injected library: the driver loads it at cuInit where CUDA_INJECTION64_PATH names it. */
#include <stdio.h>

int InitializeInjection(void) {
    printf("the other tool was injected\n");
    fflush(stdout);
    return 1;
}
