"""The specification: every backend function in NumPy, in the same order of operations, so with the same bits."""
