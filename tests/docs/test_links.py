"""Every relative link of a page leads to a file that is there, and to a heading that it has."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

REPOSITORY = Path(__file__).parents[2]
_NOT_OURS = {".venv", "var", "dagster_home", "dist", "node_modules"}
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
_OUTSIDE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def pages() -> list[Path]:
    found: list[Path] = []
    for folder, inner, names in os.walk(REPOSITORY):
        inner[:] = [name for name in inner if name not in _NOT_OURS and not name.startswith(".")]
        found += [Path(folder, name).relative_to(REPOSITORY) for name in names if name.endswith(".md")]
    return sorted(found)


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading: its text in lower case, without punctuation, '-' for blanks."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    text = re.sub(r"\*([^*]*)\*", r"\1", text.replace("**", ""))
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


@cache
def anchors(page: Path) -> frozenset[str]:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    found = {*re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text)}
    seen: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6}[ \t]+(.+?)[ \t]*#*$", text, re.MULTILINE):
        name = slug(heading)
        count = seen[name] = seen.get(name, -1) + 1
        found.add(f"{name}-{count}" if count else name)
    return frozenset(found)


def broken(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere, as they are written."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    text = re.sub(r"`[^`\n]*`", "", text)  # shown, not followed
    faults = []
    for target in _LINK.findall(text):
        if _OUTSIDE.match(target):
            continue
        name, _, anchor = unquote(target).partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and (file.suffix != ".md" or anchor not in anchors(file))):
            faults.append(target)
    return faults


def test_links_of_all_pages_lead_somewhere() -> None:
    faults = [f"{page}: {target}" for page in pages() for target in broken(REPOSITORY / page)]
    assert faults == []
    assert {"README.md", "CONTRIBUTING.md", "docs/method.md"} <= {path.as_posix() for path in pages()}


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("What `setr` does", "what-setr-does"),
        ("CIRR val without images: the caption proxy", "cirr-val-without-images-the-caption-proxy"),
        ("PDV's settings", "pdvs-settings"),
        ("`[models.judge]`", "modelsjudge"),
        ("See [the page](page.md)", "see-the-page"),
        ("retrieval_dpo", "retrieval_dpo"),
    ],
)
def test_an_anchor_is_the_heading_as_github_writes_it(heading: str, anchor: str) -> None:
    assert slug(heading) == anchor


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A heading\n\n# A heading\n\n<a id='x'></a>\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n\n[a](other.md) [b](other.md#a-heading) [c](other.md#a-heading-1) [d](#here) <a id='y'>\n"
        "[e](https://example.org/none) `[f](shown.md)`\n\n```\n[g](shown.md)\n```\n"
        "[h](gone.md) [i](other.md#none) [j](#there) ![k](gone.png) [l](other.md#a-heading-2)\n",
        encoding="utf-8",
    )
    assert broken(page) == ["gone.md", "other.md#none", "#there", "gone.png", "other.md#a-heading-2"]
