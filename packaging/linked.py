#!/usr/bin/env python3
"""What is linked into a program, written three ways: for an inventory, inside the program, and for its licences.

    packaging/linked.py MESSAGES PROGRAM TARGET OUT

MESSAGES is what `cargo build --message-format=json` printed while it built PROGRAM: it names every crate that was
compiled. With `--target TARGET`, what was compiled for the program lies in another folder than what was compiled for
build scripts and macros, so the list is exact. Written into the folder OUT:

    sbom.json    CycloneDX 1.6
    dep-v0       the same list as cargo-auditable puts it into a program's section .dep-v0
    copyright    Debian's machine-readable copyright file, from packaging/deb/copyright and the crates' own licences

The same input gives the same bytes: SOURCE_DATE_EPOCH is the only time in them.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
import uuid
import zlib
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"

# C code inside crates: what it is, where its version is in the crate's own, its licence, and its licence files.
EMBEDDED = {
    "rdkafka-sys": ("librdkafka", r"\+(.+)", "BSD-2-Clause", "librdkafka/LICENSE*"),
    "zstd-sys": ("zstd", r"\+zstd\.(.+)", "BSD-3-Clause", "zstd/LICENSE"),
}

# Where a crate lets one choose, the first of these that it offers.
PREFERRED = ["Apache-2.0", "MIT", "BSD-3-Clause", "BSD-2-Clause", "ISC", "Zlib", "CC0-1.0", "MPL-2.0"]
# Debian has their texts on every machine.
COMMON = {name: f"/usr/share/common-licenses/{name}" for name in ("Apache-2.0", "CC0-1.0", "MPL-2.0")}


class Crate:
    """One crate that is linked."""

    def __init__(self, package, checksum):
        self.name, self.version, self.source = package["name"], package["version"], package["source"]
        self.id, self.license, self.repository = package["id"], package["license"], package["repository"]
        self.folder, self.checksum = Path(package["manifest_path"]).parent, checksum
        self.authors = [re.sub(r"\s*<.*>", "", author) for author in package["authors"]]
        self.needs = []

    def purl(self):
        return f"pkg:cargo/{self.name}@{self.version}"


def linked(messages, program, target):
    """The crates in the program, the program's own first, the others by name and version."""
    compiled, apart = {}, False
    for line in Path(messages).read_text().splitlines():
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("reason") == "compiler-artifact" and "proc-macro" not in message["target"]["kind"]:
            places = compiled.setdefault(message["package_id"], set())
            places.update(f"/{target}/" in file for file in message["filenames"])
            apart = apart or True in places
    metadata = json.loads(subprocess.run(
        [os.environ.get("CARGO", "cargo"), "metadata", "--format-version=1", "--locked", "--offline",
         f"--filter-platform={target}"], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(entry["name"], entry["version"]): entry.get("checksum") for entry in lock["package"]}

    root = next(package["id"] for package in packages.values()
                if package["name"] == program and package["source"] is None)
    crates, open_ids = {}, [root]
    while open_ids:
        this = open_ids.pop()
        if this in crates:
            continue
        package = packages[this]
        crates[this] = Crate(package, checksums[package["name"], package["version"]])
        for needed in nodes[this]["deps"]:
            normal = any(kind["kind"] is None for kind in needed["dep_kinds"])
            places = compiled.get(needed["pkg"], set())
            if normal and (True in places if apart else places):
                crates[this].needs.append(needed["pkg"])
                open_ids.append(needed["pkg"])
    rest = sorted((crate for crate in crates.values() if crate.id != root), key=lambda crate: (crate.name, crate.version))
    ordered = [crates[root], *rest]
    place = {crate.id: index for index, crate in enumerate(ordered)}
    for crate in ordered:
        crate.needs = sorted({place[needed] for needed in crate.needs})
    return ordered


def auditable(crates):
    """The list as crate auditable-serde has it, compressed as in a program."""
    packages = []
    for crate in crates:
        source = "local" if crate.source is None else "crates.io" if crate.source == CRATES_IO else "registry"
        package = {"name": crate.name, "version": crate.version, "source": source}
        if crate.needs:
            package["dependencies"] = crate.needs
        if crate is crates[0]:
            package["root"] = True
        packages.append(package)
    return zlib.compress(json.dumps({"packages": packages}, separators=(",", ":")).encode(), 9)


def sbom(crates):
    """A CycloneDX bill of materials."""
    def component(kind, crate):
        fields = {"type": kind, "bom-ref": crate.purl(), "name": crate.name, "version": crate.version,
                  "licenses": [{"expression": spdx(crate.license)}], "purl": crate.purl()}
        if crate.checksum:
            fields["hashes"] = [{"alg": "SHA-256", "content": crate.checksum}]
        if crate.repository:
            fields["externalReferences"] = [{"type": "vcs", "url": crate.repository}]
        if crate.name in EMBEDDED:
            name, version, license_, _ = EMBEDDED[crate.name]
            version = re.search(version, crate.version)[1]
            purl = f"pkg:generic/{name}@{version}"
            fields["components"] = [{"type": "library", "bom-ref": purl, "name": name, "version": version,
                                     "licenses": [{"expression": license_}], "purl": purl}]
        return fields

    components = [component("library", crate) for crate in crates[1:]]
    dependencies = [{"ref": crate.purl(), "dependsOn": [crates[needed].purl() for needed in crate.needs]}
                    for crate in crates]
    content = json.dumps([components, dependencies], sort_keys=True)
    made = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), timezone.utc)
    return json.dumps({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, crates[0].purl() + content)}",
        "version": 1,
        "metadata": {"timestamp": made.strftime("%Y-%m-%dT%H:%M:%SZ"),
                     "component": component("application", crates[0])},
        "components": components,
        "dependencies": dependencies,
    }, indent=1, ensure_ascii=False) + "\n"


# --- licences ---------------------------------------------------------------------------------------------------------

def spdx(expression):
    """`MIT/Apache-2.0`, as older crates write it, as an expression."""
    return re.sub(r"\s*/\s*", " OR ", expression)


def choose(expression):
    """The licences that apply, of what an expression lets one choose from: a list."""
    words = re.findall(r"[()]|[^\s()]+", spdx(expression))

    def either():
        choices = [both()]
        while words and words[0] == "OR":
            words.pop(0)
            choices.append(both())
        rank = {name: place for place, name in enumerate(PREFERRED)}
        return min(choices, key=lambda names: (max(rank.get(name, len(rank)) for name in names), len(names)))

    def both():
        names = one()
        while words and words[0] == "AND":
            words.pop(0)
            names = names + [name for name in one() if name not in names]
        return names

    def one():
        word = words.pop(0)
        if word == "(":
            names = either()
            words.pop(0)
            return names
        if words and words[0] == "WITH":
            words.pop(0)
            word = f"{word} WITH {words.pop(0)}"
        return [word]

    return either()


NOTICE = re.compile(r"^(LICEN[CS]E|COPYING|COPYRIGHT|NOTICE|AUTHORS)", re.IGNORECASE)
HOLDER = re.compile(r"^[\s#/*|]*(?:portions )?(?:copyright|©)\s*(?:\(c\)|©|:)?\s*(.+)", re.IGNORECASE)
APACHE = re.compile(r"Apache License\s+Version 2\.0, January 2004")
# Words of licence texts that begin like a notice.
TEMPLATE = re.compile(r"\[yyyy\]|\{yyyy\}|<year>|notice|owner|license|holder|law|statement|laws|disclaim", re.IGNORECASE)


def holders(folder, names):
    """The copyright notices in a crate's licence files."""
    found = []
    for name in names:
        for line in (folder / name).read_text(errors="replace").splitlines():
            match = HOLDER.match(line)
            if match and not TEMPLATE.search(match[1]) and re.search(r"[A-Za-z]", match[1]):
                notice = match[1].strip(" .*#/").removesuffix(" All rights reserved").removesuffix(", All rights reserved").strip(" .,")
                if notice and notice not in found:
                    found.append(notice)
    return found


def indented(text):
    """Text as a field of Debian's format continues it."""
    lines = [line.rstrip().expandtabs() for line in text.strip().splitlines()]
    return "\n".join(f" {line}" if line else " ." for line in lines)


def text_of(name):
    """What a licence says."""
    if name in COMMON:
        return indented(f"On Debian systems its full text is in {COMMON[name]}.")
    file = ROOT / "packaging/deb/licenses" / name
    if not file.exists():
        sys.exit(f"packaging/linked.py: a crate is under {name}, and packaging/deb/licenses has no text for it")
    return indented(file.read_text())


def copyright_file(crates):
    """The file of packaging/deb, then a paragraph for each crate, then the texts."""
    paragraphs, wanted = [(ROOT / "packaging/deb/copyright").read_text().strip()], {"Apache-2.0"}
    embedded = []
    for crate in crates:
        if crate.source is None:
            continue
        names = choose(crate.license)
        wanted.update(names)
        files = sorted(path.name for path in crate.folder.iterdir() if path.is_file() and NOTICE.match(path.name))
        notices = holders(crate.folder, files) or crate.authors or [f"the authors of {crate.name}"]
        fields = [f"Files: vendor/{crate.name}-{crate.version}/*",
                  "Copyright: " + "\n           ".join(notices),
                  "License: " + " and ".join(names).replace(" WITH LLVM-exception", " with LLVM exception")]
        if spdx(crate.license) != " AND ".join(names):
            fields.append(f"Comment: Offered under {spdx(crate.license)}.")
        notice_files = [name for name in files if name.upper().startswith("NOTICE")]
        for name in notice_files:
            fields.append(f"Comment: {name}:\n" + indented((crate.folder / name).read_text(errors="replace")))
        paragraphs.append("\n".join(fields))
        if crate.name in EMBEDDED:
            name, _, license_, pattern = EMBEDDED[crate.name]
            # LICENSES.txt is the others once more.
            files = sorted(str(path.relative_to(crate.folder)) for path in crate.folder.glob(pattern)
                           if path.name != "LICENSES.txt")
            texts = [(crate.folder / file).read_text(errors="replace") for file in files]
            text = "\n\n".join(text_of("Apache-2.0").strip() if APACHE.search(text) else text for text in texts)
            notices = holders(crate.folder, files)
            paragraphs.append("\n".join([
                f"Files: vendor/{crate.name}-{crate.version}/{name}/*",
                "Copyright: " + "\n           ".join(notices),
                f"License: {name}"]))
            embedded.append(f"License: {name}\n{indented(text)}")
    for name in sorted(wanted):
        title = name.replace(" WITH LLVM-exception", " with LLVM exception")
        paragraphs.append(f"License: {title}\n{text_of(name)}")
    return "\n\n".join(paragraphs + embedded) + "\n"


def main():
    messages, program, target, out = sys.argv[1:]
    crates = linked(messages, program, target)
    out = Path(out)
    (out / "sbom.json").write_text(sbom(crates))
    (out / "dep-v0").write_bytes(auditable(crates))
    (out / "copyright").write_text(copyright_file(crates))
    print(f"linked.py: {program}: {len(crates)} crates", file=sys.stderr)


if __name__ == "__main__":
    main()
