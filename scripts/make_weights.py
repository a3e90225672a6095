"""Release trained networks: small safetensors files, an index with their hashes, and a model card for each.

    python scripts/make_weights.py eq=runs/eq/0 tt=runs/tt/0 [best/eq=runs/best_eq/0] [--output ttlightning/weights]

Takes finished runs of ``fit``. A name that is there already is left as it is, and refused.
"""

import argparse
from pathlib import Path

from ttlightning.errors import UserError
from ttlightning.rank.bounds import in_figures
from ttlightning.runs.releases import FOLDER, write_release
from ttlightning.runs.run import Run
from ttlightning.system.output import run_script

PARTS = {
    "test/acc": "test",
    "val/acc": "validation",
    "train/acc": "train, counted during the last epoch",
}


def card(name: str, run: Run) -> str:
    """The model card, from the run's own records."""
    config, result, provenance = run.config, run.result, run.provenance
    network, data, git = run.network().format, provenance["dataset"], provenance.get("git") or {}
    metrics, width = result["metrics"], result["rank"].get("certified")
    colour = "grey" if run.network().image_shape[0] == 1 else "in colour"
    augmentation = {k: v for k, v in (config["data"].get("augmentation") or {}).items() if v}
    accuracy = [f"| {part} | {100 * metrics[key]:.2f} |" for key, part in PARTS.items() if key in metrics]
    lines = [
        f"# {name}",
        "",
        f"{network.name} ({network.kind}): {network.sites} sites, mode size {network.mode_size}, "
        f"rank {network.rank}, {network.classes} classes, {result['parameters']:,} parameters.",
        "",
        f'    network = ttlightning.load("{name}")',
        "    probabilities = network.predict(images)",
        "",
        f"**Data.** {data['name']}: {data['train']:,} images to train on, {data['validation']:,} held out, "
        f"{data['test']:,} to test on. SHA-256 of the data: `{data['sha256']}`.",
        "",
        f"**Recipe.** Config `{result['experiment']}`, {result['epochs']} epochs, seed {result['seed']}, "
        f"{config['model']['optimizer']['class_path']}"
        f"{f', augmentation {augmentation}' if augmentation else ''}. The complete configuration is in the "
        f"header of the file. Commit `{git.get('commit')}`{' with changes' if git.get('dirty_diff_sha256') else ''}.",
        "",
        "**Accuracy** of these weights, in percent:",
        "",
        "| images | accuracy |",
        "|---|---|",
        *accuracy,
        "",
        f"SHA-256 of the weights: `{result['weights_sha256']}`.",
        *([f"CP-rank of every class tensor: certified to be at least {in_figures(min(width))}."] if width else []),
        "",
        f"**Limits.** It knows images of {data['name']} and nothing else: {colour}, of the size, centring and "
        "brightness of that data set. It gives probabilities for any image, also for one that shows none of its "
        "classes; they are not calibrated. One seed: other seeds differ by some tenths of a percent.",
        "",
        "**Licence.** MIT, as this package. The data have their own terms.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--output", type=Path, default=FOLDER)
    options = parser.parse_args()
    named = []
    for word in options.releases:
        name, equals, path = word.partition("=")
        if not equals or not all(part.isidentifier() for part in name.split("/")):
            raise UserError(f"{word} must be NAME=RUN, such as best/eq=runs/best_eq/0")
        named.append((name, Run.open(path, finished=True)))
    for name, run in named:
        file = write_release(options.output, name, run.checkpoint, card(name, run))
        print(f"{name:<10} {file} ({file.stat().st_size:,} bytes, weights {run.result['weights_sha256'][:12]}...)")


if __name__ == "__main__":
    run_script(main)
