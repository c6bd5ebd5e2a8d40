// A pool of threads for steps of microseconds: chunks of work are claimed one by one, so that a thread that
// the system has put aside holds nothing up. Idle threads look for work for a moment, giving way, then sleep.
#pragma once
#include "abi.h"

typedef void (*mm_task)(void *context, int32_t chunk, int32_t thread);

// Runs chunks 0..count on all threads and returns when all are done.
void pool_run(mm_pool *pool, int32_t count, mm_task task, void *context);
int32_t pool_threads(const mm_pool *pool);
