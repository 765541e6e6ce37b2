"""python -m constructions.oymak2023.real_data [--quick] [--seed N] [--save FILE] [--plot FILE.png]: the experiment on framed digits."""

from __future__ import annotations

import argparse

from constructions.oymak2023.real_data.experiment import RealDataExperiment, experiment, full, quick


def main() -> None:
    """Run, or read a saved experiment, print the table, draw."""
    parser = argparse.ArgumentParser(prog="python -m constructions.oymak2023.real_data", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two seeds, small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--load", metavar="FILE", help="draw a saved experiment instead of running one")
    parser.add_argument("--save", metavar="FILE", help="where to keep configuration and results")
    parser.add_argument("--plot", metavar="FILE", help="where to draw the bars")
    given = parser.parse_args()
    configuration = quick(given.seed) if given.quick else full(given.seed)
    found = RealDataExperiment.load(given.load) if given.load else experiment(configuration, progress=True)
    for name, mean, half, numbers in zip(found.names, found.mean, found.half_width, found.numbers, strict=True):
        print(f"{name:16s} {numbers:6d} parameters   test accuracy {mean:.4f} +- {half:.4f}")
    for rival in found.names[:-1]:
        gain, half = found.advantage(rival)
        print(f"softmax prompt - {rival:15s} {gain:+.4f} +- {half:.4f} (paired, 95 %)")
    if given.save:
        found.save(given.save)
    if given.plot:
        from constructions.plots.real_data import draw_accuracy

        draw_accuracy(found).savefig(given.plot, dpi=150)


if __name__ == "__main__":
    main()
