"""`clcr-stream doctor` and `devices`: what a machine has and what is wrong with it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from clcr_stream.cli import devices as devices_command
from clcr_stream.cli.main import main
from clcr_stream.sources import devices
from clcr_stream.sources.v4l2 import Offer, PictureMode
from curve_keys import write_keys
from tiny_bundle import write_bundle

pytestmark = pytest.mark.usefixtures("own_endpoints")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "bundle"
    write_bundle(folder)
    return folder


def test_doctor_finds_a_good_installation(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json", "--bundle", str(bundle)])
    found = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in found["checks"]}
    assert (code, found["ok"]) == (0, True)
    assert checks["bundle"]["ok"]
    assert checks["backend"]["detail"].startswith("onnxruntime")
    assert {"python", "cameras", "microphones", "endpoint"} <= set(checks)


def test_doctor_names_the_broken_part(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bundle(tmp_path / "broken")
    (tmp_path / "broken" / "extra").touch()
    assert main(["doctor", "--bundle", str(tmp_path / "broken")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("FAIL bundle:") and "extra" in line for line in lines)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return write_keys(tmp_path)


def test_curve_flags_open_an_address_off_loopback(bundle: Path, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--bundle", str(bundle), "--backend", "null", "--bind", "tcp://0.0.0.0:*"]
    curve = ["--curve-secret", str(keys / "server.key_secret"), "--curve-clients", str(keys / "allowed")]
    assert main(["doctor", *flags]) == 1
    assert "FAIL endpoint: --bind tcp://0.0.0.0:*: off loopback only with CURVE" in capsys.readouterr().out
    assert main(["doctor", *flags, *curve]) == 0
    assert "ok   endpoint: tcp://0.0.0.0:" in capsys.readouterr().out


def test_devices_answers_without_any(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "list_cameras", lambda: [])
    monkeypatch.setitem(sys.modules, "pyaudio", None)
    assert main(["devices", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cameras"] == found["microphones"] == []
    assert "clcr-stream[live]" in found["microphone_problem"]
    assert main(["devices"]) == 0
    assert "none found" in capsys.readouterr().out


def test_devices_lists_the_modes_of_a_camera(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [{"device": f"/dev/video{number}", "name": "Desk camera"} for number in (0, 1)]
    offers = {
        "/dev/video0": Offer([PictureMode("YUYV", 640, 480, 30.0), PictureMode("MJPG", 1280, 720, 29.97)], ["H264"]),
        "/dev/video1": Offer([], ["RG10"]),
    }
    monkeypatch.setattr(devices, "list_cameras", lambda: known)
    monkeypatch.setattr(devices_command, "ask_driver", offers.__getitem__)
    monkeypatch.setitem(sys.modules, "pyaudio", None)
    assert main(["devices"]) == 0
    assert capsys.readouterr().out.splitlines()[:5] == [
        "camera      /dev/video0  Desk camera",
        "            YUYV 640x480 30 Hz",
        "            MJPG 1280x720 29.97 Hz",
        "camera      /dev/video1  Desk camera",
        "            gives RG10 alone, as a sensor at a CSI connector does; give --camera csi://0 or gst:PIPELINE",
    ]
    assert main(["devices", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["cameras"]
    assert found[0] == {**known[0], "modes": ["YUYV 640x480 30 Hz", "MJPG 1280x720 29.97 Hz"], "unread": ["H264"]}
    assert found[1] == {**known[1], "modes": [], "unread": ["RG10"]}


def test_doctor_names_each_camera_and_microphone_or_what_to_do_without(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "list_cameras", lambda: [{"device": "/dev/video2", "name": "Desk camera"}])
    monkeypatch.setattr(devices, "list_microphones", lambda: [{"index": 3, "name": "USB headset"}])
    assert main(["doctor", "--bundle", str(bundle)]) == 0
    shown = capsys.readouterr().out
    assert "cameras: /dev/video2 (Desk camera)\n" in shown and "microphones: 3: USB headset\n" in shown
    monkeypatch.setattr(devices, "list_cameras", lambda: [])
    monkeypatch.setattr(devices, "list_microphones", lambda: [])
    assert main(["doctor", "--bundle", str(bundle)]) == 0
    shown = capsys.readouterr().out
    assert "cameras: none; plug one in" in shown and "microphones: none; use --input FILE" in shown


def test_cameras_are_listed_by_device_and_name(tmp_path: Path) -> None:
    (tmp_path / "video0").mkdir()
    (tmp_path / "video0" / "name").write_text("Desk camera\n")
    (tmp_path / "video2").mkdir()
    assert devices.list_cameras(tmp_path) == [
        {"device": "/dev/video0", "name": "Desk camera"},
        {"device": "/dev/video2", "name": "video2"},
    ]
    assert devices.list_cameras(tmp_path / "none") == []


def test_doctor_says_how_a_source_that_is_named_is_doing(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--bundle", str(bundle), "--backend", "null", "--camera", "/dev/video97", "--mic", "test://?seconds=0.2"]
    assert main(["doctor", "--json", *given]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    camera, microphone = checks["camera /dev/video97"], checks["synthetic test://?seconds=0.2"]
    assert not camera["ok"] and not camera["required"]
    assert camera["detail"].startswith("absent (no_device): no such camera")
    assert microphone["ok"] and microphone["detail"].startswith("ended")
    since = r" for \d+\.\d s; states begun: starting 1, "
    assert re.search(rf";{since}absent 1; counts: bad_frames 0, frames 0, ", camera["detail"])
    assert re.search(rf";{since}.*ended 1", microphone["detail"])
