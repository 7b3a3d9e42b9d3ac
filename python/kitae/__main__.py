"""``python -m kitae demo | bench | info``."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """Answers a mistake with one line instead of the usage text and a line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help explains)\n")


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv[:1] == ["bench"]:
        from kitae.bench import main as bench

        return bench(argv[1:])

    parser = OneLineParser(prog="python -m kitae", description="Fused training kernels for NumPy and CuPy users.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="demo | bench | info")
    demo = commands.add_parser("demo", help="train a network three ways: curves, times, plots")
    commands.add_parser("bench", help="time kitae's kernels against NumPy (and PyTorch)")
    commands.add_parser("info", help="version, instruction set, threads, CUDA")

    from kitae.demo import command

    command.add_arguments(demo)
    arguments = parser.parse_args(argv)
    if arguments.command == "info":
        import kitae

        kitae.show_config()
        return 0
    return run_demo(arguments)


def run_demo(arguments: argparse.Namespace) -> int:
    from kitae.data import DataError
    from kitae.demo import command

    try:
        return command.run(arguments)
    except (command.UsageError, DataError) as problem:
        print(f"python -m kitae demo: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\npython -m kitae demo: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
