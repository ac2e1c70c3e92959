"""The language encoder: a BERT (Devlin et al., 2019) whose early, middle and late layers are the levels of language.

Its parameters have the names that published BERT-family weights have, so a folder of them is read as it is. The
architectures below are one: the same post-norm layers, with small differences in what goes into the first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clcr.network.config import LEVELS

BERT_FAMILY = ("bert", "camembert", "data2vec-text", "electra", "roberta", "xlm-roberta")
FROM_PADDING = ("camembert", "data2vec-text", "roberta", "xlm-roberta")  # positions begin after the padding id
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
}
MASKED = -1e4  # finite on purpose: engines in half precision must not see -inf
INITIAL_DEVIATION = 0.02  # of fresh weights (Devlin et al.)


@dataclass(frozen=True)
class BertConfig:
    """The keys of a published config.json that the encoder reads, under their names there."""

    model_type: str = "bert"
    vocab_size: int = 30522
    hidden_size: int = 768
    embedding_size: int = 0  # ELECTRA: of the embeddings; 0: hidden_size
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    position_embedding_type: str = "absolute"
    first_position: int = 0  # ours: the position of the first word

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BertConfig:
        """Of a config.json; unknown keys are left out. Raises ValueError for what is no BERT."""
        kind = values.get("model_type", "bert")
        if kind not in BERT_FAMILY:
            raise ValueError(f"{kind!r} is not a BERT-family encoder; allowed: {', '.join(BERT_FAMILY)}")
        known = {field.name: values[field.name] for field in fields(cls) if values.get(field.name) is not None}
        if kind in FROM_PADDING:
            known.setdefault("pad_token_id", 1)
            known.setdefault("first_position", known["pad_token_id"] + 1)
        config = cls(**known)
        if config.num_hidden_layers < len(LEVELS):
            raise ValueError(
                f"the language encoder has {config.num_hidden_layers} layers; three levels need at least 3"
            )
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(f"hidden_size {config.hidden_size} is no multiple of {config.num_attention_heads} heads")
        if config.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act {config.hidden_act!r} is not known; allowed: {', '.join(ACTIVATIONS)}")
        if config.position_embedding_type != "absolute":
            raise ValueError(f"position_embedding_type is {config.position_embedding_type!r}; allowed: 'absolute'")
        return config


class Embeddings(nn.Module):
    """Word, position and segment embeddings, summed and normalised; there is one segment, the first."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.embedding_size or config.hidden_size
        self.first_position = config.first_position
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, token_ids: Tensor) -> Tensor:
        """token_ids (B, N) integers -> (B, N, width)."""
        position = torch.arange(int(token_ids.shape[1]), device=token_ids.device).unsqueeze(0) + self.first_position
        x = self.word_embeddings(token_ids) + self.token_type_embeddings(torch.zeros_like(token_ids))
        embedded: Tensor = self.dropout(self.LayerNorm(x + self.position_embeddings(position)))
        return embedded


class Layer(nn.Module):
    """Self-attention and a feed-forward network, each added to its input and normalised after it."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.heads, self.share = config.num_attention_heads, width // config.num_attention_heads
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")}),
                "output": _added(width, width, config.layer_norm_eps),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = _added(inner, width, config.layer_norm_eps)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.share_dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, N, width), mask (B, 1, 1, N), added to the scores -> x of the same shape."""
        x = self._add(self.attention["output"], self._attended(x, mask), x)
        return self._add(self.output, self.activation(self.intermediate["dense"](x)), x)

    def _attended(self, x: Tensor, mask: Tensor) -> Tensor:
        projections: Any = self.attention["self"]
        query, key, value = (self._by_head(projections[name](x)) for name in ("query", "key", "value"))
        shares = self.share_dropout(torch.softmax(query @ key.transpose(2, 3) * self.share**-0.5 + mask, -1))
        mixed: Tensor = shares @ value
        return mixed.transpose(1, 2).flatten(2)

    def _by_head(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, heads, N, width / heads)."""
        split: Tensor = x.unflatten(-1, (self.heads, self.share))
        return split.transpose(1, 2)

    def _add(self, part: Any, y: Tensor, x: Tensor) -> Tensor:
        added: Tensor = part["LayerNorm"](self.dropout(part["dense"](y)) + x)
        return added


def _added(inner: int, width: int, eps: float) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": nn.LayerNorm(width, eps=eps)})


class LanguageEncoder(nn.Module):
    """Hidden states of a BERT after each third of its layers (4, 8, 12 of 12; 2, 4, 6 of 6)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.hidden = config.hidden_size
        self.embeddings = Embeddings(config)
        own = config.embedding_size not in (0, config.hidden_size)
        self.widen: nn.Module = nn.Linear(config.embedding_size, config.hidden_size) if own else nn.Identity()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.taps = tuple(round(config.num_hidden_layers * level / len(LEVELS)) for level in LEVELS)
        self.apply(_fresh)

    @property
    def backbone_config(self) -> dict[str, Any]:
        """What `from_config` makes the same architecture of."""
        return asdict(self.config)

    @classmethod
    def from_folder(cls, folder: Path, kept_ids: list[int] | None = None) -> LanguageEncoder:
        """Load a BERT-family folder (config.json and model.safetensors); `kept_ids` keeps only those words.

        Raises FileNotFoundError for a missing file, ValueError for another architecture or weights that do not fit.
        """
        from safetensors.torch import load_file

        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder}: no {name}; give a folder of a BERT-family model")
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = {_own_name(name): value.float() for name, value in load_file(folder / "model.safetensors").items()}
        try:
            if kept_ids is not None:
                values |= {"first_position": BertConfig.from_dict(values).first_position}
                values |= {"vocab_size": len(kept_ids), "pad_token_id": 0}
                weights[WORDS] = weights[WORDS][kept_ids]
            encoder = cls.from_config(values)
            missing = encoder.load_state_dict(weights, strict=False).missing_keys
        except (ValueError, RuntimeError, KeyError) as error:
            raise ValueError(f"{folder}: {error}") from error
        if missing:
            raise ValueError(
                f"{folder}: model.safetensors has no {missing[0]}; give the weights of config.json's model"
            )
        return encoder

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LanguageEncoder:
        """The same architecture with fresh weights: for tests, and as the shell into which a checkpoint is loaded."""
        return cls(BertConfig.from_dict(config))

    def forward(self, token_ids: Tensor, valid: Tensor) -> list[Tensor]:
        """token_ids (B, N) integers, valid (B, N) -> three hidden states (B, N, hidden)."""
        x = self.widen(self.embeddings(token_ids))
        mask = ((1.0 - valid) * MASKED)[:, None, None, :].to(x.dtype)
        taps: list[Tensor] = []
        for index, layer in enumerate(self.layers, start=1):
            x = layer(x, mask)
            if index in self.taps:
                taps.append(x)
        return taps


WORDS = "embeddings.word_embeddings.weight"


def _own_name(name: str) -> str:
    """Of a published parameter: `bert.encoder.layer.0.output.LayerNorm.gamma` is `layers.0.output.LayerNorm.weight`."""
    parts = name.split(".")
    start = next((i for i, part in enumerate(parts) if part in ("embeddings", "embeddings_project", "encoder")), 0)
    name = ".".join(parts[start:])
    for published, own in (("encoder.layer.", "layers."), ("embeddings_project.", "widen.")):
        name = name.replace(published, own)
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _fresh(module: nn.Module) -> None:
    """Fresh weights as BERT's training begins with."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()
