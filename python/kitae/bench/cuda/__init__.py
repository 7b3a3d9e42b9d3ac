"""The benchmark on a GPU: ``python -m kitae bench --device cuda``. kitae, PyTorch, CuPy and JAX in one run."""
