# The GPU's kernels: csrc/drivers/*.cu on csrc/cuda. Twice the same sources:
#   _cuda             by nvcc: KITAE_CUDA=AUTO (where an nvcc is found) | ON (or an error) | OFF
#   _cuda_simulated, _cuda_on_host   by the C++ compiler on csrc/cuda/stand_in.h, for tests: KITAE_SIMULATED_CUDA=ON
# A family (normalization, dropout, ...) belongs to them once csrc/drivers/<family>.cu exists.
set(KITAE_CUDA AUTO CACHE STRING "Build kitae._cuda: AUTO, ON or OFF")
set(KITAE_CUDA_ARCHITECTURES "75-virtual;90-real;90-virtual" CACHE STRING "CMAKE_CUDA_ARCHITECTURES, or 'release'")
option(KITAE_SIMULATED_CUDA "Build _cuda_simulated: the CUDA kernels on the host, for tests" OFF)

file(GLOB KITAE_CUDA_DRIVERS CONFIGURE_DEPENDS csrc/drivers/*.cu)
file(GLOB KITAE_CUDA_DEVICE CONFIGURE_DEPENDS csrc/cuda/*.cu)
set(KITAE_CUDA_HOST csrc/cuda/memory.cpp csrc/drivers/normalization_layout.cpp)
set(KITAE_CUDA_FAMILIES "")
set(KITAE_CUDA_BINDINGS "")
set(KITAE_CUDA_REGISTER "")
foreach(driver IN LISTS KITAE_CUDA_DRIVERS)
  cmake_path(GET driver STEM family)
  if(EXISTS ${PROJECT_SOURCE_DIR}/csrc/bindings/${family}.cpp)
    list(APPEND KITAE_CUDA_FAMILIES ${family})
    list(APPEND KITAE_CUDA_BINDINGS csrc/bindings/${family}.cpp)
    string(APPEND KITAE_CUDA_REGISTER "REGISTER(${family}) ")
  endif()
endforeach()
list(JOIN KITAE_CUDA_FAMILIES ", " family_names)

# What both modules are made of beside their kernels.
function(kitae_cuda_module target)
  kitae_compile_options(${target})
  target_compile_definitions(${target} PRIVATE KITAE_MODULE=${target} "KITAE_FAMILIES=${KITAE_CUDA_REGISTER}")
endfunction()

# A .cu file is C++ to the stand-in, but CMake knows one language a file: another file includes it.
set(simulated "")
foreach(source IN LISTS KITAE_CUDA_DRIVERS KITAE_CUDA_DEVICE)
  cmake_path(GET source STEM stem)
  set(wrapper ${PROJECT_BINARY_DIR}/simulated/${stem}.cpp)
  file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"${source}\"\n")
  list(APPEND simulated ${wrapper})
endforeach()

if(KITAE_SIMULATED_CUDA)
  add_library(kitae_simulated OBJECT ${simulated} ${KITAE_CUDA_HOST} csrc/cuda/stand_in.cpp)
  kitae_compile_options(kitae_simulated)
  target_compile_options(kitae_simulated PRIVATE -O1 -Wno-unknown-pragmas -ftls-model=initial-exec)
  target_compile_definitions(kitae_simulated PRIVATE KITAE_CUDA_SIMULATED)
  set(common csrc/bindings/cuda/module.cpp csrc/bindings/array_checks.cpp ${KITAE_CUDA_BINDINGS}
      $<TARGET_OBJECTS:kitae_simulated>)

  # Takes NumPy arrays: stands in for the CPU backend.
  pybind11_add_module(_cuda_simulated MODULE ${common} csrc/bindings/array.cpp csrc/bindings/threads.cpp
                      csrc/cpu/threads.cpp csrc/drivers/copy.cpp)
  # Takes arrays of a test's imitation of CuPy: kitae._cuda's own boundary.
  pybind11_add_module(_cuda_on_host MODULE ${common} csrc/bindings/cuda/array.cpp csrc/bindings/cuda/runtime.cpp)
  target_compile_definitions(_cuda_on_host PRIVATE KITAE_CUDA)
  foreach(target _cuda_simulated _cuda_on_host)
    kitae_cuda_module(${target})
    if(KITAE_SANITIZE)
      target_compile_options(${target} PRIVATE -O0)  # as kitae_bindings
    else()
      target_compile_options(${target} PRIVATE -O1)
    endif()
    target_compile_definitions(${target} PRIVATE KITAE_CUDA_SIMULATED KITAE_VARIANT="simulated")
  endforeach()
  message(STATUS "kitae: _cuda_simulated and _cuda_on_host will be built, with ${family_names}")
endif()

# Where a CUDA compiler is: on PATH, or in the wheels that `pip install "cuda-toolkit[nvcc,cccl]==13.0.*"` brings.
function(kitae_find_nvcc)
  if(CMAKE_CUDA_COMPILER)
    return()
  endif()
  find_program(KITAE_NVCC nvcc HINTS ENV CUDACXX ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin)
  if(NOT KITAE_NVCC)
    execute_process(COMMAND ${Python_EXECUTABLE} -c "import nvidia.cu13 as m; print(list(m.__path__)[0])"
                    OUTPUT_VARIABLE root OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE missing)
    if(missing OR NOT EXISTS ${root}/bin/nvcc)
      return()
    endif()
    set(KITAE_NVCC ${root}/bin/nvcc)
  endif()
  set(CMAKE_CUDA_COMPILER ${KITAE_NVCC} CACHE FILEPATH "The CUDA compiler")
  file(REAL_PATH ${KITAE_NVCC} real)
  cmake_path(GET real PARENT_PATH root)
  cmake_path(GET root PARENT_PATH root)
  if(EXISTS ${root}/lib/libcudart_static.a)  # the wheels' folder; nvcc looks in lib64
    set(CMAKE_CUDA_FLAGS "${CMAKE_CUDA_FLAGS} -L${root}/lib" CACHE STRING "Flags of the CUDA compiler" FORCE)
  endif()
endfunction()

set(why_not "")
if(NOT KITAE_PYTHON)
  set(why_not "no Python modules are built")
elseif(KITAE_CUDA STREQUAL "OFF")
  set(why_not "KITAE_CUDA=OFF")
elseif(NOT KITAE_CUDA_FAMILIES)
  set(why_not "there are no kernels yet")
elseif(KITAE_SANITIZE)
  set(why_not "sanitizers watch host code")
else()
  kitae_find_nvcc()
  if(KITAE_CUDA_ARCHITECTURES STREQUAL "release")
    set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 90-real 100-real 120-real 120-virtual)
  else()
    set(CMAKE_CUDA_ARCHITECTURES ${KITAE_CUDA_ARCHITECTURES})
  endif()
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(why_not "no working nvcc: put one on PATH, or pip install \"cuda-toolkit[nvcc,cccl]==13.0.*\"")
  else()
    enable_language(CUDA)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.4)
      set(why_not "nvcc ${CMAKE_CUDA_COMPILER_VERSION} is older than 12.4")
    endif()
  endif()
endif()

if(why_not)
  if(KITAE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "kitae: KITAE_CUDA=ON, but ${why_not}")
  endif()
  message(STATUS "kitae: without the CUDA backend (${why_not}); arrays on a GPU will be refused in words")
  return()
endif()

set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
pybind11_add_module(_cuda MODULE csrc/bindings/cuda/module.cpp csrc/bindings/cuda/array.cpp
                    csrc/bindings/cuda/runtime.cpp csrc/bindings/array_checks.cpp ${KITAE_CUDA_BINDINGS} ${KITAE_CUDA_HOST} ${KITAE_CUDA_DRIVERS}
                    ${KITAE_CUDA_DEVICE})
target_include_directories(_cuda PRIVATE ${PROJECT_SOURCE_DIR}/csrc ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
target_compile_definitions(_cuda PRIVATE KITAE_CUDA KITAE_MODULE=_cuda KITAE_VARIANT="cuda"
                           "KITAE_FAMILIES=${KITAE_CUDA_REGISTER}")
target_compile_options(_cuda PRIVATE
  $<$<COMPILE_LANGUAGE:CXX>:-Os;${KITAE_NUMERIC_FLAGS};${KITAE_WARNINGS}>
  # IEEE results: no contraction, no flushing, division and square root rounded correctly.
  $<$<COMPILE_LANGUAGE:CUDA>:-O3;-fmad=false;-prec-div=true;-prec-sqrt=true;-ftz=false;-Xptxas=-v;-Xcompiler=-Wall,-Wextra,-ffp-contract=off>)
# What ptxas says of each kernel (registers, spills) stays beside the build: tools/check_ptxas.py reads it.
set_target_properties(_cuda PROPERTIES
  CUDA_COMPILER_LAUNCHER "sh;${PROJECT_SOURCE_DIR}/cmake/keep_ptxas_report.sh;${PROJECT_BINARY_DIR}/ptxas")
target_link_options(_cuda PRIVATE -Wl,--exclude-libs,ALL)
install(TARGETS _cuda LIBRARY DESTINATION kitae)
message(STATUS "kitae: _cuda will be built by nvcc ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}, "
               "with ${family_names}")
