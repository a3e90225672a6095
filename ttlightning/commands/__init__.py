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
    "rank": "Bounds and generic ranks over ranges of n, r and d.",
    "certify": "Certify a rank, of a trained network or of almost every chain.",
    "verify": "Check certificates by code that shares nothing with certify.",
    "export": "A file that ONNX runtimes or torch alone run.",
    "compress": "Round a trained chain to a smaller TT-rank; it trains on.",
    "compare": "Finished runs side by side: means, tests, curves, a page.",
    "study": "Many runs from one file: seeds, a grid or a sweep.",
    "rerun": "Run a finished run again: does it come out the same?",
    "completion": "A script that completes the words in bash or zsh.",
}
"""Verbs with a module of their own in this package, and what they do; ``main`` of the module runs the verb."""

GROUPS: Final = {
    "Networks": ("fit", "validate", "test", "predict", "export", "compress"),
    "Ranks": ("rank", "certify", "verify"),
    "Runs": ("compare", "rerun", "study"),
    "Shell": ("completion",),
}
"""The verbs as the help of the program lists them."""


def overview() -> str:
    """The text of ``python -m ttlightning --help``, in 80 columns."""
    lines = ["usage: python -m ttlightning VERB [options]", ""]
    for title, verbs in GROUPS.items():
        lines += [f"{title}:", *(f"  {verb:<12}{(WITH_TRAINER | WITHOUT_TRAINER)[verb]}" for verb in verbs), ""]
    lines.append("python -m ttlightning VERB --help shows the options of a verb.")
    lines.append("First steps: ttlightning fit --config debug.yaml; ttlightning compare runs/debug")
    return "\n".join(lines)
