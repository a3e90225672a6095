"""Links of docs/, for the site. Those that lead out of it: figures of results/ are copied, other files are on GitHub.

In the repository ``../results/table.md`` is the file itself, which mkdocs does not have. A link that shows the file
of a page, ``[width.md](width.md)``, shows its title.
"""

import re
from pathlib import Path
from posixpath import join, normpath
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

LINK = re.compile(r"\]\((\.\./[^)\s#]*)(#[^)\s]*)?\)")
NAMED = re.compile(r"\[(?:docs/)?[\w/]+\.md\]\(([\w/.]+\.md)(#[^)\s]*)?\)")
PICTURES = (".png", ".svg")


def on_files(files: Files, config: Any) -> Files:
    """Add the figures."""
    root = Path(config.config_file_path).parent
    for picture in sorted((root / "results").iterdir()):
        if picture.suffix in PICTURES:
            files.append(File(f"results/{picture.name}", str(root), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """A link out of docs/ becomes one to the copied figure, or to GitHub."""
    root, here = Path(config.config_file_path).parent, str(Path(page.file.src_uri).parent)

    def replaced(found: re.Match[str]) -> str:
        target = normpath(join("docs", here, found[1]))
        if target.startswith("docs/"):
            return found[0]
        if not (root / target).exists():
            raise PluginError(f"docs/{page.file.src_uri} has a link to {target}, which does not exist")
        if target.startswith("results/") and target.endswith(PICTURES):
            return f"]({'../' * here.count('/') if here != '.' else ''}{'../' if here != '.' else ''}{target})"
        kind = "tree" if (root / target).is_dir() else "blob"
        return f"]({config.repo_url.rstrip('/')}/{kind}/main/{target}{found[2] or ''})"

    def titled(found: re.Match[str]) -> str:
        target = root / normpath(join("docs", here, found[1]))
        first = target.read_text().partition("\n")[0] if target.is_file() else ""
        return f"[{first[2:]}]({found[1]}{found[2] or ''})" if first.startswith("# ") else found[0]

    return LINK.sub(replaced, NAMED.sub(titled, markdown))


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Pictures after the first are read when they come into view."""
    first, *others = html.split("<img ")
    return "<img ".join([first, *others[:1], *(f'loading="lazy" {other}' for other in others[1:])])
