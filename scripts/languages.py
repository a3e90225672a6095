r"""sequences/text.yaml on a corpus: the language of a line, byte by byte, beside naive Bayes on n-grams of bytes.

    apt install manpages manpages-cs manpages-da manpages-de ...
    python scripts/languages.py [--man /usr/share/man] [--languages cs da de ...] [--corpus languages]
        [--longest 100] [--train 1500] [--test 300] [--seeds 3] [--jobs 1] [--output results/languages] [options of fit]

A document is the beginning of a paragraph of a manual page without its markup, up to a word's end before a length
between 10 and --longest bytes that follows from its hash. Pages are split by their names, so that the translations of
one page are on the same side. What two languages share is left out; some paragraphs are untranslated nevertheless, and
nobody is right on these. The corpus is written once, as train.txt and test.txt in the folder --corpus, with the options
that made it. At most --train and --test documents of a language are taken.

The table has the accuracy on test documents of all lengths, and of three ranges of bytes: means over the seeds with
95 % intervals (Student's t), and multinomial naive Bayes on the n-grams of 1 to 3 bytes of the same training documents.
Runs that have a result in $TTLIGHTNING_RUNS are not made again. Writes OUTPUT.json and .md.
"""

import argparse
import gzip
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

from ttlightning.commands.studies import Job, make_runs, percent, require
from ttlightning.errors import UserError
from ttlightning.runs.files import write_json, write_whole
from ttlightning.runs.machine import cpu_name
from ttlightning.runs.run import Run
from ttlightning.system.output import run_script

LANGUAGES = ("cs", "da", "de", "en", "es", "fi", "fr", "hu", "id", "it", "nb", "nl", "pl", "pt_BR", "ro", "sv")
SHORTEST = 10
MARKUP = re.compile(r"\\f[A-Z]|\\f\[[^]]*\]|\\[,/&|%:c]|\\s[-+]?\d")
LETTERS = 0.9
"""Least share of letters and spaces in a document: tables and examples have no language."""
NO_TEXT = re.compile(r"[/\[\]=|<>_{}@]|(^| )-")
"""Paths, options and programs."""
TEST_SHARE = 5
"""One page of so many is for the test."""


def digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def paragraphs(page: str) -> Iterator[str]:
    """The running text of a page, without requests, fonts and escapes."""
    lines: list[str] = []
    for line in [*page.splitlines(), "."]:
        if not line.startswith((".", "'")):
            lines.append(line)
            continue
        text = MARKUP.sub("", " ".join(lines)).replace("\\-", "-").replace("\\(co", "")
        lines = []
        if "\\" not in text:
            yield " ".join(text.split())


def document(paragraph: str, longest: int) -> str | None:
    """Its beginning; None where it is too short, or mostly no words."""
    length = SHORTEST + digest(paragraph) % (longest - SHORTEST + 1)
    words, size = [], 0
    for word in paragraph.split():
        size += len(word.encode()) + 1
        if size - 1 > length:
            break
        words.append(word)
    text = " ".join(words)
    is_text = sum(c.isalpha() or c == " " for c in text) >= LETTERS * len(text) and not NO_TEXT.search(text)
    return text if len(words) > 1 and len(text.encode()) >= SHORTEST and is_text else None


def pages(man: Path, language: str) -> Iterator[tuple[str, str]]:
    """Name and text of every page of a language; English has no folder of its own."""
    folder = man if language == "en" else man / language
    for file in sorted(folder.glob("man[1-8]/*")):
        if file.is_symlink():  # another name of the same page
            continue
        content = file.read_bytes()
        content = gzip.decompress(content) if file.suffix == ".gz" else content
        yield file.name.removesuffix(".gz"), content.decode(errors="ignore")


def corpus(man: Path, languages: list[str], longest: int, most: dict[str, int]) -> dict[str, list[tuple[str, str]]]:
    """``train`` and ``test``: pairs of language and document.

    Raises:
        UserError: a language without pages.
    """
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for language in languages:
        there = [(name, text) for name, page in pages(man, language) for text in paragraphs(page)]
        if not there:
            package = "manpages" if language == "en" else f"manpages-{language.lower().replace('_', '-')}"
            raise UserError(f"{man} has no pages of {language}: install {package}")
        for name, text in there:
            part = "test" if digest(name) % TEST_SHARE == 0 else "train"
            if (short := document(text, longest)) is not None:
                found[language, part].add(short)
    count = Counter(text for language in languages for text in found[language, "train"] | found[language, "test"])
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for part, chosen in parts.items():
        for language in languages:
            own = [text for text in found[language, part] if count[text] == 1]
            own = [text for text in own if part == "test" or text not in found[language, "test"]]
            chosen += [(language, text) for text in sorted(own, key=digest)[: most[part]]]
    return parts


def write_corpus(parts: dict[str, list[tuple[str, str]]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, pairs in parts.items():
        text = "".join(f"{language}\t{document}\n" for language, document in pairs)
        write_whole(folder / f"{part}.txt", text.encode())


def read_corpus(folder: Path) -> dict[str, list[tuple[str, str]]]:
    def pairs(part: str) -> list[tuple[str, str]]:
        lines = (folder / f"{part}.txt").read_text().splitlines()
        return [(label, text) for label, _, text in (line.partition("\t") for line in lines)]

    return {part: pairs(part) for part in ("train", "test")}


def naive_bayes(parts: dict[str, list[tuple[str, str]]]) -> list[bool]:
    """Which test documents it has right."""
    counts = CountVectorizer(analyzer="char", ngram_range=(1, 3), lowercase=False)
    bytes_of = {part: [text.encode().decode("latin-1") for _, text in pairs] for part, pairs in parts.items()}
    train = counts.fit_transform(bytes_of["train"])
    model = MultinomialNB(alpha=0.1, fit_prior=False).fit(train, [language for language, _ in parts["train"]])
    said = model.predict(counts.transform(bytes_of["test"]))
    return [bool(a == b) for a, (b, _) in zip(said, parts["test"], strict=True)]


def chain(run: Run, parts: dict[str, list[tuple[str, str]]]) -> list[bool]:
    """Which test documents the trained chain has right."""
    network = run.network()
    said = network.predict([text for _, text in parts["test"]]).argmax(1).tolist()
    return [network.class_names[a] == b for a, (b, _) in zip(said, parts["test"], strict=True)]


def share(right: list[bool], sizes: list[int], low: int, high: int) -> float:
    chosen = [good for good, size in zip(right, sizes, strict=True) if low <= size <= high]
    return sum(chosen) / len(chosen)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--man", type=Path, default=Path("/usr/share/man"))
    parser.add_argument("--languages", nargs="+", default=list(LANGUAGES))
    parser.add_argument("--corpus", type=Path, default=Path("languages"))
    parser.add_argument("--longest", type=int, default=100, help="bytes of a document")
    parser.add_argument("--train", type=int, default=1500, help="documents of a language")
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--output", type=Path, default=Path("results/languages"))
    options, more = parser.parse_known_args()
    if options.longest < 2 * SHORTEST:
        raise UserError(f"--longest is {options.longest}, it must be at least {2 * SHORTEST} bytes")
    most = {"train": options.train, "test": options.test}
    made_by = {"languages": options.languages, "longest": options.longest, **most}
    record = options.corpus / "options.json"
    if not options.corpus.exists():
        write_corpus(corpus(options.man, options.languages, options.longest, most), options.corpus)
        write_json(record, made_by)
    elif not record.exists() or json.loads(record.read_text()) != made_by:
        raise UserError(f"{options.corpus} was not made with these options: name another folder with --corpus")
    parts = read_corpus(options.corpus)
    sizes = [len(text.encode()) for _, text in parts["test"]]
    words = ("--config", "sequences/text.yaml", f"--data.root={options.corpus.absolute()}")
    words += ("--data.validation=0", "--rank_check.every_n_epochs=0", "--figures=false", "--wandb.mode=disabled", *more)
    runs = require(make_runs([Job("languages", words, seed) for seed in range(options.seeds)], options.jobs))
    right = {"chain": [chain(run, parts) for run in runs], "naive Bayes, 1 to 3 bytes": [naive_bayes(parts)]}
    low, high = sorted(sizes)[len(sizes) // 3], sorted(sizes)[2 * len(sizes) // 3]
    ranges = [(0, max(sizes)), (0, low), (low + 1, high), (high + 1, max(sizes))]
    ranges = [(a, b) for a, b in ranges if any(a <= size <= b for size in sizes)]
    head = " | ".join(
        "all" if (a, b) == ranges[0] else f"{a} to {b} bytes" if a else f"up to {b} bytes" for a, b in ranges
    )
    lines = [f"| | parameters | {head} |", "|---" * (2 + len(ranges)) + "|"]
    rows: list[dict[str, Any]] = []
    for name, several in right.items():
        cells = [[share(each, sizes, *limits) for each in several] for limits in ranges]
        parameters = runs[0].result["parameters"] if name == "chain" else None
        rows.append({"name": name, "parameters": parameters, "accuracy": cells})
        lines.append(f"| {name} | {parameters or ''} | {' | '.join(map(percent, cells))} |")
    table = "\n".join(lines) + "\n"
    about = {
        "machine": cpu_name(), "torch": torch.__version__, "languages": sorted({label for label, _ in parts["test"]}),
        "documents": {part: len(pairs) for part, pairs in parts.items()}, "ranges": ranges, "rows": rows,
        "dataset": runs[0].provenance["dataset"], "weights_sha256": [run.result["weights_sha256"] for run in runs],
        "seconds": [run.result["seconds"] for run in runs],
    }  # fmt: skip
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output.with_suffix(".json"), about)
    write_whole(options.output.with_suffix(".md"), table.encode())
    print(table, end="")


if __name__ == "__main__":
    run_script(main)
