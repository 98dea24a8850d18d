"""A text that has everything that acts in one of the places where text from data ends up."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt

NASTY = (
    "=cmd|'/c calc'!A1\n# h\n- [b](http://evil.example) ![p](https://evil.example/p.png) "
    "<http://evil.example> <img src=x onerror=1> <script>alert(1)</script> <!-- --> `code` **b** _i_ ~~s~~ "
    "[r]: http://evil.example www.evil.example me@evil.example ftp://evil.example | || \\| </script> "
    "{{ 7 * 7 }} {% raw %} \x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J \r \x08 \x00 \u202egnp.exe\u202c "
    "\u2066\u2069 \u200e\u200f \u2028\u2029\x85 [bold]x[/bold] &lt;b&gt; 'q' \"qq\""
)
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Characters that act on a terminal or on the direction of a text."""

# What GitHub's flavour of Markdown takes for a link in plain text, after everything else is read.
_AUTOLINKS = re.compile(r"(?i)(?:https?|ftp)://[-.\w]+|\bwww\.[-\w]+|[-.\w+]+@[-\w]+(?:\.[-\w]+)+")


def links_and_pictures(text: str) -> list[str]:
    """What a page that renders ``text`` as Markdown with HTML would link to, show, or run.

    Args:
        text: Markdown.

    Returns:
        One entry for each.
    """
    found: list[str] = []
    for block in MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text):
        if block.type in ("html_block", "fence", "code_block", "heading_open", "bullet_list_open"):
            found.append(block.type)
        for token in block.children or ():
            if token.type == "text":
                found += _AUTOLINKS.findall(token.content)
            elif token.type not in ("softbreak", "text_special"):
                found.append(token.type)
    return found
