"""Patterns for the paths of files, in the style of rclone and gitignore."""

from __future__ import annotations

import re


def glob_pattern(glob: str) -> re.Pattern[str]:
    """The regular expression of a pattern; matches the whole of a path that is relative to its source.

        *.dcm            the file name, in any directory
        /CT/*.dcm        only in the directory CT of the source
        backup/          everything in any directory with this name
        **/raw/*/IM*     `*` and `?` do not match a `/`, `**` does

    `[abc]` and `[!abc]` match one character, `{dcm,ima}` one of several, and a backslash takes the next one as it is.
    Raises ValueError with a reason for what is not a pattern.
    """
    if not glob.strip("/"):
        raise ValueError("it is empty")
    anchor = "" if glob.startswith("/") else "(?:.*/)?"
    body = glob.removeprefix("/")
    if body.endswith("/"):
        body += "**"
    try:
        return re.compile(anchor + _translated(body), re.DOTALL)
    except re.error as error:
        raise ValueError(f"it is not a pattern: {error.msg}") from None


def _translated(glob: str) -> str:
    parts: list[str] = []
    depth = at = 0
    while at < len(glob):
        char = glob[at]
        at += 1
        if char == "*":
            is_double = glob.startswith("*", at)
            at += is_double
            if is_double and glob.startswith("/", at):  # `a/**/b` matches `a/b` too
                at += 1
                parts.append("(?:.*/)?")
            else:
                parts.append(".*" if is_double else "[^/]*")
        elif char == "?":
            parts.append("[^/]")
        elif char == "[":
            text, at = _class(glob, at)
            parts.append(text)
        elif char == "{":
            depth += 1
            parts.append("(?:")
        elif char == "}" and depth:
            depth -= 1
            parts.append(")")
        elif char == "," and depth:
            parts.append("|")
        elif char == "\\":
            if at == len(glob):
                raise ValueError("it ends in a backslash")
            parts.append(re.escape(glob[at]))
            at += 1
        else:
            parts.append(re.escape(char))
    if depth:
        raise ValueError("a { has no }")
    return "".join(parts)


def _class(glob: str, at: int) -> tuple[str, int]:
    """A class of characters that begins before `at`; and where it ends."""
    is_negated = glob.startswith(("!", "^"), at)
    begin = at + is_negated
    end = glob.find("]", begin + 1)
    if end < 0:
        raise ValueError("a [ has no ]")
    chosen = glob[begin:end].replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace("^", "\\^")
    excluded = "/" if is_negated else ""
    return f"[{'^' if is_negated else ''}{chosen}{excluded}]", end + 1
