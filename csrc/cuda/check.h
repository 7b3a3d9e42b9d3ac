// CUDA calls that throw: KITAE_CUDA_CHECK(cudaMalloc(...)).
#pragma once

#include <stdexcept>
#include <string>

#include "cuda/runtime.h"

namespace kitae::cuda {

class CudaError : public std::runtime_error {
 public:
  CudaError(const char* expression, cudaError_t code)
      : std::runtime_error(std::string(expression) + ": " + cudaGetErrorName(code) + ": " + cudaGetErrorString(code)),
        expression(expression),
        name(cudaGetErrorName(code)),
        message(cudaGetErrorString(code)),
        code(code) {}

  const char *expression, *name, *message;  // strings of static storage
  cudaError_t code;
};

inline void check(cudaError_t result, const char* expression) {
  if (result == cudaSuccess) return;
  cudaGetLastError();  // an error that is no failure of the device stays behind otherwise
  throw CudaError(expression, result);
}

}  // namespace kitae::cuda

#define KITAE_CUDA_CHECK(expression) ::kitae::cuda::check((expression), #expression)
