"""`make gpu`: is everything right on this GPU, and how fast is it? No network, one command, a dated table.

    python tests/benchmarks/gpu                       # on a GPU: the paper's sizes; elsewhere: small ones, on the CPU
    python tests/benchmarks/gpu --only extraction     # a part of the figures

Weights are random, so nothing is downloaded. The table is printed, and written to `--output` under the date and the
name of the device. The exit code is 1 if a check failed. Written without a GPU at hand; `--smoke` runs in the tests.
"""

import argparse
import sys
from datetime import date
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
from correctness import CHECKS, NotHere  # noqa: E402
from figures import FIGURES, peak, precision  # noqa: E402
from shapes import PAPER, SMOKE, Shape  # noqa: E402


def checks(device: torch.device) -> tuple[list[str], list[str]]:
    """Rows of the table, and what failed."""
    rows, failed = [], []
    for name, check in CHECKS.items():
        try:
            state, remark = "right", check(device)
        except NotHere as reason:
            state, remark = "not run", str(reason)
        except Exception as error:  # the others are still worth knowing
            state, remark = "WRONG", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            failed.append(name)
        rows.append(f"| {name} | {state} | {remark} |")
        print(rows[-1], flush=True)
    return rows, failed


def figures(device: torch.device, shape: Shape, only: list[str]) -> tuple[list[str], list[str], dict[str, float]]:
    """Rows of the table, what failed, and rates of `polyvid plan`."""
    best = peak(shape, device)
    rows = [f"| peak, 10^12 operations/s | {best / 1e12:,.1f} | product of {shape.product} x {shape.product} |"]
    failed, rates = [], {}
    for name in only:
        try:
            for what, figure, remark in FIGURES[name](shape, device, best, rates):
                rows.append(f"| {what} | {figure} | {remark} |")
                print(rows[-1], flush=True)
        except Exception as error:
            rows.append(f"| {name} | WRONG | {type(error).__name__}: {' '.join(str(error).split())[:200]} |")
            failed.append(name)
            print(rows[-1], flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return rows, failed, rates


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="Small sizes, on the CPU, even if there is a GPU.")
    parser.add_argument("--only", nargs="+", choices=[*FIGURES], default=[*FIGURES], help="These figures.")
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu"), help="Folder of the table.")
    options = parser.parse_args()
    on_gpu = torch.cuda.is_available() and not options.smoke
    device, shape = torch.device("cuda" if on_gpu else "cpu"), PAPER if on_gpu else SMOKE
    device_name = torch.cuda.get_device_name() if on_gpu else "CPU, smoke size"
    if not on_gpu:
        print("Small sizes on the CPU: these figures say nothing, only that everything runs.\n")

    right, failed = checks(device)
    measured, broken, rates = figures(device, shape, options.only)
    text = f"# {device_name}, {date.today()}\n\ntorch {torch.__version__}, {str(precision(device))[6:]}\n\n"
    text += (
        "\n".join(["| check | | |", "|---|---|---|", *right, "", "| figure | | |", "|---|---:|---|", *measured]) + "\n"
    )
    if on_gpu and rates:
        text += "\n    polyvid plan " + " ".join(f"--rate {name}={rate:.4g}" for name, rate in rates.items()) + "\n"
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{date.today()}-{device_name.lower().replace(',', '').replace(' ', '-')}.md"
    path.write_text(text, encoding="utf-8")
    print(f"\nwritten to {path}")
    if failed or broken:
        print(f"error: wrong here: {', '.join([*failed, *broken])}", file=sys.stderr)
    return 1 if failed or broken else 0


if __name__ == "__main__":
    sys.exit(main())
