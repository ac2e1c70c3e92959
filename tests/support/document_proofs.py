"""How each command that a document shows is proved: run, by a test elsewhere, by its --help, or not ours to run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """Run here. `says` is a pattern for standard output and error together; `instead` shortens or places a word."""

    says: str
    code: int = 0
    instead: tuple[tuple[str, str], ...] = ()
    session: str | None = None  # the stream of a session that runs meanwhile
    lines: int | None = None  # stop after so many lines of an output that has no end


@dataclass(frozen=True)
class ByTest:
    """Run by a test elsewhere, file::function."""

    test: str


@dataclass(frozen=True)
class Options:
    """Not run, for this reason; its options are in its --help."""

    reason: str


@dataclass(frozen=True)
class Foreign:
    """Not ours to run: another program, or another machine, as the reason says."""

    reason: str


Proof = Run | ByTest | Options | Foreign

SUMMARY = r"ticks (\d+) = published \1 \+ skipped \(late 0, overrun 0, invalid 0\)"
PACED = r"ticks (\d+) = published \d+ \+ skipped \(late \d+, overrun \d+, invalid 0\)"
NO_TENSORRT = r"^clcr-stream: error: tensorrt cannot be imported .*; use --backend onnxruntime, or see docs/jetson.md$"
DOCTOR = r"ok   bundle: .*default, 8 files verified[^\n]*\nok   backend: onnxruntime: all engines run and repeat"
SUITE = Options("this is the suite that runs here")
TRAIN = ByTest("tests/model/test_train.py::test_the_command_trains_stops_with_its_code_and_reports_errors_in_one_line")
FACES = ByTest(
    "tests/model/test_face_training.py::test_the_command_trains_a_face_network_and_refuses_what_is_not_for_one"
)
WORDS = ByTest("tests/model/test_words_training.py::test_the_command_trains_and_refuses_what_is_not_for_words")
FOLDS = ByTest("tests/model/test_folds.py::test_the_command_says_that_a_stopped_fold_is_incomplete")
EVALUATE = ByTest(
    "tests/model/test_evaluate.py::test_the_command_writes_json_prints_a_table_and_refuses_unknown_subsets"
)
SCORE = ByTest(
    "tests/model/test_scoring.py::test_the_command_scores_a_bundle_and_tells_of_every_clip_that_it_could_not"
)
REPORT = ByTest("tests/cli/test_recordings.py::test_a_report_of_a_clip_a_recording_and_of_lines_say_the_same")
REPLAY = ByTest("tests/cli/test_recordings.py::test_a_replay_gives_the_same_predictions_and_another_gamma_gives_a_diff")
PREDICT = ByTest(
    "tests/cli/test_recordings.py::test_files_are_predicted_with_one_set_of_engines_and_a_bad_one_does_not_stop_the_rest"
)
CALIBRATE = ByTest("tests/streams/test_profile.py::test_the_command_calibrates_once_and_knows_the_person_next_time")
REQUIRED = ByTest("tests/streams/test_required.py::test_the_command_ends_with_its_own_code_and_says_what_is_missing")
EXPORT = ByTest("tests/export/test_export.py::test_the_command_writes_a_bundle_and_says_what_it_proved")
LOWER = ByTest("tests/export/test_precision.py::test_wrong_arguments_are_one_line_and_exit_code_2")
PEERS = ByTest("tests/tools/test_bench_tools.py::test_peers_agree_and_their_ratios_follow_from_their_figures")
PREPARE = ByTest("tests/model/test_data.py::test_the_command_prepares_and_reports_or_says_what_is_wrong")
DEVELOPMENT_DATA = Options("needs the development data, which are not part of the repository")
CURVE = ByTest("tests/wire/test_keys.py::test_the_documented_commands_open_an_endpoint_until_the_key_is_revoked")
METRICS = ByTest("tests/metrics/test_gauges.py::test_a_session_serves_its_metrics_and_logs_lines_of_json")
JETSON = Foreign("JetPack's own program, on a Jetson")
INSTALLS = Foreign("installs packages")

PROOFS: dict[str, Proof] = {
    # README.md, CONTRIBUTING.md
    "scripts/demo": ByTest("tests/repository/test_documents.py::test_the_demo_prints_a_line_of_every_kind"),
    "scripts/test": SUITE,
    "scripts/test faults": SUITE,
    "scripts/check": Options("runs before this suite in .ci/run"),
    ".ci/run": SUITE,
    'scripts/test -m "not slow"': ByTest(
        "tests/repository/test_documents.py::test_the_selections_of_tests_that_documents_show_select_some"
    ),
    "scripts/test tests/window/test_ring.py -x": ByTest(
        "tests/repository/test_documents.py::test_the_selections_of_tests_that_documents_show_select_some"
    ),
    "python tools/docs/picture.py": Options("draws README's picture; its lines are compared by another test here"),
    "python examples/subscribe.py ipc:///tmp/clcr-stream-$UID/default.sock": Run(
        r"^\d+ \w+ .*age \d",
        session="default",
        lines=2,
        instead=(("ipc:///tmp/clcr-stream-$UID", "ipc://SOCKETS/clcr-stream"),),
    ),
    "python examples/subscribe.py ipc:///tmp/clcr-stream-$(id -u)/default.sock": Run(
        r"^\d+ \w+ .*age \d",
        session="default",
        lines=2,
        instead=(("ipc:///tmp/clcr-stream-$(id -u)", "ipc://SOCKETS/clcr-stream"),),
    ),
    "clcr-stream": Options("needs a camera; tests/sources and tests/streams run it on stand-ins"),
    "clcr-stream --input talk.mp4 --transcript talk.srt --pace max --output talk.jsonl": Run(SUMMARY),
    "clcr-stream --camera rtsp://host/stream --mic none --bind tcp://127.0.0.1:5556": Options(
        "needs a network camera; tests/sources/test_network_camera.py runs one"
    ),
    "clcr-stream sub": Run(r"^[^\n]*\d\.\d\d", session="default", lines=2),
    "clcr-stream doctor": Run(DOCTOR),
    # docs/guide.md
    "clcr-stream --help": Run(r"examples:(.|\n)*exit codes"),
    'pip install -e ".[asr]"': INSTALLS,
    "clcr-stream models --check": Run(r"^tiny\.en +\d+ MB .* works$"),
    'clcr-stream --input "test://?voice=espeak&seconds=20"': ByTest(
        "tests/sources/test_speech_whisper.py::test_the_command_hears_what_the_drawn_person_says"
    ),
    "python tools/bench_speech.py --labels labels.csv --media clips --foreign folder --json speech.json": ByTest(
        "tests/tools/test_bench_speech.py::test_the_command_measures_clips_silence_noise_and_music"
    ),
    "clcr-stream --record talk.mcap": Options("needs a camera; the guide's line runs on a clip"),
    "clcr-stream predict talk.mp4 other.mp4": PREDICT,
    "clcr-stream predict talk.mp4 other.mp4 --csv answers.csv": PREDICT,
    "clcr-stream report --input talk.mp4 --out talk.html": REPORT,
    "clcr-stream report --input talk.mp4 --transcript talk.srt --out talk.html": REPORT,
    "clcr-stream --input talk.mp4 --transcript talk.srt --pace max --record talk.mcap --record-media": ByTest(
        "tests/recording/test_recorder.py::test_media_is_recorded_only_when_asked_for_and_then_said_even_with_quiet"
    ),
    "clcr-stream replay talk.mcap": REPLAY,
    "clcr-stream replay talk.mcap --gamma 0 --json": REPLAY,
    "clcr-stream export talk.mcap --parquet talk.parquet": ByTest(
        "tests/cli/test_recordings.py::"
        "test_a_table_as_parquet_holds_numbers_as_numbers_and_nothing_for_what_is_not_known"
    ),
    "clcr-stream export talk.mcap --csv talk.csv": ByTest(
        "tests/cli/test_recordings.py::test_a_table_has_a_row_for_each_prediction"
    ),
    "clcr-stream report talk.mcap --out talk.html": REPORT,
    "clcr-stream report talk.mcap --png talk.png": ByTest(
        "tests/recording/test_poster.py::test_the_command_draws_the_picture_beside_the_page_and_never_over_a_file"
    ),
    "clcr-stream devices": Run(r"^camera +\S(.|\n)*^microphone +\S"),
    "clcr-stream --camera 0 --mic default": Options("needs a camera and a microphone"),
    "clcr-stream --camera 0 --mic default &": Options("needs a camera and a microphone"),
    "clcr-stream --input test:// --pace real --duration 10": Run(PACED, instead=(("10", "1"),)),
    'clcr-stream --input "test://?seconds=10&emotion=happy" --pace max': Run(
        SUMMARY.replace(r"(\d+)", "(5)"), instead=(("=10", "=1"),)
    ),
    "clcr-stream --input talk.mp4 --start 1 --end 2.5 --pace max": Run(SUMMARY),
    "clcr-stream --input - --pace max <talk.mkv": Options("reads a pipe; tests/sources/test_playback.py reads one"),
    "clcr-stream --camera 0 --rotate 90 --region 0.25,0,0.5,1": Options("needs a camera"),
    "clcr-stream --require vision,acoustic": REQUIRED,
    "clcr-stream --require acoustic --require-s 3 --require-action alert": REQUIRED,
    "clcr-stream --calibrate 10": CALIBRATE,
    "clcr-stream --calibrate 10 --profile me.profile": CALIBRATE,
    "clcr-stream --profile me.profile": CALIBRATE,
    "clcr-stream --config configs/two_cameras.yaml": ByTest(
        "tests/cli/test_config.py::test_the_shipped_files_name_every_key_of_a_stream"
    ),
    "clcr-stream top": Run(r"^default: +\d+\.\d s +(\w+ +\d\.\d\d|no input)", session="default", lines=14),
    "clcr-stream view": Run(r"^http://127\.0\.0\.1:\d+/#token=[\w-]{32}$", session="default", lines=1),
    "clcr-stream view left right --port 8420": ByTest(
        "tests/dashboard/test_server.py::test_the_command_prints_its_url_serves_and_ends_within_seconds_while_pages_are_open"
    ),
    "python tools/docs/watching.py": Options("draws the guide's pictures, in two minutes and with a browser"),
    "clcr-stream top left right --marks moments.jsonl": ByTest(
        "tests/cli/test_top.py::test_a_mark_is_a_line_of_json_in_the_file_that_was_named"
    ),
    "clcr-stream sub --stream left": Run(r"^[^\n]*\d\.\d\d", session="left", lines=2),
    "clcr-stream sub --count 1 --timeout 5 --json": Run(r'^\{.*"type": ?"prediction".*\}$', session="default"),
    'clcr-stream sub --where "label != neutral and confidence > 0.6"': Run(
        r"^[^\n]*\d\.\d\d", session="default", lines=1, instead=(("label != neutral and confidence > 0.6", "seq > 1"),)
    ),
    "clcr-stream sub --every --csv --count 50": Run(
        r"^seq,published_ns,label(.|\n)*^\d+,\d+,", session="default", instead=(("50", "2"),)
    ),
    "clcr-stream sub --table --fields seq,label,confidence,modalities.vision.quality,age_ms": Run(
        r"^seq +label +confidence +modalities\.vision\.quality +age_ms$\n^\d+ +\w", session="default", lines=2
    ),
    "clcr-stream ps": Run(r"^NAME +PID .*\n^default +\d+ +\d", session="default"),
    "clcr-stream stop left": ByTest("tests/cli/test_ps.py::test_a_session_is_listed_and_stopped_by_its_name"),
    "clcr-stream completion bash": Run(r"^complete .* clcr-stream$"),
    **dict.fromkeys(("clcr-stream --metrics 9464", "clcr-stream --log-format json"), METRICS),
    "python examples/asyncio_reader.py": ByTest(
        "tests/examples/test_examples.py::test_an_asyncio_program_reads_words_and_predictions_beside_its_work"
    ),
    "python examples/pan_tilt.py": ByTest(
        "tests/examples/test_examples.py::test_a_head_moves_only_for_a_fresh_confident_undegraded_prediction"
    ),
    "python examples/mqtt_bridge.py --broker 127.0.0.1": ByTest(
        "tests/examples/test_examples.py::test_home_assistant_finds_a_session_on_a_real_broker_and_sees_it_go"
    ),
    "clcr-stream build": Run(NO_TENSORRT, code=5),
    "clcr-stream --config configs/default.yaml --input test:// --duration 5": Run(PACED, instead=(("5", "1"),)),
    "clcr-train --help": Run("(?i)examples|usage"),
    "clcr-export --help": Run(r"examples:(.|\n)*exit codes"),
    "clcr-stream doctor --bundle engines/default": Run(DOCTOR),
    # docs/gpu.md, docs/jetson.md
    "clcr-stream --backend tensorrt": Run(
        NO_TENSORRT, code=5, instead=(("tensorrt", "tensorrt --camera test:// --mic none --stream gpu"),)
    ),
    "clcr-stream build --builderOptimizationLevel=5 --memPoolSize=workspace:1024": Run(NO_TENSORRT, code=5),
    "python3 tools/gpu_check.py --json gpu.json": ByTest(
        "tests/tools/test_gpu_tools.py::test_without_a_gpu_it_is_one_line_and_exit_code_4"
    ),
    "python tools/gpu_check.py --quick --json gpu.json": Options("needs a GPU"),
    "python3 tools/gpu/offline_trt86.py --work /tmp/trt86 --out /tmp/trt86/parts": Options("downloads 1.7 GB"),
    "python3 parts/unpack.py /opt/trt86": ByTest(
        "tests/tools/test_gpu_tools.py::test_the_bundle_s_parts_unpack_to_the_same_folder"
    ),
    "/opt/trt86/python tools/gpu/contract.py": Foreign("the Python of that folder, on a GPU machine"),
    "/opt/trt86/python tools/gpu_check.py --merged merged.onnx --json gpu_trt.json": Foreign("the same"),
    "python3 tools/gpu_check.py --only torch --json gpu_torch.json": Options("needs a GPU"),
    "python tools/gpu/merge.py merged.onnx": Run("^$"),
    "python tools/gpu/contract.py": Run(r"cannot be imported|No module named 'tensorrt'", code=4),
    'python -c "import tensorrt, pycuda.driver; print(tensorrt.__version__)"': Foreign("NVIDIA's packages"),
    "sudo apt-get update": INSTALLS,
    "sudo apt-get install -y nvidia-jetpack python3-venv python3-dev build-essential": INSTALLS,
    "python3 -m venv --system-site-packages .venv": INSTALLS,
    "pip install -e .": INSTALLS,
    'pip install pycuda "cuda-bindings==12.*"': INSTALLS,
    "export PATH=/usr/local/cuda/bin:$PATH CPATH=/usr/local/cuda/include LIBRARY_PATH=/usr/local/cuda/lib64": JETSON,
    "sudo nvpmodel -q": JETSON,
    "sudo nvpmodel -m 0": JETSON,
    "sudo jetson_clocks": JETSON,
    "sudo tegrastats": JETSON,
    # docs/export.md
    "clcr-export runs/mean -o engines/mine": EXPORT,
    "clcr-export runs/mean -o engines/mine --licences TERMS.txt": EXPORT,
    "clcr-export runs/mean -o engines/mine --json": EXPORT,
    "clcr-stream --bundle engines/mine --camera 0 --mic default": Options("needs a camera and a microphone"),
    "clcr-export runs/mean -o engines/half --precision fp16 "
    "--evaluate cache/packs/javased_av_whisper cache/packs/meld": LOWER,
    "clcr-export runs/mean -o engines/int8 --precision int8 "
    "--evaluate cache/packs/javased_av_whisper cache/packs/meld "
    "--calibration cache/packs/javased_av_whisper cache/packs/goemotions": LOWER,
    """python -c 'import json; proof = json.load(open("engines/default/manifest.json"))["provenance"]["proof"]; """
    """print(json.dumps(proof, indent=1))'""": Run(r'"chained": \{\s+"intercad.probs": \d'),
    # docs/training.md, docs/data.md, docs/model_card.md
    "clcr-train configs/faces.yaml --run runs/faces --threads 1": FACES,
    "clcr-train configs/faces_longer.yaml --run runs/faces_longer --threads 1": FACES,
    "clcr-train configs/words.yaml --run runs/words_alone --threads 1": WORDS,
    "clcr-train configs/train_small.yaml --run runs/small --threads 1": TRAIN,
    "clcr-train configs/train_base.yaml --run runs/base --threads 1": TRAIN,
    "clcr-train configs/train_base.yaml --run runs/base --threads 1 --resume": TRAIN,
    "clcr-train configs/train_base.yaml --run runs/base": TRAIN,
    "clcr-train configs/train_base.yaml --run runs/folds --steps 450 --folds 4 "
    "--pack cache/packs/{javased_av,javased_audio,ravdess,emodb,nemo,ased}_whisper": FOLDS,
    "clcr-eval checkpoints/default --pack cache/packs/mosi_plain_whisper --subsets V,A,VA "
    "--json docs/results/plain_talk/version_9.json": EVALUATE,
    "clcr-eval runs/mean --pack cache/packs/javased_av_whisper cache/packs/ravdess_whisper "
    "--json scores.json --plots plots/": EVALUATE,
    "clcr-eval checkpoints/default --pack cache/packs/javased_av_whisper ... "
    "--json docs/results/default.json": EVALUATE,
    "clcr-train configs/train_films.yaml --run runs/films --init runs/base/final": TRAIN,
    "clcr-train configs/faces_films.yaml --run runs/faces_films --threads 1": FACES,
    "clcr-train configs/faces_films.yaml --run runs/films_without_01_06 --leave-out javased/01 javased/06 "
    "--threads 1": ByTest(
        "tests/model/test_face_training.py::test_people_who_are_left_out_are_not_trained_on_and_are_the_ones_scored"
    ),
    "python tools/data/average.py checkpoints/faces runs/films_without_01_06/final "
    "runs/faces_mean_without_01_06": ByTest(
        "tests/model/test_face_training.py::test_a_mean_of_face_networks_knows_the_people_of_both"
    ),
    "python tools/data/average.py checkpoints/faces runs/faces_films/final runs/faces_mean": ByTest(
        "tests/tools/test_average.py::test_two_face_networks_have_a_mean_that_a_recipe_can_begin_with"
    ),
    "python tools/data/average.py runs/films/final runs/base/final runs/mean": ByTest(
        "tests/tools/test_average.py::test_weights_are_the_mean_and_both_trainings_stay_known"
    ),
    "clcr-eval checkpoints/default --hold 6 --pack cache/packs/{ferplus,faces_people,fer2013,ckplus} "
    "--json docs/results/default_held_6_s.json": ByTest(
        "tests/model/test_evaluate.py::test_a_photograph_held_for_seconds_is_scored_as_the_film_it_is"
    ),
    "clcr-eval checkpoints/default --pairs 600 --nothing cache/packs/nothing_whisper --json pairs.json "
    "--pack cache/packs/{ferplus,faces_people,javased_av_whisper,ravdess_whisper,emodb_whisper,nemo_whisper,"
    "ased_whisper,goemotions,meld}": ByTest(
        "tests/model/test_evaluate.py::test_pairs_are_scored_beside_their_branches_and_with_a_corrupted_modality"
    ),
    "python tools/data/nothing.py --manifests cache/manifests --out cache/nothing": ByTest(
        "tests/tools/test_nothing.py::test_the_command_writes_a_set_that_is_prepared_as_others_are"
    ),
    "python -m clcr.training.data.prepare cache/nothing/nothing.csv --media-root cache/nothing "
    "--acoustic-encoder whisper": ByTest(
        "tests/tools/test_nothing.py::test_the_command_writes_a_set_that_is_prepared_as_others_are"
    ),
    "clcr-eval runs/mean --fit-temperature --pairs 600 "
    "--pack cache/packs/{javased_av,ravdess,emodb,nemo,ased,emogator}_whisper "
    "cache/packs/{ferplus,faces_people,ckplus,goemotions,goemotions_spoken,meld,meld_spoken}": ByTest(
        "tests/model/test_evaluate.py::"
        "test_temperatures_are_stored_by_subset_and_people_they_were_fitted_on_have_those_of_others"
    ),
    "python tools/data/ship_checkpoint.py runs/mean checkpoints/default": ByTest(
        "tests/tools/test_ship_checkpoint.py::test_what_ships_is_smaller_and_loads_as_an_export_rounds_the_original"
    ),
    "clcr-eval --bundle engines/default --manifest my.csv --media-root /data --split test --subsets V,A,VA "
    "--json scores.json --plots plots/": SCORE,
    "clcr-eval --bundle engines/default --limit 500 --json docs/results/bundle/default.json "
    "--manifest cache/manifests/{javased_av,ravdess,emodb,fer2013,goemotions}.csv "
    "--media-root ../shared/data/{javased,audio,audio} cache/manifests ../shared/data/text": DEVELOPMENT_DATA,
    "clcr-eval --bundle engines/default --limit 500 --json docs/results/bundle/default_others.json "
    "--manifest cache/manifests/{nemo,ased,emospeech,emogator,meld,ckplus}.csv "
    "--media-root ../shared/data/{nemo,ased,emospeech,emogator,text,faces}": DEVELOPMENT_DATA,
    "clcr-eval --bundle engines/default --json docs/results/bundle/default_faces.json "
    "--manifest cache/manifests/{fer2013,ferplus,faces_people}.csv --media-root cache/manifests": DEVELOPMENT_DATA,
    "clcr-export checkpoints/default -o engines/default --licences docs/model_licences.txt": EXPORT,
    "clcr-export runs/mean -o engines/quick --window 2": ByTest(
        "tests/export/test_window.py::test_a_bundle_of_another_window_is_proved_and_says_so"
    ),
    "python -m clcr.training.data.prepare my.csv --media-root /data --cache cache/packs "
    "--tokenizer cache/tokenizer/tokenizer.json": PREPARE,
    "python tools/data/manifests.py --data ../shared/data --out cache/manifests --prepare": DEVELOPMENT_DATA,
    "python tools/data/manifests.py --data ../shared/data --out cache/manifests --prepare "
    "--only ravdess": DEVELOPMENT_DATA,
    "python tools/data/changed.py --manifest cache/manifests/ravdess.csv --media-root ../shared/data/audio "
    "--out cache/changed": ByTest(
        "tests/tools/test_changed.py::test_the_command_writes_sounds_and_manifests_that_the_others_read"
    ),
    "clcr-eval --bundle engines/default --manifest cache/changed/ravdess_room.csv cache/changed/ravdess_quiet.csv "
    "--media-root cache/changed": SCORE,
    "clcr-eval --bundle engines/default --manifest my.csv --media-root /data --by-time --joined 6 "
    "--people people.csv --json live.json": ByTest(
        "tests/model/test_scoring_times.py::test_the_command_scores_by_time_joined_clips_and_groups"
    ),
    "python tools/data/changed.py --manifest my.csv --media-root /data --out changed --changes dark,far,mask": ByTest(
        "tests/tools/test_changed.py::test_a_changed_film_has_the_pictures_of_the_model_s_slots_and_the_sound_as_it_is"
    ),
    "clcr-eval --bundle engines/default --manifest changed/my_{dark,far,mask}.csv --media-root changed "
    "--people people.csv --json changed.json": SCORE,
    "python tools/docs/live.py --measure times joined people changed": DEVELOPMENT_DATA,
    "python tools/docs/live.py --measure windows": DEVELOPMENT_DATA,
    "python tools/docs/live.py": ByTest("tests/tools/test_live.py::test_the_page_is_up_to_date_with_what_is_stored"),
    "python tools/data/face_sets.py --data ../shared/data --out cache/faces": ByTest(
        "tests/model/test_face_training.py::test_the_development_sets_are_written_with_their_splits"
    ),
    "python tools/data/text_sets.py --data ../shared/data --out cache/texts": ByTest(
        "tests/model/test_words_training.py::test_the_development_sets_have_the_rows_of_the_manifests_and_every_finer_label"
    ),
    # docs/open.md
    "clcr-stream --bundle engines/open": Options("needs a camera and a microphone"),
    "python tools/data/manifests.py --data ../shared/data --out cache/open/manifests --words goemotions --prepare "
    "--only javased_av javased_audio emogator goemotions goemotions_spoken": DEVELOPMENT_DATA,
    "python tools/data/nothing.py --manifests cache/open/manifests --out cache/open/nothing --no-faces": ByTest(
        "tests/tools/test_nothing.py::test_without_real_faces_no_set_of_faces_is_needed"
    ),
    "python -m clcr.training.data.prepare cache/open/nothing/nothing.csv --media-root cache/open/nothing "
    "--cache cache/open/packs --tokenizer cache/open/tokenizer/tokenizer.json --acoustic-encoder whisper": ByTest(
        "tests/tools/test_nothing.py::test_the_command_writes_a_set_that_is_prepared_as_others_are"
    ),
    "python tools/data/face_sets.py --data ../shared/data --out cache/faces --sets javased": ByTest(
        "tests/model/test_face_training.py::test_the_development_sets_are_written_with_their_splits"
    ),
    "clcr-train configs/open/faces.yaml --run runs/open/faces --threads 1": FACES,
    "clcr-train configs/open/train.yaml --run runs/open/train --threads 1": TRAIN,
    "clcr-train configs/open/words.yaml --run runs/open/words --init runs/open/train/final": TRAIN,
    "clcr-eval runs/open/words/final --fit-temperature --pairs 300 --pack "
    "cache/open/packs/{javased_av,javased_audio}_whisper cache/open/packs/{goemotions,goemotions_spoken}": ByTest(
        "tests/model/test_evaluate.py::"
        "test_temperatures_are_stored_by_subset_and_people_they_were_fitted_on_have_those_of_others"
    ),
    "clcr-export runs/open/words/final -o engines/open --licences docs/open_licences.txt": EXPORT,
    # docs/sentiment.md
    "clcr-stream --bundle engines/sentiment": Options("needs a camera and a microphone"),
    "clcr-stream --bundle engines/sentiment --camera 0 --mic default": Options("needs a camera and a microphone"),
    "clcr-stream --bundle engines/sentiment --input talk.mp4 --transcript talk.srt": Run(PACED),
    "python tools/data/manifests.py --data ../shared/data --out cache/manifests --prepare "
    "--only mosi mosi_text goemotions_sentiment": DEVELOPMENT_DATA,
    "clcr-train configs/train_sentiment_words.yaml --run runs/sentiment_words --init checkpoints/default": TRAIN,
    "clcr-train configs/train_sentiment.yaml --run runs/sentiment --init runs/sentiment_words/final": TRAIN,
    "clcr-train configs/train_sentiment.yaml --run runs/sentiment_folds --init runs/sentiment_words/final "
    "--folds 12 --pack cache/packs/mosi_whisper": FOLDS,
    "clcr-export runs/sentiment/final -o engines/sentiment --licences docs/sentiment_licences.txt": EXPORT,
    "clcr-eval runs/sentiment/final --pack cache/packs/{mosi_whisper,mosi_text,goemotions_sentiment} "
    "--json docs/results/sentiment.json": ByTest(
        "tests/model/test_evaluate.py::test_a_regression_is_reported_by_its_values_and_against_its_branches"
    ),
    "python tools/docs/sentiment_card.py": ByTest(
        "tests/bundle/test_sentiment.py::test_the_tables_of_the_document_are_those_of_the_results"
    ),
    # docs/proof.md, docs/benchmarks.md, tools/README.md
    "python tools/prove.py": Options("two minutes of tests that are part of this suite"),
    "python tools/bench_peers.py": PEERS,
    "python tools/bench_peers.py --front-end resnet18": PEERS,
    "python tools/bench_peers.py --sweep": Options("half an hour; tests/tools/test_bench_parts.py has its parts"),
    "python tools/bench_latency.py": ByTest(
        "tests/tools/test_bench_tools.py::test_latency_measures_every_stage_cold_start_idle_memory_and_cpu"
    ),
    "python tools/bench_streams.py": ByTest(
        "tests/tools/test_bench_tools.py::test_streams_finds_a_number_and_every_probe_says_why"
    ),
    "python tools/bench_beside.py": ByTest(
        "tests/tools/test_bench_tools.py::test_beside_runs_a_session_with_each_thing_beside_it_and_compares"
    ),
    "python tools/bench_bus.py": ByTest(
        "tests/tools/test_bench_tools.py::test_bus_times_readers_in_other_processes_beside_one_that_is_stopped"
    ),
    "python tools/soak.py --ticks 1000000 --json docs/benchmarks/soak.json": ByTest(
        "tests/tools/test_soak.py::test_a_short_soak_publishes_every_tick_of_streams_that_come_and_go"
    ),
    "python tools/soak.py --view 121 --seed 2 --json docs/benchmarks/soak_view.json": ByTest(
        "tests/tools/test_soak_view.py::test_a_short_soak_tells_the_page_of_the_predictions"
    ),
    "python tools/soak.py --faults 6 --seed 1": ByTest(
        "tests/tools/test_soak_faults.py::test_a_short_soak_befalls_a_session_that_accounts_for_all_of_it"
    ),
    "python tools/fuzz.py --seconds 600 --seed 1": ByTest(
        "tests/tools/test_fuzz.py::test_every_decoder_answers_or_raises_its_documented_error"
    ),
    "python tools/checks/sizes.py": Run("^$"),
    "python tools/checks/imports.py": Run("^$"),
    # docs/wire.md
    **dict.fromkeys(
        (
            *("clcr-stream keys new server", "clcr-stream keys new reader", "clcr-stream keys allow reader"),
            "clcr-stream --bind tcp://0.0.0.0:5556 --curve-secret server",
            "clcr-stream sub tcp://HOST:5556 --curve-secret reader --curve-server server",
            *("clcr-stream keys list", "clcr-stream keys revoke reader"),
        ),
        CURVE,
    ),
}
