/* Scratch memory: two buffers a thread, which grow on demand and are freed when the thread ends. */
#include <pthread.h>
#include <stdlib.h>

#include "kernels.h"

typedef struct {
    void *memory[SCRATCH_USES];
    size_t size[SCRATCH_USES];
} Scratch;

static pthread_key_t scratch_key;
static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;

static void free_scratch(void *held) {
    Scratch *scratch = held;
    for (int use = 0; use < SCRATCH_USES; use++) free(scratch->memory[use]);
    free(scratch);
}

static void make_scratch_key(void) { pthread_key_create(&scratch_key, free_scratch); }

void *scratch_of(ScratchUse use, size_t bytes) {
    pthread_once(&scratch_once, make_scratch_key);
    Scratch *scratch = pthread_getspecific(scratch_key);
    if (!scratch) {
        scratch = calloc(1, sizeof *scratch);
        if (!scratch || pthread_setspecific(scratch_key, scratch)) return free(scratch), NULL;
    }
    if (scratch->size[use] < bytes) {
        free(scratch->memory[use]);
        scratch->size[use] = 0;
        scratch->memory[use] = aligned_alloc(64, (bytes + 63) / 64 * 64);
        if (scratch->memory[use]) scratch->size[use] = bytes;
    }
    return scratch->memory[use];
}
