"""Endpoints: the user's folders, what may be bound, and the lock that goes with a socket."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

import pytest

from clcr_stream.errors import PublishError
from clcr_stream.wire import endpoint
from clcr_stream.wire.endpoint import check_private, checked_endpoint, claim, release


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "clcr-stream"


def test_publishing_makes_the_user_s_folder_for_the_user_alone(own_folder: Path) -> None:
    assert endpoint.default_endpoint("a") == f"ipc://{own_folder}/a.sock"
    assert own_folder.stat().st_mode & 0o777 == 0o700


def test_naming_an_endpoint_makes_no_folder(own_folder: Path) -> None:
    assert endpoint.endpoint_in(own_folder, "a") == f"ipc://{own_folder}/a.sock"
    assert not own_folder.exists()


def test_a_folder_that_others_may_enter_or_that_is_a_link_is_refused(own_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(PublishError, match="mode 0700"):
        check_private(tmp_path / "link")
    own_folder.mkdir()
    own_folder.chmod(0o755)
    with pytest.raises(PublishError, match="mode 0700, is mode drwxr-xr-x"):
        endpoint.default_endpoint("a")


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "x" * 65])
def test_a_stream_whose_name_is_no_name_has_no_endpoint(own_folder: Path, name: str) -> None:
    with pytest.raises(PublishError, match="a name is 1 to 64"):
        endpoint.endpoint_in(own_folder, name)


@pytest.mark.parametrize(
    "text",
    ["ipc:////", "ipc:////etc/x", "ipc:///a//b", "ipc:///a/", "ipc:///a\0b", "ipc:///a\nb", "ipc://a", "ipc://@a"],
)
def test_a_path_that_is_not_plainly_a_file_s_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(PublishError, match="not understood; allowed are ipc:///PATH") as caught:
        checked_endpoint(text, None)
    assert str(caught.value).isprintable()


def test_binding_to_a_file_that_is_no_socket_is_refused_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "talk.mp4").write_bytes(b"a recording")
    with pytest.raises(PublishError, match="exists and is no socket"):
        checked_endpoint(f"ipc://{tmp_path}/talk.mp4", None)
    assert (tmp_path / "talk.mp4").read_bytes() == b"a recording"


def test_a_lock_file_that_we_did_not_make_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "poetry.lock").write_text("[metadata]\n")
    with pytest.raises(PublishError, match=r"poetry.lock: exists and is no lock of clcr-stream"):
        claim(tmp_path / "poetry", "a")
    assert (tmp_path / "poetry.lock").read_text() == "[metadata]\n"


def test_a_socket_on_which_another_program_listens_is_not_taken_over(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "s"))
        other.listen(1)
        with pytest.raises(PublishError, match="in use by another program"):
            claim(tmp_path / "s", "a")
        assert (tmp_path / "s").is_socket()


def test_the_socket_of_a_process_that_died_is_taken_over(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    release(tmp_path / "s", claim(tmp_path / "s", "a"))
    assert list(tmp_path.iterdir()) == []


def test_a_released_claim_leaves_nothing_behind_and_can_be_had_again(tmp_path: Path) -> None:
    for _ in range(2):
        held = claim(tmp_path / "s", "a")
        assert (tmp_path / "s.lock").read_text() == f"{os.getpid()}\n"
        with pytest.raises(PublishError, match=f"in use by process {os.getpid()}"):
            claim(tmp_path / "s", "a")
        release(tmp_path / "s", held)
        assert list(tmp_path.iterdir()) == []


def test_what_a_new_owner_made_after_a_clean_up_by_hand_is_not_removed(tmp_path: Path) -> None:
    old = claim(tmp_path / "s", "a")
    (tmp_path / "s.lock").unlink()
    new = claim(tmp_path / "s", "a")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        release(tmp_path / "s", old)
        assert (tmp_path / "s").is_socket() and (tmp_path / "s.lock").exists()
    release(tmp_path / "s", new)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_its_owner_removed_after_we_had_opened_it_is_not_taken_for_the_real_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the lock would be on a file without a name, and a third process could have another one."""
    ending = [claim(tmp_path / "s", "a")]
    really = fcntl.flock

    def flock_after_the_owner_has_gone(descriptor: int, how: int) -> None:
        if ending:
            release(tmp_path / "s", ending.pop())
        really(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock_after_the_owner_has_gone)
    held = claim(tmp_path / "s", "a")
    assert (tmp_path / "s.lock").read_text() == f"{os.getpid()}\n"
    with pytest.raises(PublishError, match=f"in use by process {os.getpid()}"):
        claim(tmp_path / "s", "a")
    release(tmp_path / "s", held)
