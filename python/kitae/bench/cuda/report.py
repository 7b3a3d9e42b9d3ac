"""What the GPU's measurements say: time, share of the measured copy, host time, launches, and the rows that lose."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..report import OP_NAMES, aligned, ratio_text, seconds_text
from ..timing import geometric_mean

PEERS = ("PyTorch", "CuPy", "JAX")
_OWN_NAMES = {
    "batch_norm_residual_relu": "batch norm + residual + ReLU, training",
    "batch_norm_residual_relu_backward": "batch norm + residual + ReLU, backward",
    "batch_norm_inference_relu": "batch norm + ReLU, inference",
    "dropout_replay": "dropout, no mask",
    "dropout_replay_backward": "dropout, backward, no mask",
    "nesterov_torch": "Nesterov",
    "adadelta": "AdaDelta",
    "amsgrad": "AMSGrad",
    "clip_grad_norm_per_tensor": "clipping by each tensor's norm",
}
NAMES = OP_NAMES | _OWN_NAMES


@dataclass(frozen=True)
class Line:
    """One way to call kitae on one row, against the best variant of each peer."""

    op: str
    size: str
    dtype: str
    variant: str
    seconds: float
    low: float
    high: float
    host: float
    kernels: int | None
    error: float | None
    gigabytes: float
    #: Of the measured copy, for rows that only read of the measured read.
    share: float
    warm: bool
    speedups: dict[str, float]
    best_variants: dict[str, str]
    #: The best PyTorch variant's host time.
    torch_host: float | None

    @property
    def label(self) -> str:
        variant = f", {self.variant}" if self.variant else ""
        warm = ", L2-warm" if self.warm and "L2-warm" not in self.size else ""
        return f"{NAMES.get(self.op, self.op)}, {self.size}, {self.dtype}{variant}{warm}"


def lines(results: dict[str, Any]) -> list[Line]:
    return [line for row in results["rows"] for line in row_lines(row)]


def row_lines(row: dict[str, Any]) -> list[Line]:
    measured = [entry for entry in row["entries"] if entry["kind"] == "contender"]
    (yardstick,) = (entry for entry in row["entries"] if entry["kind"] == "bandwidth")
    moved = row["bytes"]["read"] + row["bytes"]["written"]
    best = {}
    for peer in PEERS:
        rivals = [entry for entry in measured if entry["system"] == peer]
        if rivals:
            best[peer] = min(rivals, key=lambda entry: entry["median"])
    made = []
    for ours in measured:
        if ours["system"] != "kitae":
            continue
        rate = moved / ours["median"]
        made.append(
            Line(
                op=row["op"],
                size=row["size"],
                dtype=row["dtype"],
                variant=ours["variant"],
                seconds=ours["median"],
                low=ours["low"],
                high=ours["high"],
                host=ours["host"],
                kernels=ours.get("kernels"),
                error=ours.get("error"),
                gigabytes=rate / 1e9,
                share=rate * yardstick["median"] / yardstick["bytes"],
                warm=row["warm"],
                speedups={peer: entry["median"] / ours["median"] for peer, entry in best.items()},
                best_variants={peer: entry["variant"] for peer, entry in best.items()},
                torch_host=best["PyTorch"]["host"] if "PyTorch" in best else None,
            )
        )
    return made


def failures(results: dict[str, Any]) -> list[str]:
    """Contenders that raised, in words; kitae's first."""
    found = []
    for row in results["rows"]:
        for entry in row["entries"]:
            if entry["kind"] == "failed":
                who = f"{entry['system']} {entry['variant']}".strip()
                words = f"{row['op']} {row['size']} {row['dtype']}: {who}: {entry['error']}"
                found.append((entry["system"] != "kitae", words))
    return [words for _, words in sorted(found)]


def kitae_failed(results: dict[str, Any]) -> bool:
    return any(
        entry["kind"] == "failed" and entry["system"] == "kitae" for row in results["rows"] for entry in row["entries"]
    )


def losing(of: Sequence[Line]) -> list[tuple[Line, str]]:
    """(line, peer) where kitae is slower, the worst first."""
    pairs = [(line, peer) for line in of for peer, ratio in line.speedups.items() if ratio < 1]
    return sorted(pairs, key=lambda pair: pair[0].speedups[pair[1]])


def progress_text(row: dict[str, Any]) -> str:
    candidates = row_lines(row)
    if not candidates:
        errors = [entry["error"] for entry in row["entries"] if entry["kind"] == "failed"]
        return f"{row['op']}, {row['size']}, {row['dtype']}: kitae was not measured: {'; '.join(errors[:1])}"
    best = min(candidates, key=lambda line: line.seconds)
    against = "".join(f", {ratio_text(ratio)} {peer}" for peer, ratio in best.speedups.items())
    return f"{best.label}: {seconds_text(best.seconds)}{against}, {best.share:.0%} of a copy"


def machine_text(results: dict[str, Any]) -> str:
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["gpu_versions"].items())
    bandwidths = results["bandwidths"]
    return (
        f"{machine['gpu']}, {machine['multiprocessors']} multiprocessors, L2 {machine['gpu_level2_bytes'] >> 20} MiB, "
        f"{machine['gpu_memory_gib']} GiB; measured copy {bandwidths['copy'] / 1e12:.2f} TB/s (read + written), read "
        f"{bandwidths['read'] / 1e12:.2f} TB/s; host {machine['processor']}, {machine['cores']} cores; {versions}, "
        f"python {machine['versions']['python']}"
    )


def text(results: dict[str, Any]) -> str:
    measured = lines(results)
    header = ("row", "GPU time", "quartiles", "GB/s", "of copy", "host", "torch host", "kernels", "error")
    columns = (*header, *(f"vs {peer}" for peer in PEERS))
    table = [
        (
            line.label,
            seconds_text(line.seconds),
            f"{seconds_text(line.low)} - {seconds_text(line.high)}",
            f"{line.gigabytes:.0f}",
            f"{line.share:.0%}",
            seconds_text(line.host),
            "-" if line.torch_host is None else seconds_text(line.torch_host),
            "-" if line.kernels is None else str(line.kernels),
            "-" if line.error is None else f"{line.error:.1e}",
            *(ratio_text(line.speedups.get(peer)) for peer in PEERS),
        )
        for line in measured
    ]
    parts = [machine_text(results), "", aligned(columns, table)]
    lost = losing(measured)
    parts += ["", f"Losing rows: {len(lost)} of {sum(len(line.speedups) for line in measured)} comparisons"]
    parts += [
        f"  {ratio_text(line.speedups[peer]):>6}  {line.label} against {peer} {line.best_variants[peer]}".rstrip()
        for line, peer in lost
    ]
    failed = failures(results)
    if failed:
        parts += ["", f"Failed: {len(failed)}", *(f"  {what}" for what in failed)]
    if results["left_out"]:
        parts += ["", f"Left out, because the time was over: {len(results['left_out'])} rows"]
    return "\n".join(parts)


def short_text(results: dict[str, Any]) -> str:
    """One line an op, for the end of a long log."""
    rows = [
        (name, str(count), *cells)
        for name, count, *cells in (_summary(op, chosen) for op, chosen in _by_op(lines(results)))
    ]
    header = ("op", "rows", "of copy (worst)", *(f"vs {peer} (worst)" for peer in PEERS))
    lost = losing(lines(results))
    end = [f"Losing comparisons: {len(lost)}"]
    end += [
        f"  {ratio_text(line.speedups[peer]):>6}  {line.label} against {peer} {line.best_variants[peer]}"
        for line, peer in lost[:8]
    ]
    end += [f"failed: {what}" for what in failures(results)[:8]]
    return "\n".join([machine_text(results), aligned(header, rows), *end])


def _by_op(measured: Sequence[Line]) -> list[tuple[str, list[Line]]]:
    """Of each row the best way to call kitae."""
    best: dict[tuple[str, str, str], Line] = {}
    for line in measured:
        key = (line.op, line.size, line.dtype)
        if key not in best or line.seconds < best[key].seconds:
            best[key] = line
    ops = dict.fromkeys(line.op for line in best.values())
    return [(op, [line for line in best.values() if line.op == op]) for op in ops]


def _summary(op: str, chosen: Sequence[Line]) -> list[Any]:
    shares = [line.share for line in chosen]
    cells: list[Any] = [NAMES.get(op, op), len(chosen), f"{geometric_mean(shares):.0%} ({min(shares):.0%})"]
    for peer in PEERS:
        ratios = [line.speedups[peer] for line in chosen if peer in line.speedups]
        cells.append(f"{ratio_text(geometric_mean(ratios))} ({ratio_text(min(ratios))})" if ratios else "-")
    return cells


def markdown(results: dict[str, Any]) -> str:
    """README's table: one line an op, geometric mean and worst row."""
    measured = lines(results)
    grouped = _by_op(measured)
    peers = [peer for peer in PEERS if any(peer in line.speedups for line in measured)]
    head = ["op", "rows", "of a plain copy", *(f"vs best {peer}" for peer in peers)]
    out = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    kept = [0, 1, 2, *(3 + PEERS.index(peer) for peer in peers)]
    every = [line for _, chosen in grouped for line in chosen]
    for op, chosen in [*grouped, ("**all**", every)]:
        cells = _summary(op, chosen)
        out.append("| " + " | ".join(str(cells[i]) for i in kept) + " |")
    lost = losing(every)
    losses = ", ".join(f"{sum(name == peer for _, name in lost)} against {peer}" for peer in peers)
    left_out = results["left_out"]
    out += [
        "",
        "GPU time, geometric means over the op's rows (shapes, layouts, dtypes; of each the fastest way to call "
        "kitae), the worst row in parentheses. The share is that of the bytes that must move at the bandwidth of a "
        f"copy measured in the same run. Rows of {len(every)} where kitae is slower: "
        f"{losses or 'nobody to compare with'}."
        + (f" {len(left_out)} rows were left out, because the time was over." if left_out else ""),
        "",
        f"Measured {results['date']} on {machine_text(results)}.",
    ]
    return "\n".join(out)
