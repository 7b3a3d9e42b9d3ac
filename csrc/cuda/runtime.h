// The CUDA runtime's host functions, or those of them that we use, done by the host.
#pragma once

#if defined(KITAE_CUDA_SIMULATED)
#include "cuda/stand_in_runtime.h"
#else
#include <cuda_runtime_api.h>
#endif
