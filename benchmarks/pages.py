"""Pages of the documentation that more than one program writes, each a section between its own marks."""

from __future__ import annotations

import re


def section_of(page: str, name: str) -> str:
    """A program's section of a page, with its marks.

    Args:
        page: The page.
        name: The section's name.

    Returns:
        The section; empty where the page has none.
    """
    found = re.search(_pattern(name), page, re.DOTALL)
    return found.group(0) if found else ""


def with_section(page: str, name: str, text: str) -> str:
    """A page with a program's section.

    Args:
        page: The page.
        name: The section's name.
        text: What it says; without marks.

    Returns:
        The page, the section in its place, or at the end where there was none.
    """
    begin, end = _marks(name)
    section = f"{begin}\n\n{text.strip()}\n\n{end}"
    if section_of(page, name):
        return re.sub(_pattern(name), lambda _: section, page, flags=re.DOTALL)
    return f"{page.rstrip()}\n\n{section}\n"


def kept(page: str, earlier: str, name: str) -> str:
    """A page that was written anew, with the section that another program wrote into the earlier one.

    Args:
        page: The new page.
        earlier: What it replaces.
        name: The section's name.

    Returns:
        The new page with the earlier section at its end.
    """
    section = section_of(earlier, name)
    return f"{page.rstrip()}\n\n{section}\n" if section else page


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def _pattern(name: str) -> str:
    begin, end = map(re.escape, _marks(name))
    return f"{begin}.*?{end}"
