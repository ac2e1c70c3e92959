"""Lower precision: what the graphs hold, what the gates measure, what a failing gate leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from clcr.network.model import CLCR
from clcr.network.streaming import Grid
from clcr.training.checkpoint import load_checkpoint
from clcr.training.data.cache import Pack
from clcr.training.evaluate import evaluate_subset
from clcr_export import gates, precision, writer
from clcr_export.cli import main
from clcr_export.clips import answers, scenario_of, thinned
from clcr_export.gates import LIMITS, Limits, PrecisionError, Report
from clcr_export.graphs import Graph, round_pretrained, streaming_modules
from clcr_export.half import constants_of, rounded, to_half, types_of
from clcr_export.macs import UncountableError, multiply_adds, multiply_adds_by_type
from clcr_export.operators import FLOAT32_ONLY, GraphError, check_operators
from clcr_export.precision import Bench, Difference, Precision, macro_f1
from clcr_export.proof import Chain, make_scenario, sessions
from clcr_export.quantise import STEPS, Ranges, prepared, quantisable, to_int8
from clcr_export.writer import ExportOptions, export_bundle
from clcr_stream.bundle.loader import load_bundle
from clcr_stream.bundle.manifest import ENGINES
from clcr_stream.errors import ConfigError
from clcr_stream.inference.choose import open_backend
from clcr_stream.inference.golden import INT8_TOLERANCE, replay_golden
from tiny_checkpoint import write_tiny_checkpoint
from tiny_packs import write_packs
from traced import exports_trace_once

GRID = Grid()


def quietly(text: str) -> None:
    """A progress callback that says nothing."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Graph]]:
    with exports_trace_once(tmp_path_factory, proved=False) as traced:  # test_export.py proves the same model
        yield traced


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `checkpoint` and packs/clips, packs/texts."""
    folder = tmp_path_factory.mktemp("precision")
    write_tiny_checkpoint(folder / "checkpoint")
    write_packs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "CALIBRATION_CLIPS", 8)
        yield folder


@pytest.fixture(scope="module")
def model(root: Path) -> CLCR:
    model = load_checkpoint(root / "checkpoint")
    round_pretrained(model)
    return model


@pytest.fixture(scope="module")
def exact(model: CLCR, traced: Callable[..., Graph]) -> dict[str, Graph]:
    return {name: traced(name, module) for name, module in streaming_modules(model, GRID).items()}


@pytest.fixture(scope="module")
def halves(exact: dict[str, Graph]) -> dict[str, bytes]:
    return {name: to_half(graph.data) for name, graph in exact.items()}


def options(root: Path, mode: str) -> Precision:
    packs = (root / "packs" / "clips", root / "packs" / "texts")
    return Precision(mode, packs, "dev", packs if mode == "int8" else ())


@pytest.fixture(scope="module", params=["fp16", "int8"])
def lowered(request: pytest.FixtureRequest, root: Path) -> tuple[str, Path, Report]:
    """A bundle in lower precision that passed its gates, and the report on it."""
    mode = request.param
    asked = ExportOptions(mode, 12, precision=options(root, mode))
    engines = export_bundle(root / "checkpoint", root / mode, asked, quietly)
    assert engines.precision is not None
    return mode, root / mode, engines.precision


# --- the half pass ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENGINES)
def test_the_border_of_a_half_graph_is_that_of_the_float32_graph(
    exact: dict[str, Graph], halves: dict[str, bytes], name: str
) -> None:
    before, after = (onnx.load_from_string(data).graph for data in (exact[name].data, halves[name]))
    assert [str(v) for v in (*before.input, *before.output)] == [str(v) for v in (*after.input, *after.output)]


@pytest.mark.parametrize("name", ENGINES)
def test_norms_softmax_sums_and_the_projection_stay_float32(halves: dict[str, bytes], name: str) -> None:
    proto = onnx.load_from_string(halves[name])
    types = types_of(proto)
    islands = [node for node in proto.graph.node if node.op_type in FLOAT32_ONLY]
    read = {types[item] for node in islands for item in node.input if item in types}
    assert TensorProto.FLOAT16 not in read
    assert {"Softmax", "LayerNormalization"} <= {node.op_type for node in islands}
    check_operators(name, proto)


def test_a_level_s_sums_over_the_window_are_float32_and_its_scores_half(halves: dict[str, bytes]) -> None:
    proto = onnx.load_from_string(halves["level2"])
    types, makers = types_of(proto), {name: node for node in proto.graph.node for name in node.output}
    softmaxes = [node for node in proto.graph.node if node.op_type == "Softmax"]
    assert len(softmaxes) == 3
    for softmax in softmaxes:
        scores = makers[softmax.input[0]]
        assert scores.op_type == "Cast"
        assert makers[scores.input[0]].op_type == "MatMul"
        assert types[scores.input[0]] == TensorProto.FLOAT16
        for user in (node for node in proto.graph.node if softmax.output[0] in node.input):
            assert types[user.output[0]] == TensorProto.FLOAT


def test_a_norm_behind_a_convolution_is_folded_into_it(exact: dict[str, Graph]) -> None:
    before, after = exact["level1"].data, prepared(exact["level1"].data)
    operators = [{node.op_type for node in onnx.load_from_string(data).graph.node} for data in (before, after)]
    assert ["BatchNormalization" in found for found in operators] == [True, False]
    module: Any = exact["level1"].module
    inputs = {name: value.numpy() for name, value in module.example().items()}
    run = sessions({"before": exact["level1"], "after": replace(exact["level1"], data=after)})
    for one, other in zip(run("before", inputs).values(), run("after", inputs).values(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def chain_of_halves() -> bytes:
    """x [streams, 8] -> Cast to half -> MatMul -> Relu -> Cast back."""
    border = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["streams", 8]) for name in ("x", "y")]
    weight = numpy_helper.from_array(np.linspace(-1, 1, 64, dtype=np.float16).reshape(8, 8), "w")
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(nodes, "g", border[:1], border[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def said(data: bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session: Any = onnxruntime.InferenceSession(data)
    output: NDArray[np.float32] = session.run(None, {"x": x})[0]
    return output


def test_the_rounded_graph_rounds_where_half_hardware_does() -> None:
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    weight = np.linspace(-1, 1, 64, dtype=np.float16).reshape(8, 8).astype(np.float32)
    product = (x.astype(np.float16).astype(np.float32) @ weight).astype(np.float16)
    found = said(rounded(chain_of_halves()), x)
    np.testing.assert_allclose(found, np.maximum(product, 0).astype(np.float32), atol=2e-3)
    assert np.array_equal(found, found.astype(np.float16).astype(np.float32))
    assert not np.array_equal(found, np.maximum(x @ weight, 0))


def test_a_value_beyond_half_precision_is_not_finite_in_the_rounded_graph() -> None:
    found = said(rounded(chain_of_halves()), np.full((1, 8), 70000.0, np.float32))
    assert not np.isfinite(found).any()


# --- int8 -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quantised(exact: dict[str, Graph]) -> dict[str, bytes]:
    ready = {name: prepared(graph.data) for name, graph in exact.items()}
    return {name: to_int8(data, dict.fromkeys(quantisable(data).values(), 0.05)) for name, data in ready.items()}


@pytest.mark.parametrize("name", ["language", "level1", "level2"])
def test_quantisation_is_symmetric_per_channel_and_only_around_products(quantised: dict[str, bytes], name: str) -> None:
    proto = onnx.load_from_string(quantised[name])
    constants, makers = constants_of(proto), {item: node for node in proto.graph.node for item in node.output}
    pairs = [node for node in proto.graph.node if node.op_type == "DequantizeLinear"]
    assert pairs
    for node in pairs:
        users = [user for user in proto.graph.node if node.output[0] in user.input]
        assert {user.op_type for user in users} <= {"MatMul", "Gemm", "Conv"}
        assert makers[node.input[0]].op_type == "QuantizeLinear"
        zero = numpy_helper.to_array(constants[node.input[2]])
        assert zero.dtype == np.int8 and not zero.any()
        source = makers[node.input[0]].input[0]
        channels = constants[node.input[1]].dims
        assert (len(channels) == 1) == (source in constants)
        if source in constants:
            axis = next(a.i for a in node.attribute if a.name == "axis")
            assert channels[0] == constants[source].dims[axis]
    check_operators(name, proto)


def test_pictures_and_sound_of_few_channels_and_the_projection_are_not_quantised(exact: dict[str, Graph]) -> None:
    chosen = quantisable(prepared(exact["level1"].data))
    assert "/vision/Conv" not in chosen
    assert "/acoustic/first/Conv" not in chosen
    assert "/vision/blocks/blocks.0/first/Conv" in chosen
    proto = onnx.load_from_string(exact["level1"].data)
    sums = [n.name for n in proto.graph.node if n.op_type == "MatMul" and n.input[0].startswith("/TopK")]
    assert len(sums) == 1
    assert sums[0] not in chosen


def test_ranges_are_absolute_maxima_or_a_percentile() -> None:
    ranges = Ranges()
    values = np.ones(1_000_000, np.float32)
    values[7] = -254.0
    ranges.observe({"x": values, "silent": np.zeros(3, np.float32)})
    assert ranges.scales("absmax") == {"x": 254.0 / STEPS, "silent": 1.0 / STEPS}
    assert 1.0 <= ranges.scales("percentile")["x"] * STEPS < 1.03
    ranges.observe({"x": np.array([300.0], np.float32)})
    assert ranges.scales("absmax")["x"] == 300.0 / STEPS


def test_calibration_without_a_value_or_with_an_infinite_one_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no tensor was observed"):
        Ranges().scales("absmax")
    ranges = Ranges()
    ranges.observe({"x": np.array([np.inf], np.float32)})
    with pytest.raises(ConfigError, match="x: a value that is not finite"):
        ranges.scales("absmax")


# --- shares -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENGINES)
def test_the_work_by_type_adds_up_to_the_work_by_operator(
    exact: dict[str, Graph], halves: dict[str, bytes], quantised: dict[str, bytes], name: str
) -> None:
    total = sum(multiply_adds(exact[name].data, 3).values())
    kinds = []
    for data in (exact[name].data, halves[name], quantised[name], to_half(quantised[name])):
        found = multiply_adds_by_type(data, 3)
        assert sum(found.values()) == sum(multiply_adds(data, 3).values()) == total
        kinds.append(set(found))
    assert kinds[0] == {"float32"}
    assert "float16" in kinds[1] and "int8" not in kinds[1]
    assert "int8" in kinds[2] & kinds[3]


def test_a_product_of_two_types_is_an_error_and_not_counted_as_the_lower() -> None:
    proto = onnx.load_from_string(chain_of_halves())
    proto.graph.node[1].op_type = "Mul"
    value = helper.make_tensor_value_info("d", TensorProto.FLOAT, ["streams", 8])
    product = helper.make_node("MatMul", ["e", "w2"], ["d"], name="both")
    restored = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["e"])
    short = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])
    weights = [
        numpy_helper.from_array(np.array(1, np.float32), "s"),
        numpy_helper.from_array(np.array(0, np.int8), "z"),
        numpy_helper.from_array(np.zeros((8, 8), np.float32), "w2"),
    ]
    graph = helper.make_graph([short, restored, product], "g", proto.graph.input, [value], weights)
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    with pytest.raises(UncountableError, match="'both': operands are float32, int8"):
        multiply_adds_by_type(data)


# --- the verifier -----------------------------------------------------------------------------------------------------


def changed(data: bytes, op_type: str, place: int, value: NDArray[Any]) -> onnx.ModelProto:
    """The graph with one constant input of its first `op_type` node replaced."""
    proto = onnx.load_from_string(data)
    node = next(node for node in proto.graph.node if node.op_type == op_type)
    node.input[place] = "other"
    proto.graph.initializer.append(numpy_helper.from_array(value, "other"))
    return proto


@pytest.mark.parametrize("value", [np.int8(3), np.uint8(0)])
def test_a_zero_point_other_than_0_of_int8_is_refused(quantised: dict[str, bytes], value: Any) -> None:
    with pytest.raises(GraphError, match="zero point"):
        check_operators("level1", changed(quantised["level1"], "DequantizeLinear", 2, np.asarray(value)))


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_scale_that_is_not_positive_is_refused(quantised: dict[str, bytes], value: float) -> None:
    with pytest.raises(GraphError, match="scale must be a positive"):
        check_operators("level1", changed(quantised["level1"], "QuantizeLinear", 1, np.array(value, np.float32)))


def test_a_softmax_in_half_precision_is_refused() -> None:
    proto = onnx.load_from_string(chain_of_halves())
    proto.graph.node[2].op_type = "Softmax"
    with pytest.raises(GraphError, match="Softmax node 'c': reads float16"):
        check_operators("level1", proto)


# --- clips ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pack", "subset"), [("clips", "VA"), ("texts", "L"), ("faces", "V")])
def test_streamed_clips_are_answered_as_the_model_answers_them(
    root: Path, model: CLCR, exact: dict[str, Graph], pack: str, subset: str
) -> None:
    opened = Pack(root / "packs" / pack, "dev", model.config.labels)
    run = sessions(exact)
    found = answers(lambda: Chain(exact, model, run), opened, quietly)
    predicted = evaluate_subset(model, opened, subset)
    np.testing.assert_allclose(found, predicted.probabilities(), atol=1e-4)
    assert found.std(0).max() > 1e-6


def test_a_clip_fills_its_hops_and_the_rest_is_masked(root: Path, model: CLCR) -> None:
    clip = Pack(root / "packs" / "clips", "train", model.config.labels).clip(0).span(0, 2)
    scenario = scenario_of(replace(clip, slots=clip.slots[:4], frames=clip.frames[:4], mel=clip.mel[:28]), GRID, 64)
    assert scenario.hops == 2
    assert scenario.vision_valid.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert scenario.acoustic_valid.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert not scenario.token_valid.any()
    np.testing.assert_array_equal(scenario.frames[1, 0], clip.frames[3].transpose(2, 0, 1))
    np.testing.assert_array_equal(scenario.mel.reshape(-1, 64)[:28], clip.mel[:28])


def test_a_pack_is_thinned_evenly(root: Path, model: CLCR) -> None:
    pack = Pack(root / "packs" / "texts", "train", model.config.labels)
    assert thinned(pack, 1000) == list(range(len(pack)))
    assert len(thinned(pack, 5)) == 5
    assert thinned(pack, 5)[-1] == len(pack) - 1


# --- bundles ----------------------------------------------------------------------------------------------------------


def test_the_runtime_accepts_the_bundle_and_finds_its_precision_in_it(lowered: tuple[str, Path, Report]) -> None:
    mode, bundle, report = lowered
    provenance = load_bundle(bundle).manifest.provenance
    assert provenance["precision"] == json.loads(json.dumps(asdict(report)))
    assert provenance["precision"]["mode"] == mode
    assert provenance["proof"]["chained"]
    for name in ENGINES:
        shares = report.shares[name]
        assert sum(shares.values()) == pytest.approx(1.0)
        assert report.bytes[name] == (bundle / f"{name}.onnx").stat().st_size
        assert shares["int8" if mode == "int8" and name != "intercad" else "float16"] > 0
        cast = provenance["export"]["operators"][name]
        assert cast["Cast"] > 0
        assert ("QuantizeLinear" in cast) == (mode == "int8" and name != "intercad")


def test_the_runtime_repeats_the_golden_record_with_this_cpu_s_own_kernels(lowered: tuple[str, Path, Report]) -> None:
    _, bundle, _ = lowered
    replayed = replay_golden(load_bundle(bundle), open_backend("onnxruntime"))
    assert replayed is not None
    hops, worst = replayed
    assert hops == 12
    assert worst <= INT8_TOLERANCE


def test_every_gate_was_measured_and_the_negative_controls_noticed(lowered: tuple[str, Path, Report]) -> None:
    mode, _, report = lowered
    assert report.failures() == []
    assert {name.partition(".")[0] for name in report.parity} == {"level1", "level2", "level3", "intercad"}
    assert max(report.parity.values()) > 1e-6  # something was rounded
    assert set(report.parity) == set(report.written) == set(report.largest)
    assert set(report.batched) == set(ENGINES)
    assert len(report.control) == 3
    assert min(report.control.values()) > 1.0
    assert {name: scores["clips"] for name, scores in report.task.items()} == {"clips": 18, "texts": 6}
    assert all(set(scores["macro_f1"]) == {"fp32", mode} for scores in report.task.values())
    assert report.alone == {}
    assert bool(report.calibration) == (mode == "int8")


@pytest.mark.parametrize("lowered", ["int8"], indirect=True)  # it goes through all that fp16 does
def test_an_export_in_lower_precision_can_be_repeated_to_the_byte(
    lowered: tuple[str, Path, Report], root: Path, tmp_path: Path
) -> None:
    """That tracing can be repeated, test_export.py shows."""
    mode, bundle, _ = lowered
    torch.manual_seed(99)
    export_bundle(root / "checkpoint", tmp_path / "b", ExportOptions(mode, 12, precision=options(root, mode)), quietly)
    first, again = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in (bundle, tmp_path / "b"))
    assert first == again


# --- gates ------------------------------------------------------------------------------------------------------------


def passing() -> Report:
    limits = asdict(LIMITS["fp16"])
    report = Report("fp16", {"level1": {"float16": 1.0}}, {"level1": 1}, limits)
    report.parity = {"level2.alpha_vision": 1e-3, "intercad.probs": 0.0}
    report.written, report.batched, report.control = dict(report.parity), {"level1": 0.0}, {"level1": 2.0}
    scores = {"clips": 9, "macro_f1": {"fp32": 0.5, "fp16": 0.495}, "drop_points": 0.5, "changed": 1}
    report.task = {"clips": scores}
    return report


def test_a_report_within_its_limits_passes_and_reads_as_a_table() -> None:
    report = passing()
    assert report.failures() == []
    text = "\n".join(report.lines())
    assert "float16 100.0%" in text
    assert "worst 1.0e-03 of 2e-02 at level2.alpha_vision" in text
    assert "fp32 0.5000, fp16 0.4950, 1 answers changed" in text


@pytest.mark.parametrize("kind", ["parity", "written", "batched", "control", "task"])
def test_a_report_that_compared_nothing_fails(kind: str) -> None:
    report = passing()
    getattr(report, kind).clear()
    assert report.failures() == ["nothing was compared"]


@pytest.mark.parametrize("value", [0.021, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["parity", "written"])
def test_an_output_over_its_limit_fails_and_is_named(kind: str, value: float) -> None:
    report = passing()
    getattr(report, kind)["level2.alpha_vision"] = value
    assert [line.partition(":")[0] for line in report.failures()] == [f"{kind} level2.alpha_vision"]


@pytest.mark.parametrize("drop", [0.51, float("nan")])
def test_a_larger_fall_of_macro_f1_fails(drop: float) -> None:
    report = passing()
    report.task["clips"]["drop_points"] = drop
    assert report.failures()[0].startswith("macro-F1 on clips falls by")


@pytest.mark.parametrize("ratio", [1.0, 0.0, float("nan")])
def test_a_control_that_goes_unnoticed_fails(ratio: float) -> None:
    report = passing()
    report.control["level1"] = ratio
    assert report.failures() == ["negative control 'level1' went unnoticed"]


def test_a_batch_that_answers_otherwise_fails() -> None:
    report = passing()
    report.batched["level1"] = 1.0
    assert report.failures()[0].startswith("batched level1: differs")


def test_an_engine_that_answers_with_what_is_no_number_is_right_about_nothing() -> None:
    probs = np.eye(3, dtype=np.float32)
    assert macro_f1(probs, np.arange(3)) == 1.0
    probs[1, 1] = np.nan
    assert macro_f1(probs, np.arange(3)) == 0.0


def bad_weights(data: bytes) -> bytes:
    """A graph one of whose large weights is a quarter off."""
    proto = onnx.load_from_string(data)
    weight = max(proto.graph.initializer, key=lambda item: int(np.prod(item.dims)))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.25), weight.name))
    return bytes(proto.SerializeToString(deterministic=True))


@pytest.fixture
def bad_level2(exact: dict[str, Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    """Level 2's weights go wrong on the way to float16."""
    half = to_half
    monkeypatch.setattr(precision, "to_half", lambda d: half(bad_weights(d) if d == exact["level2"].data else d))


@pytest.mark.usefixtures("bad_level2")
def test_a_gate_that_fails_writes_nothing_and_names_the_engine(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "prove", lambda *args: _Unproved())
    old = tmp_path / "b"
    old.mkdir()
    (old / "manifest.json").write_text("the bundle of yesterday")
    asked = ["--precision", "fp16", "--evaluate", str(root / "packs" / "texts")]
    code = main([str(root / "checkpoint"), "-o", str(old), "--proof-hops", "35", *asked])
    said = capsys.readouterr()
    assert code == 9
    assert said.err.count("\n") == 1
    assert "alone, level2 would fail; no bundle written" in said.err
    assert "alone     level2: parity " in said.out
    assert "alone     level3: passes" in said.out
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (old / "manifest.json").read_text() == "the bundle of yesterday"


def test_a_fall_of_the_task_metric_alone_is_enough_to_write_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = replace(LIMITS["fp16"], points=-1.0)
    monkeypatch.setitem(gates.LIMITS, "fp16", strict)
    with pytest.raises(PrecisionError, match=r"fp16: macro-F1 on texts falls by .* points, -1.0 are allowed"):
        asked = ExportOptions("b", 4, precision=replace(options(root, "fp16"), evaluate=(root / "packs" / "texts",)))
        export_bundle(root / "checkpoint", tmp_path / "b", asked, quietly)
    assert list(tmp_path.iterdir()) == []


def test_a_difference_is_relative_to_the_size_of_what_it_should_be() -> None:
    wanted = np.array([3.0, -4.0])
    found = Difference.of(wanted + np.array([0.0, 0.5]), wanted)
    assert found.relative == pytest.approx(0.1) and found.largest == 0.5
    assert Difference.of(wanted, wanted) == Difference(0.0, 0.0)
    assert Difference.of(wanted, np.zeros(2)).relative > 1e9
    assert Difference.of(np.array([np.nan, 0.0]), wanted) == Difference(float("inf"), float("inf"))


def test_limits_know_every_output_that_is_compared(model: CLCR, exact: dict[str, Graph]) -> None:
    bench = Bench(model, GRID, exact, make_scenario(model, GRID, 2), (), quietly)
    compared = bench.parity(exact)
    assert {(found.relative, found.largest) for found in compared.values()} == {(0.0, 0.0)}
    for mode, limits in LIMITS.items():
        assert isinstance(limits, Limits)
        report = Report(mode, {}, {}, asdict(limits))
        assert all(report.allowed(name) >= 0.0 for name in compared)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--precision", "fp16"], "needs --evaluate PACK"),
        (["--precision", "int8", "--evaluate", "clips"], "needs --calibration MANIFEST.csv|PACK"),
        (["--precision", "fp16", "--evaluate", "clips", "--calibration", "clips"], "fp16 has no scales"),
        (["--evaluate", "clips"], "float32 has no such gate"),
        (["--calibration", "clips"], "fp32 has no scales"),
        (["--precision", "fp16", "--evaluate", "nowhere"], "neither a prepared pack nor a manifest"),
        (["--precision", "fp16", "--evaluate", "clips", "--split", "spring"], "no labelled sample in split 'spring'"),
        (["--precision", "int8", "--evaluate", "clips", "--calibration", "clips"], "no clip has language"),
        (["--precision", "int8", "--evaluate", "texts", "--calibration", "texts"], "no clip has vision"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    wanted: str,
) -> None:
    monkeypatch.chdir(root / "packs")
    monkeypatch.setattr("clcr_export.writer.prove", lambda *args: _Unproved())
    code = main([str(root / "checkpoint"), "-o", str(tmp_path / "b"), *arguments])
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1)
    assert wanted in error
    assert list(tmp_path.iterdir()) == []


class _Unproved:
    """A proof that passes: these tests never get as far as writing it."""

    def check(self) -> None:
        pass


def test_a_regression_checkpoint_has_no_metric_to_gate_which_is_said_before_anything_is_traced(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[str] = []
    monkeypatch.setattr(writer, "export_graph", lambda name, *_, **__: traced.append(name))
    write_tiny_checkpoint(tmp_path / "c", task="regression")
    asked = ExportOptions("b", 4, precision=options(root, "fp16"))
    with pytest.raises(ConfigError, match="a regression checkpoint has no macro-F1"):
        export_bundle(tmp_path / "c", tmp_path / "b", asked, quietly)
    assert not (tmp_path / "b").exists() and traced == []
