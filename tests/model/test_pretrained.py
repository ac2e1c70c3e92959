"""Whisper's weights out of CTranslate2's file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clcr.network.config import ModelConfig
from clcr.network.speech import SpeechLayer, SpeechStem
from clcr.training.pretrained import load_layer, load_stem, read_ctranslate2, whisper_file
from clcr_stream.errors import ConfigError
from whisper_file import WIDTHS, random_whisper, write_whisper

FITTING = ModelConfig(
    mel_bands=WIDTHS.bands, speech_width=WIDTHS.width, speech_heads=WIDTHS.heads, speech_inner=WIDTHS.inner
)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    wanted = random_whisper(0)
    wanted |= {"encoder/half": np.arange(6, dtype=np.float16).reshape(2, 3), "encoder/heads": np.array(6, np.int16)}
    write_whisper(tmp_path / "model.bin", wanted)
    found = read_ctranslate2(tmp_path / "model.bin")
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype and found[name].shape == value.shape


def test_a_file_that_is_no_whisper_of_format_6_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    with pytest.raises(ConfigError, match="no such file; give a folder or package"):
        read_ctranslate2(path)
    write_whisper(path, random_whisper(0), spec="TransformerSpec")
    with pytest.raises(ConfigError, match="is 'TransformerSpec' of format 6; allowed is 'WhisperSpec'"):
        read_ctranslate2(path)
    write_whisper(path, random_whisper(0), version=5)
    with pytest.raises(ConfigError, match="format 5"):
        read_ctranslate2(path)
    write_whisper(path, random_whisper(0))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ConfigError, match="bytes too early"):
        read_ctranslate2(path)


def test_a_package_that_is_not_installed_is_one_line_with_what_to_install() -> None:
    with pytest.raises(ConfigError, match="'no_such_models' is not installed; pip install no-such-models"):
        whisper_file("no_such_models", None)
    for package, folder in ((None, None), ("a", "b")):
        with pytest.raises(ConfigError, match="exactly one of package, folder"):
            whisper_file(package, folder)


def test_a_folder_s_file_is_its_model_bin(tmp_path: Path) -> None:
    assert whisper_file(None, str(tmp_path)) == tmp_path / "model.bin"


def test_weights_of_other_sizes_are_refused_and_those_that_fit_are_all_taken() -> None:
    variables = random_whisper(1)
    stem, layer = SpeechStem(FITTING), SpeechLayer(FITTING)
    load_stem(stem, variables)
    load_layer(layer, variables, 2)
    np.testing.assert_array_equal(layer.widen.weight.detach(), variables["encoder/layer_2/ffn/linear_0/weight"])
    np.testing.assert_array_equal(
        stem.second.weight.detach().reshape(WIDTHS.width, 3, WIDTHS.width)[:, 1],
        variables["encoder/conv2/weight"][:, :, 1],
    )
    with pytest.raises(ConfigError, match=r"first.weight has shape \(8, 36\), the recipe's model wants \(384, 240\)"):
        load_stem(SpeechStem(ModelConfig(mel_bands=80)), variables)
    with pytest.raises(ConfigError, match="no variable 'encoder/layer_3/self_attention/layer_norm/gamma'"):
        load_layer(layer, variables, 3)
