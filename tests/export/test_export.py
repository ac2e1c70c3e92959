"""Checkpoint -> bundle: what is written, that it can be repeated, what is proved and what a failure leaves behind."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from clcr.network.config import LEVELS, MODALITIES
from clcr.network.model import CLCR
from clcr.network.streaming import DESCRIBED, STREAMED, Grid
from clcr.training.checkpoint import CheckpointError, load_checkpoint
from clcr_export import writer
from clcr_export.cli import main
from clcr_export.graphs import Graph, export_graph, round_pretrained, round_to_half, store_in_half, streaming_modules
from clcr_export.operators import GraphError
from clcr_export.proof import (
    COMPARISONS,
    TOLERANCE,
    Chain,
    Offline,
    ParityError,
    Proof,
    differences,
    largest,
    make_scenario,
    only,
    sessions,
)
from clcr_export.writer import ExportOptions, export_bundle
from clcr_stream.bundle.loader import load_bundle
from clcr_stream.bundle.manifest import ENGINES, contract, language_words
from clcr_stream.bundle.manifest import MODALITIES as BUNDLE_MODALITIES
from clcr_stream.errors import BundleError
from close import assert_close
from tiny_checkpoint import CONFIG, tiny_model, write_tiny_checkpoint
from traced import exports_trace_once

GRID = Grid()


def quietly(text: str) -> None:
    """A progress callback that says nothing."""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more threads than idle cores make the small products here ten times slower
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Graph]]:
    with exports_trace_once(tmp_path_factory) as traced:
        yield traced


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "checkpoint"
    write_tiny_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> tuple[Path, Proof, str]:
    """A bundle that the command proved over the whole window and more, its proof, and what the command printed."""
    bundle, said = checkpoint.parent / "tiny", io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main([str(checkpoint), "-o", str(bundle), "--proof-hops", "36"]) == 0
    return bundle, Proof(**load_bundle(bundle).manifest.provenance["proof"]), said.getvalue()


@pytest.fixture(scope="module")
def bundle(exported: tuple[Path, Proof, str]) -> Path:
    return exported[0]


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> CLCR:
    """The checkpoint's model with the weights that the bundle holds."""
    model = load_checkpoint(checkpoint)
    round_pretrained(model)
    return model


@pytest.fixture(scope="module")
def graphs(model: CLCR, traced: Callable[..., Graph]) -> dict[str, Graph]:
    modules = streaming_modules(model, GRID)
    return {name: traced(name, module, half_storage=name == "language") for name, module in modules.items()}


@pytest.fixture
def swift(graphs: dict[str, Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports in this test take the graphs traced before and a proof that passes: their subject is the writing."""
    monkeypatch.setattr(writer, "export_graph", lambda name, module, half_storage=False: graphs[name])
    monkeypatch.setattr(writer, "prove", lambda *args: passing_proof())


def passing_proof() -> Proof:
    return Proof(40, step={"a": 0.0}, chained={"b": 1e-5}, masked={"c": 0.0}, batched={"d": 1e-4}, control={"e": 1.0})


def onnx_of(bundle: Path, name: str) -> onnx.ModelProto:
    return onnx.load_from_string((bundle / f"{name}.onnx").read_bytes())


# --- what is written --------------------------------------------------------------------------------------------------


def test_the_runtime_accepts_the_bundle_and_finds_the_contract_in_it(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    manifest = loaded.manifest
    assert (manifest.name, manifest.task, manifest.labels) == ("tiny", "classification", list(CONFIG.labels))
    assert (manifest.model.width, manifest.language.pad_id, manifest.language.cls_id) == (32, 0, 2)
    assert sorted(loaded.files) == sorted(path.name for path in bundle.iterdir() if path.name != "manifest.json")
    for name in ENGINES:
        inputs, outputs = contract(manifest, name)
        spec = manifest.engines[name]
        assert [tensor.name for tensor in spec.inputs if tensor.name not in spec.state] == list(inputs)
        assert [tensor.name for tensor in spec.outputs if not tensor.name.endswith("_next")] == list(outputs)
    assert BUNDLE_MODALITIES == MODALITIES


@pytest.mark.parametrize("name", ENGINES)
def test_each_graph_is_opset_17_with_a_fixed_float32_and_int32_border(bundle: Path, name: str) -> None:
    proto = onnx_of(bundle, name)
    assert (proto.ir_version, [(item.domain, item.version) for item in proto.opset_import]) == (8, [("", 17)])
    for value in (*proto.graph.input, *proto.graph.output):
        tensor = value.type.tensor_type
        assert tensor.elem_type in (TensorProto.FLOAT, TensorProto.INT32)
        first, *rest = tensor.shape.dim
        assert first.dim_param == "streams"
        assert all(dim.dim_value > 0 for dim in rest)


@pytest.mark.parametrize("name", ENGINES)
def test_each_graph_runs_any_number_of_streams(bundle: Path, graphs: dict[str, Graph], name: str) -> None:
    module: Any = graphs[name].module
    inputs = {key: value.numpy() for key, value in module.example(5).items()}
    session = onnxruntime.InferenceSession((bundle / f"{name}.onnx").read_bytes())
    outputs: Any = session.run(None, inputs)
    assert [len(array) for array in outputs] == [5] * len(outputs)


def test_the_provenance_says_where_the_weights_come_from_and_what_was_proved(bundle: Path, checkpoint: Path) -> None:
    provenance = load_bundle(bundle).manifest.provenance
    assert provenance["checkpoint"]["made_by"] == "tests"
    assert provenance["checkpoint"]["temperature"]["VA"] == pytest.approx(1.8)
    assert set(provenance["proof"]) >= {*COMPARISONS, "control", "ticks", "tolerance"}
    assert provenance["export"]["operators"]["level1"]["Conv"] > 0
    # A path of the machine that exported is nobody's business, and would make two exports differ.
    assert str(checkpoint.parent) not in json.dumps(provenance)


def test_two_exports_of_a_checkpoint_are_the_same_to_the_byte(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one's graphs are those that `exported` wrote; the second traces its own."""
    options = ExportOptions("tiny", proof_hops=4)
    export_bundle(checkpoint, tmp_path / "once", options, quietly)
    torch.manual_seed(99)
    torch.set_num_threads(2)
    monkeypatch.setattr(writer, "export_graph", export_graph)
    write_tiny_checkpoint(tmp_path / "elsewhere")
    export_bundle(tmp_path / "elsewhere", tmp_path / "again", options, quietly)
    one, other = contents(tmp_path / "once"), contents(tmp_path / "again")
    assert sorted(one) == sorted(other)
    assert [name for name in one if one[name] != other[name]] == []


def test_an_export_leaves_random_numbers_and_threads_as_they_were(checkpoint: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    with pytest.raises(CheckpointError):
        export_bundle(tmp_path / "none", tmp_path / "b", ExportOptions("b"), quietly)
    assert torch.equal(torch.rand(3), wanted)
    assert torch.get_num_threads() == 1


def test_another_checkpoint_gives_other_graphs(graphs: dict[str, Graph]) -> None:
    modules = streaming_modules(tiny_model(seed=1), GRID)
    for name in ("level3", "intercad"):
        assert export_graph(name, modules[name]).data != graphs[name].data


def test_a_regression_checkpoint_exports_a_value(model: CLCR, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "c", like=model, task="regression")
    proof = export_bundle(tmp_path / "c", tmp_path / "b", ExportOptions("value", proof_hops=4), quietly).proof
    manifest = load_bundle(tmp_path / "b").manifest
    assert (manifest.task, manifest.labels) == ("regression", [])
    assert manifest.engines["intercad"].outputs[0].name == "value"
    assert proof.chained["intercad.value"] <= TOLERANCE


@pytest.mark.usefixtures("swift")
def test_the_licence_text_goes_into_the_bundle(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "terms.txt").write_text("For research.\n")
    options = ExportOptions("tiny", 8, licences=tmp_path / "terms.txt")
    export_bundle(checkpoint, tmp_path / "b", options, quietly)
    assert (tmp_path / "b" / "LICENSES.txt").read_text() == "For research.\n"


# --- the bases --------------------------------------------------------------------------------------------------------


def weights_of_shape(proto: onnx.ModelProto, shape: tuple[int, int]) -> list[NDArray[np.float32]]:
    """Weights and constants of this shape, either way round."""
    tensors = [*proto.graph.initializer, *(a.t for node in proto.graph.node for a in node.attribute if a.HasField("t"))]
    arrays = [numpy_helper.to_array(tensor) for tensor in tensors]
    turned = [array if array.shape == shape else array.T for array in arrays if sorted(array.shape) == sorted(shape)]
    return [array for array in turned if array.shape == shape]


@pytest.mark.parametrize("level", LEVELS)
def test_the_bases_in_the_graphs_are_orthonormal_and_shared_is_orthogonal_to_private(bundle: Path, level: int) -> None:
    """A token's matrix begins with [U_sh | U_pr,m]; what leads back from the window's means is their transpose."""
    rank, private_rank, width = CONFIG.shared_rank, CONFIG.private_rank, CONFIG.width
    proto = onnx_of(bundle, f"level{level}")
    described = weights_of_shape(proto, (width, 4 * rank + private_rank))
    words = weights_of_shape(onnx_of(bundle, "language"), (width, 4 * rank + private_rank))
    assert len(words) == len(LEVELS)
    matrices = [m.astype(np.float64) for m in (*described, words[level - 1])]
    assert len(matrices) == len(MODALITIES)
    for matrix in matrices:
        basis = matrix[:, : rank + private_rank]
        assert np.abs(basis.T @ basis - np.eye(rank + private_rank)).max() < 1e-6
        assert any(np.array_equal(u, matrix[:, :rank]) for u in weights_of_shape(proto, (width, rank)))
    assert len({matrix[:, rank : rank + private_rank].tobytes() for matrix in matrices}) == len(MODALITIES)


@pytest.mark.parametrize("level", LEVELS)
def test_the_frozen_bases_of_a_module_are_the_model_s(graphs: dict[str, Graph], model: CLCR, level: int) -> None:
    module: Any = graphs[f"level{level}"].module
    shared, private = module.shared_basis.double(), {m: getattr(module, f"private_basis_{m}") for m in MODALITIES}
    exchange = model.exchanges[level - 1]
    with torch.no_grad():
        wanted_shared, wanted_private = exchange.bases()
        wanted = exchange.matrices(wanted_shared, wanted_private)
    assert torch.allclose(shared.float(), wanted_shared, atol=1e-5)
    words: Any = graphs["language"].module
    matrices = {m: getattr(module, f"matrix_{m}") for m in STREAMED} | {"language": getattr(words, f"matrix_{level}")}
    for m in MODALITIES:
        assert torch.allclose(private[m], wanted_private[m], atol=1e-5)
        assert torch.allclose(matrices[m], wanted[m], atol=1e-5)
        assert (private[m].double().T @ private[m].double() - torch.eye(CONFIG.private_rank)).abs().max() < 1e-5
        assert (shared.T @ private[m].double()).abs().max() < 1e-5


# --- half storage -----------------------------------------------------------------------------------------------------


def test_half_storage_halves_the_file_and_keeps_float32_arithmetic(model: CLCR, graphs: dict[str, Graph]) -> None:
    module = streaming_modules(model, GRID)["language"]
    full, half = export_graph("language", module), graphs["language"]
    proto = onnx.load_from_string(half.data)
    stored = [item for item in proto.graph.initializer if item.data_type == TensorProto.FLOAT16]
    saved = sum(2 * int(np.prod(item.dims)) for item in stored)
    large = [w for w in onnx.load_from_string(full.data).graph.initializer if np.prod(w.dims) >= 4096]
    assert len(stored) == len(large) > 0
    described = weights_of_shape(proto, (CONFIG.width, 4 * CONFIG.shared_rank + CONFIG.private_rank))
    assert [matrix.dtype for matrix in described] == [np.float32] * len(LEVELS)  # rounding would bend the bases
    assert saved * 0.9 < len(full.data) - len(half.data) < saved
    module_any: Any = module
    inputs = {key: value.numpy() for key, value in module_any.example().items()}
    run = sessions({"full": full, "half": half})
    for one, other in zip(run("full", inputs).values(), run("half", inputs).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_pytorch_computes_with_the_rounded_weights(checkpoint: Path) -> None:
    trained = load_checkpoint(checkpoint)
    before = {name: value.clone() for name, value in trained.language.named_parameters()}
    round_to_half(trained.language)
    changed = [name for name, value in trained.language.named_parameters() if not torch.equal(value, before[name])]
    assert changed == [name for name, value in before.items() if value.numel() >= 4096]
    for name, value in trained.language.named_parameters():
        assert torch.equal(value, before[name].half().float() if name in changed else before[name])


def test_weights_that_were_not_rounded_are_not_shortened_in_silence(checkpoint: Path) -> None:
    module = streaming_modules(load_checkpoint(checkpoint), GRID)["language"]
    with pytest.raises(ValueError, match="round_to_half"):
        export_graph("language", module, half_storage=True)


def test_a_table_that_is_only_looked_up_is_cast_after_the_lookup() -> None:
    table = numpy_helper.from_array(np.ones((2048, 4), np.float32), "table")
    border = [
        onnx.helper.make_tensor_value_info("ids", TensorProto.INT32, ["streams", 3]),
        onnx.helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["streams", 3, 4]),
    ]
    gather = onnx.helper.make_node("Gather", ["table", "ids"], ["rows"])
    proto = onnx.helper.make_model(onnx.helper.make_graph([gather], "g", border[:1], border[1:], [table]))
    store_in_half(proto)
    assert [node.op_type for node in proto.graph.node] == ["Gather", "Cast"]
    assert proto.graph.initializer[0].data_type == TensorProto.FLOAT16
    onnx.checker.check_model(proto, full_check=True)


# --- the proof --------------------------------------------------------------------------------------------------------


def test_the_proof_covers_every_engine_output_and_set_of_modalities(exported: tuple[Path, Proof, str]) -> None:
    proof = exported[1]
    assert proof.ticks == 36
    assert set(proof.step) == set(proof.batched) == set(ENGINES)
    subsets = {"+".join(c) for n in (1, 2, 3) for c in combinations(MODALITIES, n)}
    assert set(proof.masked) == subsets
    per_level = ("shared", "private", "present", "budget", *(f"alpha_{m}" for m in MODALITIES))
    wanted = {f"level{level}.{key}" for level in LEVELS for key in per_level}
    assert set(proof.chained) == wanted | {f"intercad.{key}" for key in ("probs", "omega", "beta", "eta")}
    for kind in COMPARISONS:
        assert max(getattr(proof, kind).values()) <= TOLERANCE
    assert len(proof.control) == len(LEVELS)
    assert min(proof.control.values()) > TOLERANCE


@pytest.mark.parametrize("present", [c for n in (1, 2, 3) for c in combinations(MODALITIES, n)], ids="+".join)
def test_each_set_of_modalities_equals_the_offline_model(
    model: CLCR, graphs: dict[str, Graph], present: tuple[str, ...]
) -> None:
    scenario = make_scenario(model, GRID, 9, seed=4)
    scenario.token_valid[:] = scenario.token_valid.max(0)
    scenario = only(scenario, present)
    chain = Chain(graphs, model, sessions(graphs))
    outputs = [chain.tick(scenario, index) for index in range(9)]
    offline = Offline(model, GRID, scenario)
    assert outputs[-1]["level1"]["present"][0].tolist() == [float(m in present) for m in MODALITIES]
    for index, output in enumerate(outputs):
        found = differences(model, output, offline(index + 1))
        assert max(found.values()) <= TOLERANCE


@pytest.mark.parametrize(
    ("level", "state"),
    [(1, "acoustic_mel"), (1, "acoustic_stem")]
    + [(level, f"{m}_{part}") for level in LEVELS for m in STREAMED for part in ("conv_1", "conv_2", *DESCRIBED)],
)
def test_the_comparison_notices_the_loss_of_any_state(
    model: CLCR, graphs: dict[str, Graph], level: int, state: str
) -> None:
    scenario = make_scenario(model, GRID, 4, seed=3)
    scenario.acoustic_valid[:] = scenario.vision_valid[:] = 1.0
    chain = Chain(graphs, model, sessions(graphs), (f"level{level}", state))
    outputs = [chain.tick(scenario, index) for index in range(4)]
    assert max(differences(model, outputs[-1], Offline(model, GRID, scenario)(4)).values()) > TOLERANCE


@pytest.mark.parametrize("hops", [1, 4, 9])
def test_the_recording_encoded_as_a_whole_says_what_its_prefix_says(model: CLCR, hops: int) -> None:
    scenario = make_scenario(model, GRID, 9, seed=5)
    cut = {field.name: getattr(scenario, field.name)[:hops] for field in fields(scenario) if field.name != "gamma"}
    whole, prefix = Offline(model, GRID, scenario)(hops), Offline(model, GRID, replace(scenario, **cut))(hops)
    assert_close(whole.logits, prefix.logits, atol=1e-5, rtol=0)
    assert not torch.allclose(whole.logits, Offline(model, GRID, scenario)(hops % 9 + 1).logits, atol=1e-4)


def test_a_difference_that_is_not_a_number_counts_as_infinite() -> None:
    assert largest([0.0, float("nan"), 1.0]) == float("inf")
    assert largest([0.0, 0.5]) == 0.5


def test_a_proof_within_the_tolerance_passes() -> None:
    passing_proof().check()


@pytest.mark.parametrize("kind", COMPARISONS)
@pytest.mark.parametrize("value", [1.1e-4, float("nan"), float("inf")])
def test_a_proof_with_one_figure_beyond_the_tolerance_fails_and_names_it(kind: str, value: float) -> None:
    proof = passing_proof()
    getattr(proof, kind)["level2.shared"] = value
    with pytest.raises(ParityError, match=rf"^{kind} level2\.shared: .*no bundle written$"):
        proof.check()


@pytest.mark.parametrize("value", [0.0, 1e-4, float("nan")])
def test_a_control_that_goes_unnoticed_fails(value: float) -> None:
    proof = passing_proof()
    proof.control["level3.vision_conv_1 zeroed"] = value
    with pytest.raises(ParityError, match="went unnoticed"):
        proof.check()


@pytest.mark.parametrize("kind", [*COMPARISONS, "control"])
def test_a_proof_that_compared_nothing_fails(kind: str) -> None:
    proof = passing_proof()
    getattr(proof, kind).clear()
    with pytest.raises(ParityError, match="nothing was compared"):
        proof.check()


def changed_weight(graph: Graph) -> Graph:
    """The same graph with its largest weight 1 % larger."""
    proto = onnx.load_from_string(graph.data)
    index = max(range(len(proto.graph.initializer)), key=lambda i: int(np.prod(proto.graph.initializer[i].dims)))
    weight = proto.graph.initializer[index]
    array = numpy_helper.to_array(weight)
    proto.graph.initializer[index].CopyFrom(numpy_helper.from_array((array * 1.01).astype(array.dtype), weight.name))
    return Graph(proto.SerializeToString(), graph.spec, graph.module)


@pytest.mark.parametrize("broken", ENGINES)
def test_a_graph_with_one_changed_weight_is_not_written(
    checkpoint: Path, graphs: dict[str, Graph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def export(name: str, module: Any, half_storage: bool = False) -> Graph:
        return changed_weight(graphs[name]) if name == broken else graphs[name]

    old = tmp_path / "bundle"
    old.mkdir()
    (old / "manifest.json").write_text("the bundle of yesterday")
    monkeypatch.setattr(writer, "export_graph", export)
    with pytest.raises(ParityError, match=broken):
        export_bundle(checkpoint, old, ExportOptions("tiny", proof_hops=2), quietly)
    assert contents(old) == {"manifest.json": b"the bundle of yesterday"}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_the_golden_vectors_come_out_of_onnx_runtime_again(bundle: Path) -> None:
    golden = dict(np.load(bundle / "golden.npz", allow_pickle=False))
    manifest = load_bundle(bundle).manifest
    sets: dict[str, Any] = {
        name: onnxruntime.InferenceSession((bundle / f"{name}.onnx").read_bytes()) for name in ENGINES
    }

    def run(name: str, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        outputs = [tensor.name for tensor in manifest.engines[name].outputs]
        taken = {tensor.name: inputs[tensor.name] for tensor in manifest.engines[name].inputs}
        return dict(zip(outputs, sets[name].run(outputs, taken), strict=True))

    state: dict[str, dict[str, NDArray[Any]]] = {}
    for index in range(len(golden["frames"])):
        found = golden_tick(golden, index, manifest, run, state)
        for key, value in found.items():
            np.testing.assert_allclose(value, golden[key][index : index + 1], atol=1e-5, err_msg=f"{key}, tick {index}")
    assert index == 11
    assert golden["probs"].std(0).max() > 0


def golden_tick(
    golden: dict[str, NDArray[Any]], index: int, manifest: Any, run: Any, state: dict[str, dict[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """One tick of the golden scenario, from the file and the manifest alone."""
    from clcr_stream.frontends.positions import sinusoid

    def position(first: int, count: int) -> NDArray[np.float32]:
        return sinusoid(np.arange(first, first + count), manifest.model.width, manifest.model.position_base)[None]

    row = slice(index, index + 1)
    tokens = manifest.language.tokens
    text = run(
        "language",
        {
            "token_ids": golden["token_ids"][row],
            "token_valid": golden["token_valid"][row],
            "position": position(int(golden["language_step"][index]), tokens),
        },
    )
    inputs = {
        "vision_in": golden["frames"][row].astype(np.float32),
        "acoustic_in": golden["mel"][row],
        "vision_valid": golden["vision_valid"][row],
        "acoustic_valid": golden["acoustic_valid"][row],
        "vision_position": position(index * manifest.vision.slots_per_hop, manifest.vision.slots_per_hop),
        "acoustic_position": position(index * manifest.acoustic.tokens_per_hop, manifest.acoustic.tokens_per_hop),
        "gamma": golden["gamma"].reshape(1, 1),
    }
    found: dict[str, NDArray[Any]] = {}
    head: dict[str, NDArray[Any]] = {}
    for level in LEVELS:
        spec = manifest.engines[f"level{level}"]
        zeros = {t.name: np.zeros([1, *t.shape[1:]], np.float32) for t in spec.inputs if t.name in spec.state}
        carried = state.get(spec.file, zeros)
        out = run(
            f"level{level}", inputs | carried | {name: text[f"{name}_{level}"] for name in language_words(manifest)}
        )
        state[spec.file] = {name: out[f"{name}_next"] for name in spec.state}
        inputs |= {"vision_in": out["vision_out"], "acoustic_in": out["acoustic_out"]}
        head |= {f"shared_{level}": out["shared"], f"private_{level}": out["private"], "present": out["present"]}
        found |= {f"level{level}_{key}": out[key] for key in ("shared", "private", "budget")}
    found |= run("intercad", head)
    return found


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("swift")
def test_an_interrupted_write_leaves_the_old_bundle(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    export_bundle(checkpoint, target, ExportOptions("tiny", proof_hops=8), quietly)
    before = contents(target)

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "write_golden", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(checkpoint, target, ExportOptions("other", proof_hops=8), quietly)
    assert contents(target) == before
    assert load_bundle(target).manifest.name == "tiny"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.usefixtures("swift")
def test_a_bundle_that_the_runtime_would_refuse_is_not_put_in_place(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise BundleError(f"{folder}: refused")

    monkeypatch.setattr(writer, "load_bundle", refuse)
    with pytest.raises(BundleError):
        export_bundle(checkpoint, tmp_path / "b", ExportOptions("b", proof_hops=8), quietly)
    assert list(tmp_path.iterdir()) == []


def test_an_operator_that_no_target_runs_stops_the_export(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traced: Callable[..., Graph]
) -> None:
    def export(name: str, module: Any, half_storage: bool = False) -> Graph:
        graph = traced(name, module, half_storage)
        proto = onnx.load_from_string(graph.data)
        proto.graph.node.append(onnx.helper.make_node("NonZero", [proto.graph.input[0].name], ["z"], name="late"))
        return Graph(proto.SerializeToString(), graph.spec, graph.module)

    monkeypatch.setattr(writer, "export_graph", export)
    with pytest.raises(GraphError, match=r"NonZero node 'late'"):
        export_bundle(checkpoint, tmp_path / "b", ExportOptions("b", proof_hops=8), quietly)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_with_ids_unknown_to_the_encoder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    write_tiny_checkpoint(folder)
    tree = json.loads((folder / "tokenizer.json").read_text())
    tree["model"]["vocab"]["extra"] = len(tree["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match="has 21 ids, the checkpoint's language encoder knows 20"):
        export_bundle(folder, tmp_path / "b", ExportOptions("b", proof_hops=8), quietly)


@pytest.mark.parametrize("settings", [{"position": "window"}, {"hierarchy": False}, {"level_order": "shuffled"}])
def test_an_ablation_that_cannot_be_streamed_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    write_tiny_checkpoint(tmp_path / "c", **settings)
    with pytest.raises(CheckpointError, match="can run incrementally"):
        export_bundle(tmp_path / "c", tmp_path / "b", ExportOptions("b", proof_hops=8), quietly)


@pytest.mark.parametrize(
    "settings", [{"intraced": False}, {"intercad": False}, {"pool_gate": "log_alpha"}, {"baseline": True}]
)
def test_an_ablation_that_can_be_streamed_is_proved_as_well(model: CLCR, tmp_path: Path, settings: Any) -> None:
    write_tiny_checkpoint(tmp_path / "c", like=None if "baseline" in settings else model, **settings)
    proof = export_bundle(tmp_path / "c", tmp_path / "b", ExportOptions("b", proof_hops=4), quietly).proof
    assert max(proof.chained.values()) <= TOLERANCE


# --- the command ------------------------------------------------------------------------------------------------------


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and the one line that the command says on standard error."""
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("clcr-export: error: ")
    return code, said.err


def test_a_missing_checkpoint_is_exit_code_7(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = failure(capsys, tmp_path / "none", "-o", tmp_path / "b")
    assert code == 7
    assert str(tmp_path / "none") in line
    assert "clcr-train" in line


@pytest.mark.parametrize("lost", ["model.safetensors", "tokenizer.json", "config.json"])
def test_an_incomplete_checkpoint_is_exit_code_7(tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: str) -> None:
    write_tiny_checkpoint(tmp_path / "c")
    (tmp_path / "c" / lost).unlink()
    code, line = failure(capsys, tmp_path / "c", "-o", tmp_path / "b")
    assert (code, lost in line) == (7, True)


def test_a_folder_that_is_no_bundle_is_not_replaced(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.txt").write_text("dear")
    code, line = failure(capsys, checkpoint, "-o", tmp_path / "photos")
    assert (code, "--force" in line) == (2, True)
    assert contents(tmp_path / "photos") == {"one.txt": b"dear"}


def test_a_file_is_not_replaced_even_by_force(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("dear")
    code, line = failure(capsys, checkpoint, "-o", tmp_path / "file", "--force")
    assert (code, "is a file" in line) == (2, True)
    assert (tmp_path / "file").read_text() == "dear"


def test_too_few_hops_for_the_window_to_wrap_are_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = failure(capsys, checkpoint, "-o", tmp_path / "b", "--proof-hops", 34)
    assert (code, "--proof-hops 34" in line, "at least 35" in line) == (2, True, True)


def test_a_missing_licence_file_is_exit_code_2(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = failure(capsys, checkpoint, "-o", tmp_path / "b", "--licences", tmp_path / "none.txt")
    assert (code, "--licences" in line) == (2, True)


@pytest.mark.usefixtures("swift")
def test_an_output_that_cannot_be_written_is_exit_code_2(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    code, line = failure(capsys, checkpoint, "-o", tmp_path / "file" / "b")
    assert (code, "can be written" in line) == (2, True)


@pytest.mark.parametrize(
    ("error", "code"), [(ParityError("x differs"), 9), (GraphError("x"), 8), (BundleError("x"), 4)]
)
@pytest.mark.usefixtures("swift")
def test_each_failure_of_an_export_has_its_documented_exit_code(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
) -> None:
    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(writer, "prove", fail)
    assert failure(capsys, checkpoint, "-o", tmp_path / "b") == (code, f"clcr-export: error: {error}\n")
    with pytest.raises(SystemExit) as help_shown:
        main(["--help"])
    assert help_shown.value.code == 0
    assert f"{code} " in capsys.readouterr().out.split("exit codes:")[1]


def test_the_command_writes_a_bundle_and_says_what_it_proved(exported: tuple[Path, Proof, str]) -> None:
    bundle, _, said = exported
    assert "36 ticks proved" in said
    assert all(f"  {kind:8} worst" in said for kind in COMPARISONS)
    assert said.count("noticed") == len(LEVELS)
    assert load_bundle(bundle).manifest.name == bundle.name == "tiny"


@pytest.mark.usefixtures("swift")
def test_the_command_prints_the_proof_as_json_and_takes_a_name(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(checkpoint), "-o", str(tmp_path / "mine"), "--name", "new", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == asdict(passing_proof())
    assert load_bundle(tmp_path / "mine").manifest.name == "new"


def test_the_tiny_model_is_not_degenerate() -> None:
    """The tests above would prove little on a model that ignores its input."""
    model = tiny_model()
    scenario = make_scenario(model, GRID, 8)
    first, last = (Offline(model, GRID, scenario)(hops) for hops in (1, 8))
    assert (model.probabilities(first) - model.probabilities(last)).abs().max() > 1e-3
