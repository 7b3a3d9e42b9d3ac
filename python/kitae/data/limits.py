"""How large a file may claim to be."""

from kitae.data.errors import DataError

# MNIST in float64 is 0.4 GB; a header that claims ten times as much is more likely damaged than meant.
MAX_BYTES = 4 * 2**30

# A deflate stream expands at most 1032:1 (a 258-byte match costs at least two bits).
MAX_DEFLATE_RATIO = 1032


def check_announced_size(path, announced, compressed, max_bytes):
    """Refuse before reading a byte what is too large to want or larger than the compressed bytes can hold."""
    if announced > max_bytes:
        found = f"a header that announces {announced:,} bytes"
        raise DataError(path, f"at most {max_bytes:,} bytes (max_bytes= raises the limit)", found)
    if announced > compressed * MAX_DEFLATE_RATIO:
        expected = f"the {announced:,} bytes that the header announces"
        raise DataError(path, expected, f"{compressed:,} compressed bytes, which cannot hold them")
