"""Build the site: the pages of both languages and the reference of the public modules, without the network.

python docs/build.py         # or: make docs

Each language is a site of its own, with the same page under the same name. The pages in this folder link to
each other and to files of the repository, as a clone has them; their copies in build/docs/ link to pages of
the site, and to the repository for everything else. A link that leads nowhere is an error; so is a warning.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {"en": "mkdocs.yml", "zh-CN": "mkdocs.zh-CN.yml"}
REPOSITORY = "https://github.com/crossrank/crossrank"
# Pages of the site that are not in docs/.
OUTSIDE = {"README": "index", "CHANGELOG": "changelog", "CONTRIBUTING": "contributing", "SECURITY": "report"}
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)(#[^)\s]*)?\)")
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
# A line that ends and goes on in Chinese: a browser would show a space there.
WRAPPED = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef])\n[ ]*(?=[\u3000-\u9fff\uff00-\uffef])")
# The line at a page's top that leads to the same page in the other language: the site has a menu for it.
OTHER_LANGUAGE = re.compile(r"\n\[(?:中文|English)\]\([\w.-]+\)\n", re.MULTILINE)


def sources(language: str) -> dict[Path, str]:
    """The file of each page, and the page's name in the site; a page without a translation is in both."""
    pages = {path: path.stem for path in (ROOT / "docs").glob("*.md") if "." not in path.stem}
    pages |= {ROOT / f"{name}.md": page for name, page in OUTSIDE.items()}
    chosen = {}
    for path, page in pages.items():
        translated = path.with_suffix(f".{language}.md")
        chosen[translated if translated.exists() else path] = page
    return chosen


def stage(language: str, folder: Path) -> None:
    """Write the pages of one language, and the pictures, to ``folder``, with links as the site needs them.

    Raises:
        ValueError: a link of a page leads nowhere.
    """
    pages = sources(language)
    names = {path.name.split(".")[0]: page for path, page in pages.items()}

    def rewrite(source: Path, link: re.Match[str]) -> str:
        before, target, anchor = link[1], link[2], link[3] or ""
        if re.match(r"[a-z]+:", target):
            return link[0]
        path = Path(os.path.normpath(source.parent / target))
        if not path.exists():
            raise ValueError(f"{source.relative_to(ROOT)}: {target} does not exist")
        if path.suffix == ".md" and path.parent in (ROOT, ROOT / "docs") and path.name.split(".")[0] in names:
            return f"{before}{names[path.name.split('.')[0]]}.md{anchor})"
        if path.is_relative_to(ROOT / "docs") and path.suffix in (".png", ".svg"):
            return f"{before}{path.relative_to(ROOT / 'docs')})"
        kind = "tree" if path.is_dir() else "blob"
        return f"{before}{REPOSITORY}/{kind}/main/{path.relative_to(ROOT)}{anchor})"

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(
        ROOT / "docs", folder, ignore=shutil.ignore_patterns("*.md", "*.py", "*.yml", "__pycache__")
    )
    for path, page in pages.items():
        text = OTHER_LANGUAGE.sub("", path.read_text("utf-8"), count=1)
        parts = CODE.split(text)
        # Even parts are words, odd ones code.
        parts[::2] = [WRAPPED.sub("", LINK.sub(partial(rewrite, path), part)) for part in parts[::2]]
        (folder / f"{page}.md").write_text("".join(parts), encoding="utf-8")


def main() -> int:
    """Build both languages into build/site."""
    shutil.rmtree(ROOT / "build" / "site", ignore_errors=True)
    for language, config in CONFIGS.items():
        try:
            stage(language, ROOT / "build" / "docs" / language)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", config]
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        # Zensical's strict mode does not know of what the reader of docstrings says.
        if done.returncode != 0 or "griffe: " in done.stdout:
            print(f"{done.stdout}\nerror: {config} has warnings or errors", file=sys.stderr)
            return 1
    print(f"build/site/index.html: {len(sources('en'))} pages in {len(CONFIGS)} languages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
