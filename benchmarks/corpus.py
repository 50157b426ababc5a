"""Gather real text in quantity for the tokenizer benchmarks: Debian's documentation and translated manuals, and the
sources and documents of the Python packages installed here. Writes FOLDER/corpus.jsonl and FOLDER/contents.json, which
states every package with its version and the bytes of text taken from it.

python benchmarks/corpus.py [FOLDER] [--megabytes 190]

The packages are downloaded with apt-get and unpacked with dpkg-deb into a temporary folder; nothing is installed.
Markup (HTML) is reduced to its text; manual pages stay as they are. Documents are shuffled by a hash of their text.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import html
import json
import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

PACKAGES = [
    *("python3.11-doc", "perl-doc", "git-doc", "debian-handbook", "gnome-user-docs", "installation-guide-amd64"),
    *(f"debian-reference-{language}" for language in ("de", "ja", "zh-cn")),
    *(f"libreoffice-help-{language}" for language in ("hi", "ko", "el")),
    *(f"manpages-{language}" for language in ("dev", "fr", "fr-dev", "de", "de-dev", "ja", "ja-dev", "ru", "zh", "pl")),
    *(f"manpages-{language}" for language in ("es", "pt-br", "ro", "it", "tr", "uk", "hu")),
]
PLAIN = {".txt", ".rst", ".md", ".pod", ".py", ".pyi", ".page", ".js", ".css", ".c", ".h", ".cpp", ".hpp"}
TAGS = re.compile(r"<(script|style)\b.*?</\1>|<!--.*?-->|<[^>]*>", re.DOTALL)
BLANK = re.compile(r"[ \t]*\n(?:[ \t]*\n)+")


def text_of(path: Path) -> str | None:
    """The text of a file; None: it is none."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode()
    except (OSError, EOFError, UnicodeDecodeError):
        return None
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if kind in (".html", ".xhtml"):
        return BLANK.sub("\n\n", html.unescape(TAGS.sub("", text))).strip()
    if kind in PLAIN or "/man/" in path.as_posix():
        return text
    return None


def texts(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and (text := text_of(path)) and len(text) > 100:
            yield text


def debian(package: str, folder: Path) -> tuple[str, list[str]]:
    subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True, stderr=subprocess.DEVNULL)
    archive = next(folder.glob("*.deb"))
    unpacked = folder / "unpacked"
    subprocess.run(["dpkg-deb", "-x", archive, unpacked], check=True)
    return archive.stem.split("_")[1].replace("%3a", ":"), list(texts(unpacked))


def installed() -> Iterator[tuple[str, str, list[str]]]:
    """The documents of every distribution in this environment."""
    root = Path(sysconfig.get_paths()["purelib"])
    for distribution in sorted(metadata.distributions(path=[str(root)]), key=lambda d: d.metadata["Name"].lower()):
        paths = sorted({Path(str(distribution.locate_file(file))) for file in distribution.files or ()})
        found = [t for path in paths if path.is_file() and (t := text_of(path)) and len(t) > 100]
        if found:
            yield distribution.metadata["Name"], distribution.version, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/corpus"))
    parser.add_argument("--megabytes", type=float, default=190)
    options = parser.parse_args()
    if (options.folder / "contents.json").is_file():
        print(f"{options.folder} holds a corpus already")
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    documents: dict[bytes, tuple[str, str]] = {}
    versions: dict[str, str] = {}

    def keep(name: str, version: str, found: list[str]) -> None:
        versions[name] = version
        for text in found:
            documents.setdefault(hashlib.blake2b(text.encode(), digest_size=16).digest(), (name, text))
        print(f"{name} {version}: {sum(len(t.encode()) for t in found) / 1e6:.1f} MB")

    for package in PACKAGES:
        with tempfile.TemporaryDirectory() as folder:
            keep(f"debian:{package}", *debian(package, Path(folder)))
    for name, version, found in installed():
        keep(f"pypi:{name}", version, found)

    size, taken, n_ascii = 0, dict.fromkeys(versions, 0), 0
    with (options.folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for key in sorted(documents, key=lambda k: (documents[k][0].startswith("pypi:"), k)):
            name, text = documents[key]
            length = len(text.encode())
            if size + length > options.megabytes * 1e6:
                continue
            size += length
            taken[name] += length
            n_ascii += sum(map(str.isascii, text)) if not text.isascii() else len(text)
            file.write(json.dumps({"text": text, "source": name}, ensure_ascii=False) + "\n")
    contents = {
        "bytes": size,
        "share_of_bytes_not_ascii": 1 - n_ascii / size,
        "packages": {n: {"version": versions[n], "bytes": taken[n]} for n in versions if taken[n]},
    }
    (options.folder / "contents.json").write_text(json.dumps(contents, indent=1) + "\n")
    print(f"{size / 1e6:.1f} MB, {contents['share_of_bytes_not_ascii']:.1%} of the bytes are not ASCII")


if __name__ == "__main__":
    main()
