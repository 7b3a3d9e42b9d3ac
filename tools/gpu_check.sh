#!/usr/bin/env bash
# Everything that needs a GPU, in one command: build, tests, compute-sanitizer, benchmark. Needs no network.
usage() {
  cat <<'TEXT'
tools/gpu_check.sh [--quick] [--build-only] [--out DIR]

Builds kitae in build/gpu with what the machine has, runs the tests with KITAE_REQUIRE_CUDA=1, compute-sanitizer over
small rows where it works, then the benchmark, and writes benchmarks/results/<gpu>-<yyyymmdd>.json. Under nine minutes.

  --quick       under three minutes: the GPU's tests instead of the whole suite, few rows
  --build-only  stop after the build; works without a GPU
  --out DIR     put the result file and the logs there instead

PYTHON names the interpreter (python3). Exit status: 0 all passed, 1 something failed, 2 it could not start.
TEXT
}
set -uo pipefail

quick=0 build_only=0 out=""
while [[ $# -gt 0 ]]; do
  case $1 in
    --quick) quick=1 ;;
    --build-only) build_only=1 ;;
    --out) out=${2:?--out: expected a folder}; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "gpu_check: expected --quick, --build-only or --out DIR, got $1" >&2; exit 2 ;;
  esac
  shift
done

invoked_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
root=$PWD
python=${PYTHON:-python3}
[[ $out && $out != /* ]] && out=$invoked_from/$out
logs=${out:-$root/build/gpu/logs}
results=${out:-$root/benchmarks/results}
site=$root/build/gpu/site
mkdir -p "$logs" "$results" "$root/build/gpu" || exit 2

# Seconds that everything may take; each step has a limit of its own and never more than what is left.
deadline=$((quick ? 170 : 530))
failed=() notes=()
say() { printf '[%3d s] %s\n' "$SECONDS" "$*"; }

# step NAME LIMIT RESERVE COMMAND...: runs with a time limit, RESERVE seconds being kept for later steps.
step() {
  local name=$1 limit=$2 reserve=$3 left start=$SECONDS status
  shift 3
  left=$((deadline - SECONDS - reserve))
  ((limit > left)) && limit=$left
  if ((limit < 5)); then
    say "$name: no time left"
    failed+=("$name: no time left")
    return 1
  fi
  say "$name (at most $limit s)"
  timeout -k 5 "$limit" "$@" >"$logs/$name.log" 2>&1
  status=$?
  if ((status == 0)); then
    say "$name: passed after $((SECONDS - start)) s"
  else
    ((status == 124 || status == 137)) && say "$name: ran out of its $limit s"
    say "$name: FAILED with status $status; the end of $logs/$name.log:"
    tail -n 25 "$logs/$name.log"
    failed+=("$name: status $status")
  fi
  return "$status"
}

finish() {
  local line
  for line in ${notes[@]+"${notes[@]}"}; do say "note: $line"; done
  if ((${#failed[@]})); then
    say "FAILED:"
    for line in "${failed[@]}"; do echo "  $line"; done
    exit 1
  fi
  say "all passed"
  exit 0
}

# --- what is here -----------------------------------------------------------------------------------------------------

command -v "$python" >/dev/null || { echo "gpu_check: no $python; PYTHON names the interpreter" >&2; exit 2; }
# "NAME|MAJORMINOR", or a reason on stderr. By the driver itself: it needs no tool and no package.
gpu=$("$python" tools/find_gpu.py 2>"$logs/find_gpu.log")
have_gpu=$?
if ((have_gpu != 0)); then
  reason=$(tail -n 1 "$logs/find_gpu.log")
  if ((!build_only)); then
    echo "gpu_check: no GPU to check on: $reason"
    echo "gpu_check: --build-only builds here; the kernels' tests without a GPU are .ci/run simulated cuda"
    exit 2
  fi
  say "no GPU ($reason); building for compute capability 9.0"
  gpu="|90"
fi
architecture=${gpu##*|} name=${gpu%|*}
[[ $name ]] && say "found $name, compute capability ${architecture:0:-1}.${architecture: -1}"

for folder in /usr/local/cuda/bin "${CUDA_HOME:-/nowhere}/bin"; do
  command -v nvcc >/dev/null || { [[ -x $folder/nvcc ]] && PATH=$folder:$PATH; }
done
export PATH

# --- build ------------------------------------------------------------------------------------------------------------

has() { "$python" -c "import $1" 2>/dev/null; }
options=(-DKITAE_CUDA=ON "-DKITAE_CUDA_ARCHITECTURES=$architecture-real")
if ((quick)) && [[ $(uname -m) == x86_64 ]]; then
  options+=(-DKITAE_CPU_VARIANTS=x86_64_v3)
  export KITAE_CPU_ISA=x86_64_v3
fi
jobs=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
export CMAKE_BUILD_PARALLEL_LEVEL=$jobs

# pybind11 as a package, or the copy that PyTorch ships with its headers.
pybind11_folder() {
  "$python" -m pybind11 --cmakedir 2>/dev/null && return
  local include
  include=$("$python" -c 'import importlib.util as u, pathlib
print(pathlib.Path(u.find_spec("torch").origin).parent / "include")' 2>/dev/null) || return 1
  [[ -f $include/pybind11/pybind11.h ]] || return 1
  mkdir -p build/gpu/pybind11
  cat >build/gpu/pybind11/pybind11Config.cmake <<TEXT
add_library(pybind11::module INTERFACE IMPORTED)
target_include_directories(pybind11::module INTERFACE "$include")
target_link_libraries(pybind11::module INTERFACE Python::Module)
function(pybind11_add_module target)
  python_add_library(\${target} \${ARGN} WITH_SOABI)
  target_link_libraries(\${target} PRIVATE pybind11::module)
endfunction()
TEXT
  echo "$root/build/gpu/pybind11"
}

build_by_pip() {
  local option settings=()
  for option in "${options[@]}"; do settings+=("-Ccmake.define.${option#-D}"); done
  rm -rf "$site"
  "$python" -m pip install --no-build-isolation --no-deps --no-index --disable-pip-version-check \
    --target "$site" -Cbuild-dir="$root/build/gpu/pip" "${settings[@]}" .
}

build_by_cmake() {
  local generator=() pybind11
  pybind11=$(pybind11_folder) || { echo "no pybind11: neither the package nor PyTorch's headers"; return 1; }
  command -v ninja >/dev/null && generator=(-G Ninja)
  cmake -S . -B build/gpu/cmake ${generator[@]+"${generator[@]}"} "-Dpybind11_DIR=$pybind11" \
    "-DPython_EXECUTABLE=$(command -v "$python")" "${options[@]}" || return
  cmake --build build/gpu/cmake -j "$jobs" || return
  rm -rf "$site"
  mkdir -p "$site"
  cp -r python/kitae "$site/kitae"
  cmake --install build/gpu/cmake --prefix "$site"
}

# The whole build in one place, so that a time limit ends it.
if has scikit_build_core && has pybind11 && has pip; then how=build_by_pip; else how=build_by_cmake; fi
[[ $how == build_by_cmake ]] && notes+=("built by cmake alone: no package metadata, so tests of it can fail")
export root site python architecture jobs
export -f build_by_pip build_by_cmake pybind11_folder
export options_text="${options[*]}"
limit=$((quick ? 110 : 240))
((build_only)) && deadline=100000 limit=${KITAE_BUILD_SECONDS:-1500}
step build "$limit" 30 bash -c 'read -ra options <<<"$options_text"; '"$how" || finish

# Imports come from the build, never from a kitae that is installed here.
cat >"$site/sitecustomize.py" <<'TEXT'
import sys

sys.meta_path[:] = [finder for finder in sys.meta_path if "Redirecting" not in type(finder).__name__]
TEXT
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
step import 30 0 "$python" -c 'import kitae, kitae._cuda; print(kitae.__file__); kitae.show_config()' || finish
cat "$logs/import.log"
((build_only)) && finish

# --- correctness first ------------------------------------------------------------------------------------------------

export KITAE_REQUIRE_CUDA=1 PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
parallel=()
if has xdist && (($(nproc) >= 4)); then parallel=(-n 4); fi
pytest=("$python" -m pytest -p no:cacheprovider -q --durations=5)
reserve=$((quick ? 50 : 170))
step gpu_tests "$((quick ? 60 : 150))" "$reserve" "${pytest[@]}" ${parallel[@]+"${parallel[@]}"} tests/test_cuda.py
if ((!quick)); then
  step gpu_tests_slow 40 160 "${pytest[@]}" -m slow tests/test_cuda.py
  step suite 120 150 "${pytest[@]}" ${parallel[@]+"${parallel[@]}"} tests --ignore tests/test_cuda.py
fi
grep -h " in [0-9.]*s" "$logs"/gpu_tests*.log "$logs"/suite.log 2>/dev/null | tail -n 3

# --- compute-sanitizer ------------------------------------------------------------------------------------------------

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
rows=("$python" tools/gpu_rows.py)
if [[ ! $sanitizer ]]; then
  notes+=("compute-sanitizer is not installed: memcheck, racecheck, initcheck and synccheck did not run")
elif ! timeout -k 5 40 "$sanitizer" --tool memcheck --error-exitcode 86 "$python" -c \
  'import cupy; cupy.ones(3).sum().item()' >"$logs/sanitizer.log" 2>&1; then
  notes+=("compute-sanitizer does not work here: $(grep -m 1 -iE 'error|not supported|unable' "$logs/sanitizer.log")")
else
  tools=(memcheck racecheck initcheck synccheck)
  ((quick)) && tools=(memcheck)
  for tool in "${tools[@]}"; do
    # Other libraries' kernels are watched by initcheck alone: it has to see who wrote what.
    only=(--kernel-name kernel_substring=kitae)
    [[ $tool == initcheck ]] && only=()
    step "$tool" 40 "$((quick ? 40 : 110))" "$sanitizer" --tool "$tool" --error-exitcode 86 \
      ${only[@]+"${only[@]}"} "${rows[@]}" --seconds "$((quick ? 8 : 15))"
    tail -n 2 "$logs/$tool.log"
  done
fi

# --- benchmark --------------------------------------------------------------------------------------------------------

short=$(tr '[:upper:]' '[:lower:]' <<<"$name" | sed -E 's/nvidia|geforce//g; s/[^a-z0-9]+/-/g; s/^-+|-+$//g')
file=$results/$short-$(date -u +%Y%m%d).json
left=$((deadline - SECONDS - 15))
flags=(--device cuda --json "$file" --seconds "$((left > 20 ? left - 15 : 5))")
((quick)) && flags+=(--quick)
step benchmark "$left" 5 "$python" -m kitae bench "${flags[@]}"
[[ -f $file ]] && say "wrote $file" && "$python" -c '
import json, sys
from kitae.bench.cuda import report
print(report.short_text(json.load(open(sys.argv[1]))))' "$file"
finish
