"""The tokenizer and the pruning of its vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clcr.training.data.vocabulary import prune_vocabulary, store_vocabulary
from clcr_stream.errors import BundleError, ConfigError
from clcr_stream.frontends.text import Tokenizer
from tiny_tokenizer import WORDS, tokenizer_json


def vocabulary(data: bytes) -> dict[str, int]:
    return dict(json.loads(data)["model"]["vocab"])


def test_words_stand_between_cls_and_sep_without_the_files_own_padding() -> None:
    data = tokenizer_json()
    vocab = vocabulary(data)
    tokenizer = Tokenizer(data)
    expected = [vocab[t] for t in ("[CLS]", "not", "un", "##happi", "##ness", "!", "[SEP]")]
    assert tokenizer.encode("Not unhappiness!", 64) == expected
    assert (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id) == (0, vocab["[CLS]"], vocab["[SEP]"])
    assert tokenizer.decode(expected) == "not unhappiness!"


def test_text_without_a_word_has_no_tokens() -> None:
    assert Tokenizer(tokenizer_json()).encode("  \n", 64) == []


def test_truncation_keeps_the_newest_words() -> None:
    tokenizer = Tokenizer(tokenizer_json())
    ids = tokenizer.encode("sad sad sad not very happy", 5)
    assert ids == tokenizer.encode("not very happy", 64)


def test_truncation_does_not_leave_the_end_of_a_word_alone() -> None:
    tokenizer = Tokenizer(tokenizer_json())
    assert tokenizer.encode("unhappiness happy", 5) == tokenizer.encode("happy", 64)


def test_a_single_word_longer_than_the_limit_keeps_its_end() -> None:
    tokenizer = Tokenizer(tokenizer_json())
    ids = tokenizer.encode("zzzzzzzzzz", 6)
    assert len(ids) == 6
    assert ids[0] == tokenizer.cls_id


def test_many_texts_encode_as_each_alone() -> None:
    tokenizer = Tokenizer(tokenizer_json())
    texts = ["happy", "", "not sad !", "rare words very"]
    assert tokenizer.encode_many(texts, 5) == [tokenizer.encode(text, 5) for text in texts]


def test_a_limit_without_room_for_a_word_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        Tokenizer(tokenizer_json()).encode("happy", 2)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", b'{"version": "1.0", "model": {}}'])
def test_bytes_that_are_no_tokenizer_are_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json") as caught:
        Tokenizer(data)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nowhere\.json"):
        Tokenizer(tmp_path / "nowhere.json")


def test_a_tokenizer_without_sep_is_refused() -> None:
    document = json.loads(tokenizer_json())
    document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] != "[SEP]"]
    del document["model"]["vocab"]["[SEP]"]
    with pytest.raises(BundleError, match=r"no \[SEP\]"):
        Tokenizer(json.dumps(document).encode())


def test_pruning_keeps_specials_letters_and_the_most_frequent_pieces() -> None:
    data = tokenizer_json()
    texts = ["happy happy happy", "sad sad", "rare"]
    pruned, kept_ids = prune_vocabulary(data, texts, keep=5 + 52 + 1 + 2)  # "!" is a single character too
    new, old = vocabulary(pruned), vocabulary(data)
    assert [token for token, _ in sorted(new.items(), key=lambda item: item[1])][:5] == [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
    ]  # fmt: skip
    assert {"happy", "sad"} <= set(new)
    assert not {"rare", "not", "[unused0]"} & set(new)
    assert kept_ids == [old[token] for token, _ in sorted(new.items(), key=lambda item: item[1])]
    assert sorted(new.values()) == list(range(60))


def test_pruned_ids_pick_the_same_embeddings_for_kept_words() -> None:
    data = tokenizer_json()
    pruned, kept_ids = prune_vocabulary(data, ["happy sad very"], keep=61)
    embedding = np.arange(len(vocabulary(data)))
    new_ids = Tokenizer(pruned).encode("very sad happy!", 64)
    assert embedding[kept_ids][new_ids].tolist() == Tokenizer(data).encode("very sad happy!", 64)


def test_a_word_that_was_cut_out_falls_apart_into_pieces_not_unknowns() -> None:
    pruned, _ = prune_vocabulary(tokenizer_json(), ["happy"], keep=59)
    tokenizer = Tokenizer(pruned)
    ids = tokenizer.encode("rare", 64)
    assert len(ids) == 6
    assert vocabulary(pruned)["[UNK]"] not in ids
    assert tokenizer.decode(ids) == "rare"


def test_pruning_twice_gives_the_same_bytes_and_storing_them_loads(tmp_path: Path) -> None:
    first = prune_vocabulary(tokenizer_json(), iter(WORDS), keep=63)
    assert first == prune_vocabulary(tokenizer_json(), iter(WORDS), keep=63)
    path = store_vocabulary(tmp_path / "tokenizer", *first)
    assert len(Tokenizer(path)) == len(json.loads((path.parent / "kept_ids.json").read_text())) == 63


def test_a_tokenizer_of_another_family_is_refused() -> None:
    with pytest.raises(ConfigError, match="WordPiece"):
        prune_vocabulary(b'{"model": {"type": "BPE"}}', [])
