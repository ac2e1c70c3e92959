"""Words to token ids through a bundle's tokenizer.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from clcr_stream.errors import BundleError


class TextEncoder(Protocol):
    """What the runtime needs of a tokenizer."""

    def encode(self, text: str, limit: int) -> list[int]:
        """At most `limit` ids, [CLS] first and [SEP] last, the newest words kept; [] for text without a word."""


class Tokenizer:
    """A BERT-family tokenizer over the `tokenizers` library; thread-safe once built.

    source: the path of a tokenizer.json, or its bytes. Raises BundleError when it is not one or lacks [PAD], [CLS] or
    [SEP].
    """

    def __init__(self, source: str | Path | bytes) -> None:
        import tokenizers  # 40 ms

        name = "the given bytes" if isinstance(source, bytes) else str(source)
        try:
            data = source if isinstance(source, bytes) else Path(source).read_bytes()
            self._tokenizer = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
        except Exception as error:  # the library raises bare Exception for malformed JSON
            raise BundleError(
                f"{name}: not a tokenizer.json ({error}); give the one of a bundle or of a BERT-family model folder"
            ) from error
        # A file may ask for fixed padding and its own truncation (the default encoder's does: 128).
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.pad_id = self._id_of("[PAD]", name)
        self.cls_id = self._id_of("[CLS]", name)
        self.sep_id = self._id_of("[SEP]", name)

    def __len__(self) -> int:
        """The size of the vocabulary."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str, limit: int) -> list[int]:
        """[CLS], the newest whole words of `text` that fit, [SEP]: at most `limit` ids. [] for text without a word."""
        return self.encode_many([text], limit)[0]

    def encode_many(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        """`encode` of each text, in one call that uses every core."""
        if limit < 3:
            raise ValueError(f"a token limit of {limit} was given; [CLS], one word and [SEP] need at least 3")
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [self._frame(encoding.ids, encoding.word_ids, limit - 2) for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without the special tokens."""
        return str(self._tokenizer.decode(list(ids)))

    def _frame(self, ids: list[int], word_ids: list[int | None], room: int) -> list[int]:
        if not ids:
            return []
        start = max(0, len(ids) - room)
        whole = start
        # A piece of a word whose beginning is cut off misleads; keep it only when it is all there is.
        while 0 < whole < len(ids) and word_ids[whole] == word_ids[whole - 1]:
            whole += 1
        kept = ids[whole:] or ids[start:]
        return [self.cls_id, *kept, self.sep_id]

    def _id_of(self, token: str, name: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise BundleError(f"{name}: no {token} token; use the tokenizer.json of a BERT-family model")
        return int(token_id)
