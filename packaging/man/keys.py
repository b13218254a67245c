#!/usr/bin/env python3
"""A manual page of a configuration file, with the keys as the shipped file documents them.

    packaging/man/keys.py PAGE CONFIG

prints PAGE with its line `.\\" KEYS` replaced by every key of CONFIG: its default and the comment above it. So there is
one place where a key is described, and it is the one that people edit.
"""

import re
import sys
import textwrap
from pathlib import Path

# `#key = value` is a default, `# key = value` an example of a key that has none.
KEY = re.compile(r'#( ?)([a-z][a-z-]*) = (["\[\d].*|true|false)$')


def escaped(text):
    """Text that roff takes literally."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return re.sub(r"^([.'])", r"\\&\1", text)


def sentences(comment):
    """Comment lines, joined and then cut where mdoc wants it: a new line for each sentence, none very long."""
    parts = re.split(r"(?<=[.:]) (?=[A-Z`])", " ".join(comment))
    lines = (textwrap.wrap(part, 72, break_long_words=False, break_on_hyphens=False) for part in parts)
    return [escaped(line) for part in lines for line in part]


def keys(config):
    """(table, comment lines, [(key, value, is a default)]) of each group of keys, in the file's order."""
    table, comment, found, groups = "", [], [], []
    for line in [*config.splitlines(), ""]:
        if match := KEY.match(line):
            found.append((match[2], match[3], not match[1]))
            continue
        if found:
            groups.append((table, comment, found))
            comment, found = [], []
        if line.startswith("#"):
            comment.append(line[1:].strip())
        else:
            comment = []
            if line.startswith("["):
                table = line.strip("[]")
    return groups


def main():
    page, config = (Path(name).read_text() for name in sys.argv[1:])
    lines, current = [], None
    for table, comment, found in keys(config):
        if table != current:
            if current is not None:
                lines.append(".El")
            lines.append(f".Ss Table [{escaped(table)}]" if table else ".Ss Before any table")
            lines.append(".Bl -tag -width Ds")
            current = table
        for key, value, default in found:
            lines.append(f".It Cm {escaped(key)} No = {escaped(value)}" + ("" if default else " Pq an example; no default"))
        lines += sentences(comment)
    lines.append(".El")
    marker = '.\\" KEYS\n'
    if marker not in page:
        sys.exit(f"{sys.argv[1]}: no line {marker!r}")
    sys.stdout.write(page.replace(marker, "\n".join(lines) + "\n"))


if __name__ == "__main__":
    main()
