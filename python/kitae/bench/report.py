"""What the measurements say: speed-ups, GB/s, shares of a copy; geometric means, worst rows, and rows that lose."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .machine import busy
from .timing import geometric_mean

PEERS = ("textbook", "NumPy", "PyTorch", "JAX")
Entry = dict[str, Any]
Row = dict[str, Any]

OP_NAMES = {
    "convolutional_step": "convolutional network, training step",
    "fully_connected_step": "fully connected network, training step",
    "batch_norm": "batch norm, training",
    "batch_norm_relu": "batch norm + ReLU, training",
    "batch_norm_inference": "batch norm, inference",
    "batch_norm_backward": "batch norm, backward",
    "batch_norm_relu_backward": "batch norm + ReLU, backward",
    "layer_norm": "layer norm",
    "layer_norm_backward": "layer norm, backward",
    "dropout": "dropout",
    "dropout_backward": "dropout, backward",
    "sgd": "SGD",
    "momentum": "momentum",
    "adagrad": "AdaGrad",
    "rmsprop": "RMSProp",
    "adam": "Adam",
    "adamw": "AdamW",
    "adam_max_norm": "clipping + Adam",
    "ema": "moving average of weights",
    "global_norm": "global norm",
    "clip_grad_norm": "clipping by global norm",
    "clip_grad_value": "clipping by value",
    "normalize_gradients": "clipping each layer by its norm",
    "clip_grad_adaptive": "clipping each unit by its weights",
    "torch_batch_norm": "kitae.torch.BatchNorm2d, both passes",
    "torch_dropout": "kitae.torch.Dropout, both passes",
    "torch_sgd": "kitae.torch.SGD",
    "torch_momentum": "kitae.torch.SGD, momentum",
    "torch_adagrad": "kitae.torch.Adagrad",
    "torch_rmsprop": "kitae.torch.RMSprop",
    "torch_adam": "kitae.torch.Adam",
    "torch_adamw": "kitae.torch.AdamW",
    "torch_adadelta": "kitae.torch.Adadelta",
    "torch_clip_grad_norm": "kitae.torch.clip_grad_norm_",
}
FAMILY_NAMES = {
    "batch_norm": "batch norm",
    "layer_norm": "layer norm",
    "dropout": "dropout",
    "optimizers": "optimizers",
    "clipping": "clipping",
    "network": "networks",
    "torch_face": "through PyTorch",
}


@dataclass(frozen=True)
class Line:
    """One way to call kitae on one row with one number of threads, against the best of each peer."""

    family: str
    op: str
    size: str
    dtype: str
    variant: str
    destination: str
    threads: int
    seconds: float
    low: float
    high: float
    #: Gigabytes (10^9) of the bytes that must move, per second.
    gigabytes: float
    #: The share of a plain copy's gigabytes per second.
    share: float
    #: Peer -> how many times its best variant's time is kitae's; a peer that was not there is missing.
    speedups: dict[str, float]
    best_variants: dict[str, str]

    @property
    def label(self) -> str:
        how = {"reused": "out=", "fresh": "", "in place": self.variant}[self.destination]
        words = [OP_NAMES.get(self.op, self.op), self.size, self.dtype if self.dtype != "float32" else "", how]
        return ", ".join(filter(None, words))


def lines(results: dict[str, Any]) -> list[Line]:
    return [line for row in results["rows"] for line in row_lines(row)]


def row_lines(row: Row) -> list[Line]:
    return [
        _line(row, entry) for entry in row["entries"] if entry["kind"] == "contender" and entry["system"] == "kitae"
    ]


def _line(row: Row, ours: Entry) -> Line:
    moved = row["bytes"]["read"] + row["bytes"]["written"]
    copies = [entry["bytes"] / entry["median"] for entry in _rivals(row, ours, lambda entry: entry["kind"] == "copy")]
    speedups, best_variants = {}, {}
    for peer in PEERS:
        rivals = _rivals(row, ours, lambda entry, peer=peer: entry.get("system") == peer)  # type: ignore[misc]
        if rivals:
            best = min(rivals, key=lambda entry: entry["median"])
            speedups[peer] = best["median"] / ours["median"]
            best_variants[peer] = best["variant"]
    rate = moved / ours["median"]
    return Line(
        family=row["family"],
        op=row["op"],
        size=row["size"],
        dtype=row["dtype"],
        variant=ours["variant"],
        destination=ours["destination"],
        threads=ours["threads"],
        seconds=ours["median"],
        low=ours["low"],
        high=ours["high"],
        gigabytes=rate / 1e9,
        share=rate / max(copies),
        speedups=speedups,
        best_variants=best_variants,
    )


def _rivals(row: Row, ours: Entry, chosen: Callable[[Entry], bool]) -> list[Entry]:
    """Entries to compare with: no more threads than kitae had, and the same kind of destination.

    A peer's results in new memory also count against ``out=``, and its run with fewer threads against more: its users
    are free to choose so. A copy is not free: it has the same threads and the same kind of destination. A textbook has
    no ``out=`` at all.
    """

    def comparable(entry: Entry) -> bool:
        if entry["kind"] == "copy":
            reused = ours["destination"] != "fresh"
            return entry["threads"] == ours["threads"] and (entry["destination"] == "reused") == reused
        fresh = entry["destination"] == "fresh"
        return entry["threads"] <= ours["threads"] and (fresh or ours["destination"] != "fresh")

    return [entry for entry in row["entries"] if chosen(entry) and comparable(entry)]


def mean_speedup(of: Iterable[Line], peer: str) -> float | None:
    ratios = [line.speedups[peer] for line in of if peer in line.speedups]
    return geometric_mean(ratios) if ratios else None


def losing(of: Sequence[Line]) -> list[tuple[Line, str]]:
    """(line, peer) where kitae is slower, the worst first."""
    pairs = [(line, peer) for line in of for peer, ratio in line.speedups.items() if ratio < 1]
    return sorted(pairs, key=lambda pair: pair[0].speedups[pair[1]])


def worst(of: Sequence[Line], peer: str, count: int = 3) -> list[Line]:
    return sorted((line for line in of if peer in line.speedups), key=lambda line: line.speedups[peer])[:count]


# --- text ------------------------------------------------------------------------------------------------------------


def seconds_text(seconds: float) -> str:
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def ratio_text(ratio: float | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio:.0f}x" if ratio >= 9.95 else f"{ratio:.1f}x" if ratio >= 0.995 else f"{ratio:.2f}x"


def progress_text(row: Row) -> str:
    """A row in one line: kitae's best way to do it with the most threads."""
    candidates = row_lines(row)
    best = min(candidates, key=lambda line: (-line.threads, line.seconds))
    against = ", ".join(f"{ratio_text(ratio)} {peer}" for peer, ratio in best.speedups.items())
    rate = f"{against}, {best.share:.0%} of a copy"
    return f"{best.label}: {seconds_text(best.seconds)}, {rate} ({in_threads(best.threads)})"


def in_threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def machine_text(results: dict[str, Any]) -> str:
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, L2 {machine['level2_bytes'] >> 10} KiB a core, "
        f"L3 {machine['level3_bytes'] >> 20} MiB; kernels for {machine['instruction_set']}; {versions}"
    )


def busy_text(results: dict[str, Any]) -> list[str]:
    load = results["machine"]["busy_cpus"]
    if not busy(load):
        return []
    return [f"NOT A QUIET MACHINE: other processes kept {load:.1f} CPUs busy at the start; threaded rows mean little."]


def text(results: dict[str, Any]) -> str:
    if results.get("device") == "cuda":
        from .cuda import report as on_cuda

        return on_cuda.text(results)
    measured = lines(results)
    parts = [machine_text(results), *busy_text(results), ""]
    header = ("row", "threads", "median", "quartiles", "GB/s", "of a copy", *(f"vs {peer}" for peer in PEERS))
    table = [
        (
            line.label,
            str(line.threads),
            seconds_text(line.seconds),
            f"{seconds_text(line.low)} - {seconds_text(line.high)}",
            f"{line.gigabytes:.1f}",
            f"{line.share:.0%}",
            *(ratio_text(line.speedups.get(peer)) for peer in PEERS),
        )
        for line in measured
    ]
    used = f"NumPy and the textbook use one thread{_except_networks(measured)}"
    parts += [aligned(header, table), "", f"Geometric means of the speed-up ({used})"]
    parts += [aligned(("family", "threads", *PEERS, "of a copy"), _means(measured)), ""]
    for peer in PEERS:
        slowest = worst(measured, peer)
        if slowest:
            parts.append(f"Worst rows against {peer}:")
            parts += [
                f"  {ratio_text(line.speedups[peer]):>6}  {line.label} ({in_threads(line.threads)})" for line in slowest
            ]
    lost = losing(measured)
    parts += ["", f"Losing rows: {len(lost)} of {sum(len(line.speedups) for line in measured)} comparisons"]
    parts += [
        f"  {ratio_text(line.speedups[peer]):>6}  {line.label} ({in_threads(line.threads)}) "
        f"against {peer} {line.best_variants[peer]}".rstrip()
        for line, peer in lost
    ]
    return "\n".join(parts)


def _except_networks(measured: Iterable[Line]) -> str:
    return ", in networks as many as the row" if any(line.family == "network" for line in measured) else ""


def _means(measured: Sequence[Line]) -> list[tuple[str, ...]]:
    rows = []
    for name, group in _groups(measured):
        for count in sorted({line.threads for line in group}):
            chosen = [line for line in group if line.threads == count]
            rows.append(
                (
                    name,
                    str(count),
                    *(ratio_text(mean_speedup(chosen, peer)) for peer in PEERS),
                    f"{geometric_mean([line.share for line in chosen]):.0%}",
                )
            )
    return rows


def _groups(measured: Sequence[Line]) -> Iterator[tuple[str, list[Line]]]:
    """float32 by family and as a whole; other dtypes by family."""
    for dtype in dict.fromkeys(line.dtype for line in measured):
        of_dtype = [line for line in measured if line.dtype == dtype]
        suffix = "" if dtype == "float32" else f", {dtype}"
        for family in (*FAMILY_NAMES, None) if dtype == "float32" else FAMILY_NAMES:
            chosen = [line for line in of_dtype if family in (None, line.family)]
            if chosen:
                yield (FAMILY_NAMES[family] if family else "all") + suffix, chosen


def aligned(header: Sequence[str], table: Sequence[Sequence[str]]) -> str:
    """Columns of text: the first to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in (header, *table)) for i in range(len(header))]

    def one(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    return "\n".join([one(header), "  ".join("-" * width for width in widths), *(one(row) for row in table)])


# --- the README's table ----------------------------------------------------------------------------------------------


def markdown(results: dict[str, Any]) -> str:
    """One line an op: geometric mean and worst row of the speed-ups over all sizes, at the most threads."""
    if results.get("device") == "cuda":
        from .cuda import report as on_cuda

        return on_cuda.markdown(results)
    measured = lines(results)
    most = max(line.threads for line in measured)
    others = [line for line in measured if line.threads == most and line.dtype != "float32"]
    measured = [line for line in measured if line.threads == most and line.dtype == "float32"]
    peers = [peer for peer in PEERS if any(peer in line.speedups for line in measured)]
    head = ["op", "rows", *(f"vs {_peer_in_words(peer)}" for peer in peers), "of a plain copy"]
    out = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    ops = list(dict.fromkeys(line.op for line in measured))
    groups = [(OP_NAMES.get(op, op), [line for line in measured if line.op == op]) for op in ops]
    for name, chosen in [*groups, ("**all**", measured), *_groups(others)]:
        cells = [name, str(len(chosen))]
        for peer in peers:
            slowest = min((line.speedups[peer] for line in chosen if peer in line.speedups), default=None)
            mean = ratio_text(mean_speedup(chosen, peer))
            cells.append(mean if slowest is None else f"{mean} ({ratio_text(slowest)})")
        shares = [line.share for line in chosen]
        cells.append(f"{geometric_mean(shares):.0%} ({min(shares):.0%})")
        out.append("| " + " | ".join(cells) + " |")
    lost = {peer: sum(1 for _, name in losing(measured) if name == peer) for peer in peers}
    compared = {peer: sum(peer in line.speedups for line in measured) for peer in peers}
    losses = ", ".join(f"{lost[peer]} of {compared[peer]} against {_peer_in_words(peer)}" for peer in peers)
    out += [
        "",
        f"Speed-ups as geometric means over the op's rows (shapes, layouts, with `out=` and without), the worst row in "
        f"parentheses; float32, {in_threads(most)}; textbook and NumPy use one{_except_networks(measured)}. "
        f"Rows where kitae is slower: {losses}.",
        "",
        f"Measured {results['date']} on {machine_text(results)}.",
        *busy_text(results),
    ]
    return "\n".join(out)


def _peer_in_words(peer: str) -> str:
    return {"textbook": "textbook NumPy", "NumPy": "best NumPy", "PyTorch": "best PyTorch", "JAX": "JAX's jit"}[peer]
