"""The language encoder on BERT-family folders written by transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from clcr.network.language import LanguageEncoder
from close import assert_close

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
FAMILY = {
    "bert": {"max_position_embeddings": 32},
    "roberta": {"max_position_embeddings": 34, "type_vocab_size": 1, "pad_token_id": 1},
    "camembert": {"max_position_embeddings": 34, "type_vocab_size": 1, "pad_token_id": 1},
    "xlm-roberta": {"max_position_embeddings": 34, "type_vocab_size": 1, "pad_token_id": 1},
    "data2vec-text": {"max_position_embeddings": 34, "type_vocab_size": 1, "pad_token_id": 1},
    "electra": {"max_position_embeddings": 32, "embedding_size": 8},
}


def write_backbone(folder: Path, kind: str = "bert", layers: int = 3) -> Any:
    """Save a random backbone and return it."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES, **FAMILY[kind], num_hidden_layers=layers)
    build: Any = AutoModel.from_config
    backbone = build(config, attn_implementation="eager").eval()
    backbone.save_pretrained(folder)
    return backbone


def words(*lengths: int, width: int = 9) -> tuple[Tensor, Tensor]:
    """Random ids from 4 on, padding id 1 behind the given lengths, and the mask."""
    generator = torch.Generator().manual_seed(1)
    valid = (torch.arange(width) < torch.tensor(lengths)[:, None]).float()
    ids = torch.randint(4, SIZES["vocab_size"], valid.shape, generator=generator)
    return torch.where(valid.bool(), ids, 1), valid


@pytest.mark.parametrize("kind", sorted(FAMILY))
def test_a_folder_gives_the_hidden_states_of_its_own_model(kind: str, tmp_path: Path) -> None:
    backbone = write_backbone(tmp_path, kind, layers=6)
    encoder = LanguageEncoder.from_folder(tmp_path).eval()
    ids, valid = words(9, 4)
    with torch.no_grad():
        expected = backbone(input_ids=ids, attention_mask=valid.long(), output_hidden_states=True).hidden_states
        found = encoder(ids, valid)
    assert encoder.taps == (2, 4, 6)
    for tap, hidden in zip(encoder.taps, found, strict=True):
        assert_close(hidden * valid[..., None], expected[tap] * valid[..., None], atol=2e-5, rtol=0)


@pytest.mark.parametrize(("layers", "taps"), [(3, (1, 2, 3)), (4, (1, 3, 4)), (6, (2, 4, 6)), (12, (4, 8, 12))])
def test_the_levels_are_taken_after_each_third_of_the_layers(
    layers: int, taps: tuple[int, ...], tmp_path: Path
) -> None:
    write_backbone(tmp_path, layers=layers)
    assert LanguageEncoder.from_folder(tmp_path).taps == taps


@pytest.mark.parametrize("kind", sorted(FAMILY))
def test_pruning_the_vocabulary_changes_no_hidden_state(kind: str, tmp_path: Path) -> None:
    write_backbone(tmp_path, kind)
    whole = LanguageEncoder.from_folder(tmp_path).eval()
    kept = [1, 5, 0, 7, 9, 30, 22, 39]
    pruned = LanguageEncoder.from_folder(tmp_path, kept).eval()
    assert pruned.embeddings.get_parameter("word_embeddings.weight").shape[0] == len(kept)
    new = torch.tensor([[3, 1, 7, 2, 5, 6]])
    valid = torch.ones(1, 6)
    with torch.no_grad():
        for a, b in zip(whole(torch.tensor(kept)[new], valid), pruned(new, valid), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("kind", sorted(FAMILY))
def test_a_stored_configuration_and_weights_make_the_same_encoder_again(kind: str, tmp_path: Path) -> None:
    write_backbone(tmp_path, kind)
    first = LanguageEncoder.from_folder(tmp_path, list(range(1, 30))).eval()
    second = LanguageEncoder.from_config(first.backbone_config).eval()
    second.load_state_dict(first.state_dict())
    ids, valid = words(7, 9)
    with torch.no_grad():
        for a, b in zip(first(ids % 29, valid), second(ids % 29, valid), strict=True):
            assert torch.equal(a, b)
    assert second.backbone_config == first.backbone_config


def test_int32_ids_as_the_engine_takes_them_give_the_same(tmp_path: Path) -> None:
    write_backbone(tmp_path)
    encoder = LanguageEncoder.from_folder(tmp_path).eval()
    ids, valid = words(9, 5)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(encoder(ids, valid), encoder(ids.int(), valid), strict=True))


def test_masked_words_and_neighbours_in_the_batch_do_not_touch_a_sentence(tmp_path: Path) -> None:
    write_backbone(tmp_path)
    encoder = LanguageEncoder.from_folder(tmp_path).eval()
    ids, valid = words(4, 9)
    other = torch.where(valid.bool(), ids, 33)
    other[1] = ids[1].flip(0)
    with torch.no_grad():
        before, after = encoder(ids, valid), encoder(other, valid)
        alone = encoder(ids[:1, :4], valid[:1, :4])
    for a, b, c in zip(before, after, alone, strict=True):
        assert_close(a[0, :4], b[0, :4], atol=1e-6, rtol=0)
        assert_close(a[0, :4], c[0], atol=2e-6, rtol=0)
        assert not torch.allclose(a[1], b[1], atol=1e-3)


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json; give a folder of a BERT-family model"):
        LanguageEncoder.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("gpt2", {"vocab_size": 40, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 32}),
        ("mpnet", SIZES | {"num_hidden_layers": 3}),  # looks like BERT, but adds a relative position bias
        (
            "vit",
            {
                "hidden_size": 16,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "intermediate_size": 24,
                "image_size": 32,
            },
        ),
    ],
)
def test_a_model_that_is_not_of_the_bert_family_is_refused(kind: str, sizes: dict[str, int], tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModel

    build: Any = AutoModel.from_config
    build(AutoConfig.for_model(kind, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"'{kind}' is not a BERT-family encoder; allowed: bert, "):
        LanguageEncoder.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"hidden_act": "swish"}, "hidden_act 'swish' is not known; allowed: gelu, gelu_new, relu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"num_attention_heads": 3}, "hidden_size 16 is no multiple of 3 heads"),
        ({"intermediate_size": 25}, "size mismatch"),
        ({"num_hidden_layers": 4}, r"has no layers\.3\.attention"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(change: dict[str, Any], text: str, tmp_path: Path) -> None:
    write_backbone(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=text) as raised:
        LanguageEncoder.from_folder(tmp_path)
    assert str(raised.value).startswith(str(tmp_path))


def test_weights_in_another_format_are_refused(tmp_path: Path) -> None:
    write_backbone(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors; give a folder of a BERT-family model"):
        LanguageEncoder.from_folder(tmp_path)


def test_names_of_whole_models_and_of_old_ones_are_read(tmp_path: Path) -> None:
    write_backbone(tmp_path)
    first = LanguageEncoder.from_folder(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    old = {f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma"): value for name, value in weights.items()}
    save_file({**old, "cls.predictions.bias": torch.zeros(4)}, tmp_path / "model.safetensors")
    for a, b in zip(first.parameters(), LanguageEncoder.from_folder(tmp_path).parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["bert", "electra"])
def test_training_drops_what_the_model_of_transformers_drops(kind: str, tmp_path: Path) -> None:
    backbone = write_backbone(tmp_path, kind).train()
    encoder = LanguageEncoder.from_folder(tmp_path).train()
    ids, valid = words(9, 4)
    torch.manual_seed(5)
    found = encoder(ids, valid)[-1]
    torch.manual_seed(5)
    expected = backbone(input_ids=ids, attention_mask=valid.long()).last_hidden_state
    assert_close(found * valid[..., None], expected * valid[..., None], atol=2e-5, rtol=0)


def test_fewer_layers_than_levels_are_refused(tmp_path: Path) -> None:
    write_backbone(tmp_path, layers=2)
    with pytest.raises(ValueError, match="has 2 layers; three levels need at least 3"):
        LanguageEncoder.from_folder(tmp_path)
