/* A library whose initialiser starts CUDA, as plug-ins do that look for devices when they are loaded: the loader's lock is the caller's all the while. */
#include "../zoo/zoo.h"

__attribute__((constructor)) static void begin(void) { zoo_open(); }
