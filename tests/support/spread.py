"""Which tests are slow, and how tests are spread over the processes of pytest-xdist.

The unit that goes to a process is a file, because its fixtures are built once per process; GROUPS joins files that must
not run side by side. The figures are seconds of CPU on two busy cores of an AMD EPYC, 2026-11-22.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# These units start first, the longest first, so that no process is left alone with one of them at the end.
LONGEST_FIRST: Sequence[str] = (
    "tests/model/test_train.py",  # 29, and with its group 75
    "tests/tools/test_bench_tools.py",  # 27, and with its group 53
    "tests/export/test_export.py",  # 36
    "tests/repository/test_documents.py",  # 27
    "tests/cli/test_manners.py",  # 25
    "tests/test_embedding.py",  # 20
    "tests/streams/test_real_clip.py",  # 18
    "tests/export/test_precision.py",  # 18
    "tests/export/test_recompute.py",  # 17
    "tests/model/test_scoring.py",  # 17
    "tests/streams/test_stream_equals_offline.py",  # 15
    "tests/model/test_streaming_model.py",  # 15
    "tests/model/test_scoring_histories.py",  # 14
    "tests/inference/test_building.py",  # 13
    "tests/streams/test_speech_stream.py",  # 12
    "tests/sources/test_media.py",  # 12
    "tests/repository/test_repository.py",  # 12
    "tests/streams/test_several_streams.py",  # 12
    "tests/model/test_data.py",  # 11
    "tests/model/test_clcr.py",  # 11
    "tests/repository",
    "tests/sources",
    "tests/streams",
    "tests/inference",
)
# Start of a test's id -> the group that it shares a process with: users of the machine's one sound server; tests that
# measure time or memory, which should at least not disturb each other; and tests that make an optimiser or compile, for
# which torch imports torch._dynamo, 2 s of CPU in each process.
GROUPS: Mapping[str, str] = {
    "tests/streams/test_runtime_e2e.py": "measured",
    "tests/tools/test_bench_tools.py": "measured",
    "tests/tools/test_soak.py": "measured",
    "tests/wire/test_publisher.py": "measured",
    "tests/model/test_bases.py": "optimiser",
    "tests/model/test_checkpoint.py": "optimiser",
    "tests/model/test_face_training.py": "optimiser",
    "tests/model/test_histories.py": "optimiser",
    "tests/model/test_stored.py": "optimiser",
    "tests/model/test_train.py": "optimiser",
    "tests/model/test_train_speech.py": "optimiser",
    "tests/model/test_words_training.py": "optimiser",
    "tests/tools/test_gpu_tools.py": "optimiser",
    "tests/sources/test_microphone.py": "sound",
    "tests/sources/test_virtual_microphone.py": "sound",
    "tests/faults/test_11_sound_overrun.py": "sound",
    "tests/faults/test_12_microphone_muted.py": "sound",
    "tests/faults/test_14_sound_flood.py": "sound",
    "tests/faults/test_15_unusual_sound.py": "sound",
}
# Marked slow beside those that carry the mark themselves: start of a test's id -> why. The others are the quick
# selection, which has tests of every room: what runs in pytest's own process and takes less than a second.
SLOW: Mapping[str, str] = {
    "tests/sources/test_speech_source.py": "starts recognisers' processes, each test anew",
    "tests/sources/test_speech_whisper.py": "loads Whisper",
    "tests/cli/test_manners.py": "starts the command, each test anew",
    "tests/examples": "starts each example, a broker, a compiler and a browser",
    "tests/export/test_export.py": "exports a model",
    "tests/export/test_precision.py": "exports a model",
    "tests/export/test_recompute.py": "exports a model",
    "tests/export/test_window.py::test_a_bundle": "exports a model",
    "tests/faults": "starts the command, cameras and sound servers; a day of a virtual clock",
    "tests/inference/test_backends.py::TestTogether": "4 s",
    "tests/inference/test_building.py::test_a_session_that_ends_takes": "starts sessions that build plans",
    "tests/cli/test_sub.py::test_a_second_ctrl_c": "starts a program and fills its pipe",
    "tests/metrics/test_gauges.py::test_a_session": "starts the command",
    "tests/cli/test_ps.py::test_a_session": "starts the command",
    "tests/cli/test_completion.py": "asks every command for its options",
    "tests/cli/test_top.py::test_a_dumb_terminal": "starts the command",
    "tests/cli/test_top.py::test_ctrl_z": "starts the command",
    "tests/cli/test_top.py::test_top_in_a_terminal": "starts the command",
    "tests/dashboard/test_browser.py": "starts a browser",
    "tests/dashboard/test_server.py::test_the_command": "starts the command",
    "tests/inference/test_building.py::test_doctor_replays": "2 s",
    "tests/inference/test_building.py::test_onnxruntime_serves_while": "starts sessions that build plans",
    "tests/inference/test_building.py::test_plans_that_cannot_be_built": "starts sessions that build plans",
    "tests/inference/test_building.py::test_tensorrt_by_name": "starts sessions that build plans",
    "tests/inference/test_int8.py::test_the_golden_check_allows": "3 s",
    "tests/inference/test_tensorrt_contract.py::test_every_name": "starts a reader of TensorRT's stubs",
    "tests/inference/test_tensorrt_contract.py::test_the_fake_has_no_name": "starts a reader of TensorRT's stubs",
    "tests/inference/test_tensorrt_contract.py::test_the_look_up": "starts a reader of TensorRT's stubs",
    "tests/inference/test_tensorrt_contract.py::test_the_releases_differ": "starts a reader of TensorRT's stubs",
    "tests/model/test_clcr.py::test_a_sample_alone": "1 s",
    "tests/model/test_clcr.py::test_gradients_of_a_level": "4 s",
    "tests/model/test_clcr.py::test_private_parts_know": "1 s",
    "tests/model/test_clcr.py::test_the_active_rate_grows": "3 s",
    "tests/model/test_data.py::test_a_tile_of": "decodes a set's pictures",
    "tests/model/test_data.py::test_no_face_and_no_speaker_is_on_both_sides_of_a_cut": "5 s",
    "tests/model/test_evaluate.py": "evaluates a model on every subset",
    "tests/model/test_face_training.py::test_a_run_learns": "trains a network",
    "tests/model/test_face_training.py::test_the_development_sets": "3 s",
    "tests/model/test_words_training.py": "trains an encoder",
    "tests/model/test_histories.py::test_a_history_changes": "3 s",
    "tests/model/test_histories.py::test_a_run_with_histories": "trains a model",
    "tests/model/test_histories.py::test_the_commands_take": "trains a model",
    "tests/model/test_scoring.py::test_a_cut_far_into": "draws and plays a clip",
    "tests/model/test_scoring.py::test_scoring_a_bundle_loads_no_torch": "starts the command",
    "tests/model/test_scoring.py::test_the_command_scores": "4 s",
    "tests/model/test_speech_model.py::test_sound_that_comes_late": "2 s",
    "tests/model/test_speech_model.py::test_the_full_context": "1 s",
    "tests/model/test_streaming_model.py::test_a_modality_that_comes_late": "1 s",
    "tests/model/test_streaming_model.py::test_a_stream_in_a_batch": "3 s",
    "tests/model/test_streaming_model.py::test_cached_tokens": "1 s",
    "tests/model/test_streaming_model.py::test_future_input": "2 s",
    "tests/model/test_streaming_model.py::test_gamma_may_change": "1 s",
    "tests/model/test_streaming_model.py::test_hundreds_of_hops": "a soak",
    "tests/model/test_streaming_model.py::test_the_default_window": "1 s",
    "tests/model/test_stored.py::test_a_run_on_stored": "trains a model",
    "tests/model/test_train.py": "trains a model",
    "tests/model/test_train_speech.py": "trains a model",
    "tests/cli/test_recordings.py": "plays clips with the shipped bundle",
    "tests/recording/test_recorder.py::test_a_process_killed": "records for 4 s in ten processes",
    "tests/repository/test_documents.py::TestBesideASession": "runs the documents' commands",
    "tests/repository/test_documents.py::test_a_command_that": "runs the documents' commands, 25 s",
    "tests/repository/test_documents.py::test_an_option_that": "asks every command for its help",
    "tests/wire/test_keys.py::test_the_documented": "starts a session",
    "tests/repository/test_documents.py::test_the_demo": "4 s",
    "tests/repository/test_documents.py::test_the_output_file": "runs a document's command",
    "tests/repository/test_documents.py::test_the_selections": "two runs of pytest",
    "tests/repository/test_repository.py::test_every_message_in_the_troubleshooting": "1 s",
    "tests/repository/test_repository.py::test_the_installed_wheel": "builds a wheel",
    "tests/repository/test_repository.py::test_the_python_that_the_documents_show": "starts a session",
    "tests/repository/test_repository.py::test_the_wheel": "builds a wheel",
    "tests/repository/test_spread.py::test_a_file_stays_in_one_process": "three processes of pytest",
    "tests/sources/test_decoder.py": "starts decoders, each test anew",
    "tests/sources/test_capture_clock.py::test_a_day": "a day of a virtual clock, twice",
    "tests/sources/test_flash_and_click.py": "a stream of 12 s",
    "tests/sources/test_media.py::test_real_clips": "decodes recordings",
    "tests/sources/test_playback.py": "writes and plays clips",
    "tests/sources/test_recordings_in_order.py": "writes and plays clips",
    "tests/streams/test_required.py::test_the_command": "starts a session",
    "tests/tools/test_fuzz.py::test_changes_find": "1 s",
    "tests/tools/test_fuzz.py::test_every_decoder": "20 s of changed inputs",
    "tests/wire/test_bus_machine.py": "1 s each",
    "tests/tools/test_soak_faults.py::test_a_short": "starts sessions that fail",
    "tests/tools/test_soak_view.py::test_a_short": "starts sessions and a dashboard",
    "tests/tools/test_bench_faces.py": "draws and searches a clip",
    "tests/cli/test_doctor.py::test_doctor_says_how": "opens sources",
    "tests/sources/test_network_camera.py": "streams a camera for 15 s",
    "tests/sources/test_screen.py::test_a_face": "starts an X server and a session",
    "tests/sources/test_screen.py::test_a_display": "starts a session",
    "tests/sources/test_pipeline.py": "starts pipelines and a session",
    "tests/sources/test_rtsp.py": "starts RTSP servers and sessions",
    "tests/sources/test_virtual_microphone.py": "streams a microphone",
    "tests/streams/test_loop.py::test_whatever_becomes_of_the_others": "3 s",
    "tests/streams/test_events.py::test_a_session": "runs two sessions",
    "tests/streams/test_person.py": "exports a model",
    "tests/streams/test_profile.py::test_a_calibration_without": "starts the command",
    "tests/streams/test_profile.py::test_a_calibration_is_marked": "exports a model",
    "tests/streams/test_profile.py::test_a_profile_is_written": "exports a model",
    "tests/streams/test_profile.py::test_a_profile_of_another_shape": "exports a model",
    "tests/streams/test_profile.py::test_a_profile_outlives": "exports a model",
    "tests/streams/test_profile.py::test_a_stream_that_begins_anew": "exports a model",
    "tests/streams/test_profile.py::test_no_file_is_written": "exports a model",
    "tests/streams/test_profile.py::test_what_a_stream_left": "exports a model",
    "tests/streams/test_profile.py::test_the_command_calibrates": "starts the command",
    "tests/streams/test_nothing_leaves.py": "starts the command",
    "tests/streams/test_real_clip.py": "streams recordings",
    "tests/streams/test_runtime_e2e.py::test_a_bundle_of_another_sample_rate": "2 s",
    "tests/streams/test_runtime_e2e.py::test_a_clip_at_both_paces": "starts the command",
    "tests/streams/test_runtime_e2e.py::test_a_reader_of_stdout": "starts the command",
    "tests/streams/test_runtime_e2e.py::test_a_signal_ends": "starts the command",
    "tests/streams/test_runtime_e2e.py::test_a_stream_name_in_use": "starts the command",
    "tests/streams/test_runtime_e2e.py::test_a_subscriber_reads": "starts the command",
    "tests/streams/test_runtime_e2e.py::test_an_endpoint_in_use": "starts the command",
    "tests/streams/test_runtime_e2e.py::test_memory_stays_small": "starts the command",
    "tests/streams/test_runtime_e2e.py::test_no_camera_and_no_microphone": "starts the command",
    "tests/streams/test_runtime_e2e.py::test_stdout_takes": "starts the command",
    "tests/streams/test_runtime_e2e.py::test_the_default_bundle_starts": "starts the command",
    "tests/streams/test_several_streams.py": "starts the command",
    "tests/streams/test_speech_stream.py": "exports a model",
    "tests/streams/test_stream_equals_offline.py": "exports a model",
    "tests/test_embedding.py::test_a_program_that_forgets": "starts a program",
    "tests/test_embedding.py::test_a_recording_waits": "3 s",
    "tests/test_embedding.py::test_an_example_runs": "starts each example",
    "tests/test_embedding.py::test_pushed_frames": "plays a clip twice",
    "tests/test_embedding.py::test_ten_lines": "starts a program",
    "tests/test_embedding.py::test_the_document_s_code_runs": "starts each program of a document",
    "tests/tools/test_bench_parts.py::test_the_written_json": "3 s",
    "tests/tools/test_bench_tools.py::test_a_tool_that_is_started": "starts a tool",
    "tests/tools/test_bench_tools.py::test_beside_runs": "a measurement",
    "tests/tools/test_bench_tools.py::test_bus_times": "a measurement",
    "tests/tools/test_bench_tools.py::test_latency_measures": "a measurement",
    "tests/tools/test_bench_tools.py::test_streams_finds": "a measurement",
    "tests/tools/test_gpu_tools.py::test_an_engine_that_answers_otherwise": "2 s",
    "tests/tools/test_gpu_tools.py::test_the_torch_part": "4 s",
    "tests/tools/test_gpu_tools.py::test_the_whole_tensorrt_part": "13 s",
    "tests/tools/test_gpu_tools.py::test_torch_compile": "6 s",
    "tests/tools/test_gpu_tools.py::test_without_a_gpu": "loads torch",
    "tests/tools/test_tools.py::test_a_tool_run_by_its_path": "starts each tool",
    "tests/tools/test_mutate.py::test_a_change_that_tests_notice": "five runs of pytest",
    "tests/tools/test_soak.py::test_a_short_soak": "a soak",
    "tests/tools/test_soak.py::test_a_tick_that_is_not_published": "starts a soak",
    "tests/tools/test_soak.py::test_what_keeps": "a soak",
}


def unit_of(nodeid: str) -> str:
    """The name of what goes to one process as a whole: a group or a file."""
    for start, group in GROUPS.items():
        if nodeid.startswith(start):
            return group
    return nodeid.split("::", 1)[0]


def rank_of(nodeid: str) -> int:
    """The place of a test's unit in the order in which units start."""
    ranks = [rank for rank, start in enumerate(LONGEST_FIRST) if nodeid.startswith(start)]
    return min(ranks, default=len(LONGEST_FIRST))


def is_slow(nodeid: str) -> bool:
    """Whether SLOW lists a test."""
    return nodeid.startswith(tuple(SLOW))
