"""General English that ships with installed packages: what a language model can be pretrained on and must not forget.

Documents are the prose of docstrings, of readmes and of dataset descriptions in unisr's dependencies and the standard
library: whole sentences of plain words; code, formulas, tables, parameter lists and markup are dropped. It is technical
English (statistics, programming), but English: about one word in three is a function word.

Files are read as text; nothing is imported. (Parsing them with `ast` would take over a minute, so strings in three
quotes are found by pattern. What a wrong match takes in is code, which is not whole sentences.)

Which part a document belongs to is a function of its name alone, and a sentence that several hold is given to the first
of evaluation, projection and pretraining only, so that no sentence is in two parts. The documents depend on the
versions of the packages; `prose_card` names them, with counts and hashes.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import platform
import re
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal, get_args

from unisr.errors import DataError, UnknownNameError
from unisr.paths import data_dir, whole_file

Part = Literal["pretraining", "projection", "evaluation"]
PARTS: tuple[Part, ...] = get_args(Part)
FORMAT = 1
"""Raised when the documents change although the packages do not."""
PACKAGES = {
    "IPython": "ipython", "accelerate": "accelerate", "aiohttp": "aiohttp", "fontTools": "fonttools",
    "huggingface_hub": "huggingface_hub", "jinja2": "jinja2", "joblib": "joblib", "matplotlib": "matplotlib",
    "mpmath": "mpmath", "networkx": "networkx", "numba": "numba", "numpy": "numpy", "pandas": "pandas", "peft": "peft",
    "plotly": "plotly", "pydantic": "pydantic", "pygments": "pygments", "scipy": "scipy", "sklearn": "scikit-learn",
    "statsmodels": "statsmodels", "sympy": "sympy", "torch": "torch", "torch_geometric": "torch_geometric",
    "tornado": "tornado", "transformers": "transformers",
}  # fmt: skip
"""Package: distribution. All come with unisr; one that is not installed is left out."""
STANDARD_LIBRARY = "python"
DESCRIPTIONS = re.compile(r"sklearn/datasets/descr/\w+\.rst|statsmodels/datasets/\w+/data\.py")
"""Documents that are evaluated on whatever their hash says."""
EVALUATION, PROJECTION = 1, 5
"""Percent of the documents, by hash."""
SKIPPED = {"tests", "test", "testing", "site-packages", "dist-packages", "__pycache__", "lib2to3", "validators"}
FUNCTION_WORDS = frozenset(
    "a about after all also an and any are as at be because been before between both but by can could do does each for "
    "from had has have he her his how if in into is it its may more most must no not of on one only or other our out "
    "over same she should so some such than that the their them then there these they this those through to under up "
    "was we were what when where whether which while who will with within without would you your".split()
)
log = logging.getLogger(__name__)

_STRING = re.compile(r'"""(.*?)"""|\'\'\'(.*?)\'\'\'', re.DOTALL)
_INLINE = [
    ("`", re.compile(r":[a-z][a-z:+-]*:`(?:~[\w.]*?(\w+)|([^`<]*))(?:<[^`>]*>)?`"), r"\1\2"),  # roles
    ("`", re.compile(r"`([^`<]+)<[^`>]*>`_{1,2}"), r"\1"),  # links
    ("`", re.compile(r"`+([^`]*)`+_?"), r"\1"),
    ("[", re.compile(r"\[[\w#]+\]_"), ""),  # footnotes
    ("[", re.compile(r"!?\[([^\]]+)\]\([^)]*\)"), r"\1"),  # links of Markdown
    ("*", re.compile(r"(?<!\S)\*{1,2}([^*]+)\*{1,2}"), r"\1"),
]
"""Inline markup: a character that it has, its pattern and what is kept of it."""
_GAP = re.compile(r" (?=[.,;:!?)])")
_RULE = re.compile(r"[-=~^\"*#+]{3,}")
_ITEM = re.compile(r"(?:[-*+•]|\d{1,2}[.)]|:[^:\n]+:|\w+ \([^)]*\):|\w+:)\s+(?=\S)")
_FIELD = re.compile(r"[\w*,. ]+ : ")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[\"'(]?[A-Z])")
_CODE = re.compile(r"[<>\[\]{}=\\|@#*_^~$+&]|::|\.\.|\w\.[a-zA-Z]\w|\(\)|www|\b[A-Z]\. [A-Z]")
_PLAIN = re.compile(r"(?<!\S)[\"'(]*[A-Z]?[a-z]+(?:['’/-][A-Za-z]?[a-z]+)*[.,;:!?)\"']*(?!\S)|(?<!\S)[AI](?!\S)")


def prose(part: Part) -> tuple[str, ...]:
    """Documents of a part: paragraphs of whole sentences, one a line, in an order that mixes the packages.

    Found once per set of package versions and kept under data_dir()/prose; a damaged file is made again.

    Raises:
        UnknownNameError: no such part.
        DataError: no documents are there.
    """
    if part not in PARTS:
        raise UnknownNameError("part of the prose", part, PARTS)
    return _parts(data_dir() / "prose" / f"{_key()}.json")[part]


def prose_card() -> dict[str, Any]:
    """Versions of the packages, and of each part the number of documents and words and a sha256 of its text."""
    counts = {}
    for part in PARTS:
        documents = prose(part)
        text = "\n\n".join(documents)
        counts[part] = {"documents": len(documents), "words": len(text.split()),
                        "sha256": hashlib.sha256(text.encode()).hexdigest()}  # fmt: skip
    return {"format": FORMAT, "packages": _versions(), "parts": counts}


def sentences(text: str) -> Iterator[list[str]]:
    """The plain English sentences of each paragraph of a docstring or readme, markup taken off."""
    for paragraph in _paragraphs(inspect.cleandoc(text)):
        # Most paragraphs are a name, a type or code.
        if len(paragraph) < 20 or not any(end in paragraph for end in ".!?"):
            continue
        for sign, pattern, kept in _INLINE:
            if sign in paragraph:
                paragraph = pattern.sub(kept, paragraph)
        paragraph = _GAP.sub("", " ".join(paragraph.split()))
        if found := [s for s in _SENTENCE.split(paragraph) if is_english(s)]:
            yield found


def is_english(sentence: str) -> bool:
    """Whether a line is one whole sentence of 5 to 80 words, nearly all plain and a fourth of them function words."""
    if not sentence[:1].isupper() or sentence[-1:] not in ".!?" or _CODE.search(sentence):
        return False
    words = sentence.split()
    if not 5 <= len(words) <= 80 or len(_PLAIN.findall(sentence)) < 0.85 * len(words):
        return False
    return sum(word.lower().strip("(),;:.") in FUNCTION_WORDS for word in words) >= 0.25 * len(words)


def _paragraphs(text: str) -> Iterator[str]:
    """Lines that belong together: same depth, no blank line and no list item between them; no titles, no examples."""
    lines: list[str] = []
    depth = 0
    for line in text.split("\n"):
        content = line.lstrip()
        deep = len(line) - len(content)
        item = _ITEM.match(content)
        none = not content or content.startswith((">>>", "... ", ".. ")) or _FIELD.match(content)
        if _RULE.fullmatch(content):
            lines, none = [], True
        elif lines and (none or item or (deep != depth and depth >= 0)):
            yield " ".join(lines)
            lines = []
        if not none:
            lines.append(content[item.end() :] if item else content)
        # The lines after an item's first stand deeper than it.
        depth = -1 if item else deep
    yield " ".join(lines)


@lru_cache(maxsize=2)
def _parts(path: Path) -> dict[str, tuple[str, ...]]:
    if path.exists():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["sha256"] == _hash(stored):
                return {part: tuple(stored[part]) for part in PARTS}
        except (OSError, ValueError, KeyError, TypeError):
            pass
        log.warning("%s: damaged; reading the packages again", path)
    parts = _read()
    if not all(parts.values()):
        raise DataError("the installed packages hold no prose; install unisr's dependencies with their sources")
    with whole_file(path) as draft:
        draft.write_text(json.dumps({**parts, "sha256": _hash(parts)}), encoding="utf-8")
    return {part: tuple(parts[part]) for part in PARTS}


def _hash(parts: dict[str, list[str]]) -> str:
    return hashlib.sha256(json.dumps([parts[part] for part in PARTS]).encode()).hexdigest()


def _read() -> dict[str, list[str]]:
    files: dict[str, list[tuple[str, str, Path | None]]] = {part: [] for part in PARTS}
    for name, path in _files():
        order = hashlib.sha256(name.encode()).hexdigest()
        files[_part(name, order)].append((order, name, path))
    seen: set[str] = set()
    found: dict[str, list[str]] = {}
    for part in reversed(PARTS):
        documents = (_document(name, _text(name, path), seen) for _, name, path in sorted(files[part]))
        found[part] = [document for document in documents if document]
    return found


def _part(name: str, order: str) -> Part:
    percent = int(order[-8:], 16) % 100
    if percent < EVALUATION or DESCRIPTIONS.fullmatch(name):
        return "evaluation"
    return "projection" if percent < EVALUATION + PROJECTION else "pretraining"


def _document(name: str, text: str, seen: set[str]) -> str:
    """The prose of a file without the sentences in `seen`, to which its own are added."""
    if name.endswith(".py"):
        texts = [match[1] or match[2] or "" for match in _STRING.finditer(text)]
    else:
        texts = [text]
    paragraphs = []
    for text in texts:
        # A docstring that many classes share is looked at once.
        if len(text) < 30 or text in seen:
            continue
        seen.add(text)
        for paragraph in sentences(text):
            if fresh := [s for s in dict.fromkeys(paragraph) if s not in seen]:
                seen.update(fresh)
                paragraphs.append(" ".join(fresh))
    return "\n".join(paragraphs)


def _files() -> Iterator[tuple[str, Path | None]]:
    """Names and places of all files; a distribution's readme has no place."""
    roots = {name: Path(util.find_spec(name).submodule_search_locations[0]) for name in _installed()}
    roots[STANDARD_LIBRARY] = Path(sysconfig.get_path("stdlib"))
    for package, root in roots.items():
        for path in [*root.rglob("*.py"), *root.glob("datasets/descr/*.rst")]:
            inside = path.relative_to(root)
            if not SKIPPED.intersection(inside.parts):
                yield f"{package}/{inside.as_posix()}", path
    for package in _installed():
        yield f"{package}/README", None


def _text(name: str, path: Path | None) -> str:
    if path is None:
        return str(metadata.metadata(PACKAGES[name.split("/")[0]]).get_payload() or "")
    return path.read_text(encoding="utf-8", errors="replace")


def _installed() -> list[str]:
    return [name for name in sorted(PACKAGES) if name in _versions()]


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    found = {STANDARD_LIBRARY: platform.python_version()}
    for name, distribution in sorted(PACKAGES.items()):
        try:
            found[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            log.info("%s is not installed; its prose is left out", distribution)
    return found


def _key() -> str:
    return hashlib.sha256(json.dumps([FORMAT, _versions()]).encode()).hexdigest()[:12]
