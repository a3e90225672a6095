"""The verbs of the command line. The code of a verb is imported when the verb runs."""

from typing import Final

WITH_TRAINER: Final = {
    "fit": "Train a network, then score it on the test set.",
    "validate": "Score a trained network on the validation set.",
    "test": "Score a trained network on the test set.",
    "predict": "Write the class probabilities of images to a CSV file.",
}
"""Verbs of LightningCLI, and what they do."""

WITHOUT_TRAINER: Final = {
    "rank": "Bounds and generic ranks over ranges of mode size, TT-rank and number of sites.",
    "certify": "Certify a rank: of almost every tensor train, or of a trained network.",
    "verify": "Check certificates with code that shares nothing with the code that made them.",
    "export": "Write a trained network to a file that ONNX runtimes or torch alone run.",
    "compress": "Round a trained tensor train to a smaller TT-rank, as a run that trains on.",
    "compare": "Finished runs side by side: means over seeds, paired tests, curves, a page.",
    "study": "Many runs from one file, seeds, a grid or a sweep, made here or by SLURM, and their table.",
    "rerun": "Run a finished run again, and say whether it came out the same.",
    "completion": "A script that completes the words of this command in bash or zsh.",
}
"""Verbs with a module of their own in this package, and what they do; ``main`` of the module runs the verb."""


def overview() -> str:
    """The text of ``python -m ttlightning --help``."""
    lines = ["usage: python -m ttlightning VERB [options]", ""]
    for title, verbs in (("With a trainer", WITH_TRAINER), ("Without", WITHOUT_TRAINER)):
        lines += [f"{title}:", *(f"  {verb:<12}{text}" for verb, text in verbs.items()), ""]
    lines.append("python -m ttlightning VERB --help shows the options of a verb.")
    lines.append("A configuration inside a checkpoint or run names only known classes, and those of --trust NAME,NAME.")
    return "\n".join(lines)
